import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from folds.split.assign import stratified_group_folds


def images(rng, *, n, n_classes, per_group):
    """Targets with a long tail and groups of about `per_group` images, whose numbers have gaps."""
    share = np.arange(1, n_classes + 1) ** -rng.uniform(0, 1.5)
    target = np.unique(rng.choice(n_classes, n, p=share / share.sum()), return_inverse=True)[1]
    return target, 7 * rng.integers(0, max(int(n / per_group), 10), n)


def counts(target, fold, n_folds):
    """(K, C) images of each class in each fold."""
    return np.stack([np.bincount(target[fold == k], minlength=target.max() + 1) for k in range(n_folds)])


def sklearn_folds(target, group, *, n_folds, seed):
    fold = np.full(len(target), -1)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for k, (_, rows) in enumerate(splitter.split(fold, target, group)):
            fold[rows] = k
    return fold


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_whole_and_the_balance_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n_folds = 2 + seed % 7
    target, group = images(rng, n=600, n_classes=2 + 11 * seed, per_group=(0.3, 1, 3)[seed % 3])
    fold = stratified_group_folds(target, group, n_folds=n_folds, seed=seed)
    assert all(len(set(fold[group == one])) == 1 for one in set(group.tolist()))
    ours = counts(target, fold, n_folds)
    theirs = counts(target, sklearn_folds(target, group, n_folds=n_folds, seed=seed), n_folds)
    unevenness = [np.std(one / np.bincount(target), axis=0).mean() for one in (ours, theirs)]
    assert unevenness[0] <= 1.05 * unevenness[1]
    assert np.ptp(ours.sum(axis=1)) <= 4  # images between the smallest and the largest fold


@pytest.mark.parametrize("n_folds", [2, 5, 7])
def test_where_every_image_is_its_own_group_classes_and_folds_differ_by_one_image(n_folds):
    target, _ = images(np.random.default_rng(0), n=3000, n_classes=50, per_group=1)
    found = counts(target, stratified_group_folds(target, np.arange(3000), n_folds=n_folds, seed=0), n_folds)
    assert np.ptp(found, axis=0).max() == 1
    assert np.ptp(found.sum(axis=1)) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_no_fold_stays_empty_where_there_are_as_many_groups(seed):
    rng = np.random.default_rng(seed)
    target, group = rng.integers(0, 3, 60), np.concatenate([rng.permutation(7), rng.integers(0, 7, 53)])
    target[:3] = 0, 1, 2
    assert set(stratified_group_folds(target, group, n_folds=7, seed=seed).tolist()) == set(range(7))


@pytest.mark.parametrize("per_group", [10, 30, 60])
def test_large_groups_such_as_patients_leave_the_balance_of_scikit_learn(per_group):
    ratios = []
    for seed in range(6):
        target, group = images(np.random.default_rng(seed), n=3000, n_classes=2 + 5 * seed, per_group=per_group)
        fold = stratified_group_folds(target, group, n_folds=2 + seed, seed=seed)
        theirs = sklearn_folds(target, group, n_folds=2 + seed, seed=seed)
        assert all(len(set(fold[group == one])) == 1 for one in set(group.tolist()))
        ours, theirs = (counts(target, one, 2 + seed) for one in (fold, theirs))
        ratios.append(np.std(ours, axis=0).sum() / max(np.std(theirs, axis=0).sum(), 1))
    assert np.mean(ratios) <= 1  # of its unevenness
