import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from folds.split.stratify import stratified_group_folds


def images(rng, *, n, n_classes, per_group):
    """Targets with a long tail and groups of about `per_group` images, whose numbers have gaps."""
    share = np.arange(1, n_classes + 1) ** -rng.uniform(0, 1.5)
    target = np.unique(rng.choice(n_classes, n, p=share / share.sum()), return_inverse=True)[1]
    return target, 7 * rng.integers(0, max(int(n / per_group), 10), n)


def reference(target, group, *, n_folds, seed):
    fold = np.full(len(target), -1)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for k, (_, rows) in enumerate(splitter.split(fold, target, group)):
            fold[rows] = k
    return fold


@pytest.mark.parametrize("seed", range(12))
def test_the_folds_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n_folds = 2 + seed % 7
    target, group = images(rng, n=600, n_classes=2 + 11 * seed, per_group=(0.3, 1, 3)[seed % 3])
    ours = stratified_group_folds(target, group, n_folds=n_folds, seed=seed)
    assert ours.tolist() == reference(target, group, n_folds=n_folds, seed=seed).tolist()


def test_each_class_is_spread_as_evenly_as_can_be_where_every_image_is_its_own_group():
    target, _ = images(np.random.default_rng(0), n=3000, n_classes=50, per_group=1)
    fold = stratified_group_folds(target, np.arange(3000), n_folds=5, seed=0)
    counts = np.stack([np.bincount(target[fold == k], minlength=target.max() + 1) for k in range(5)])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() == 1


def test_a_group_is_never_cut():
    target, group = images(np.random.default_rng(1), n=3000, n_classes=50, per_group=4)
    fold = stratified_group_folds(target, group, n_folds=5, seed=0)
    assert all(len(set(fold[group == one])) == 1 for one in set(group.tolist()))
