"""Holds the heads against scikit-learn, and shows that a fold's own images have no say in its head."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from folds.split.assign import Folds
from models.probe.heads import STRENGTHS, fit_heads, inner_splits, lowest_strength
from models.probe.logistic import Logistic


def small_problem(n=200, n_features=12, n_classes=4, *, seed=0):
    """Features of different lengths (n, D) around class centres, and targets (n,)."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, n_classes, n)
    centres = rng.normal(0, 1.5, (n_classes, n_features))
    scale = rng.uniform(0.2, 3, n_features)
    features = (centres[target] + rng.normal(0, 1.5, (n, n_features))) * scale + 5
    return torch.tensor(features, dtype=torch.float32), torch.tensor(target)


def small_folds(target, *, n_folds=3, n_classes=4):
    n = len(target)
    names = np.array([f"{i:04d}" for i in range(n)])
    return Folds(
        image_id=names,
        path=names,
        label=target.numpy().astype(str),
        target=target.numpy(),
        fold=np.arange(n) % n_folds,
        group=np.arange(n),
        classes=tuple(str(c) for c in range(n_classes)),
        n_folds=n_folds,
        seed=0,
        digest="small",
    )


def of_rows(features):
    return lambda rows: features[torch.from_numpy(rows)].clone()


def bytes_of(head):
    return head.weight.numpy().tobytes(), head.bias.numpy().tobytes()


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_a_head_is_scikit_learns_optimum(strength):
    features, target = small_problem()
    scale = float((features - features.mean(0)).square().mean().sqrt())
    fitted = LogisticRegression(C=1 / (strength * 12), tol=1e-7, max_iter=5000).fit(features / scale, target)
    head = Logistic(features.clone(), target, n_classes=4).fit(strength, tolerance=1e-6)
    theirs = fitted.predict_proba(features / scale)
    np.testing.assert_allclose(head.log_probs(features).exp().numpy(), theirs, atol=5e-4)
    np.testing.assert_allclose((head.weight * scale).numpy(), fitted.coef_, atol=2e-3)


def test_where_a_fit_starts_makes_no_difference():
    features, target = small_problem()
    problem = Logistic(features.clone(), target, n_classes=4)
    far = problem.fit(0.001)
    one, other = problem.fit(0.1, tolerance=1e-5), problem.fit(0.1, start=far, tolerance=1e-5)
    torch.testing.assert_close(one.log_probs(features).exp(), other.log_probs(features).exp(), atol=1e-3, rtol=0)


def test_a_class_without_images_gets_the_probability_of_half_an_image():
    features, target = small_problem()
    head = Logistic(features.clone(), target, n_classes=6).fit(0.1)
    probs = head.log_probs(features).exp().numpy()
    assert np.isfinite(probs).all()
    assert 0.1 / 200 < probs[:, 4:].mean() < 2 / 200
    assert np.argmax(probs, axis=1).max() < 4


def test_constant_and_repeated_features_are_no_obstacle():
    features, target = small_problem()
    features = torch.cat([features, features, torch.ones(200, 3)], dim=1)
    head = Logistic(features.clone(), target, n_classes=4).fit(0.01)
    assert (head.log_probs(features).argmax(1) == target).float().mean() > 0.8


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_a_folds_own_images_and_labels_have_no_say_in_its_head(n_folds):
    features, target = small_problem()
    folds = small_folds(target, n_folds=n_folds)
    before = fit_heads(of_rows(features), folds)
    for k in range(n_folds):
        own = folds.fold == k
        changed, labels = features.clone(), folds.target.copy()
        changed[torch.from_numpy(own)] *= -7
        labels[own] = 0
        after = fit_heads(of_rows(changed), dataclasses.replace(folds, target=labels))
        assert bytes_of(after.heads[k]) == bytes_of(before.heads[k])
        assert after.strengths[k] == before.strengths[k]
        others = [j for j in range(n_folds) if j != k]
        assert all(bytes_of(after.heads[j]) != bytes_of(before.heads[j]) for j in others)


def test_the_same_features_give_the_same_bytes():
    features, target = small_problem()
    one, two = (fit_heads(of_rows(features), small_folds(target)) for _ in range(2))
    assert [bytes_of(head) for head in one.heads] == [bytes_of(head) for head in two.heads]
    assert one.strengths == two.strengths


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_inner_splits_train_and_judge_inside_the_training_part_only(n_folds):
    fold, group = np.arange(60) % n_folds, np.arange(60) // n_folds
    splits = inner_splits(fold, group, n_folds=n_folds)
    assert {k for split in splits for k in split.valid} == set(range(n_folds))
    for split in splits:
        for k, valid in split.valid.items():
            assert k not in fold[split.train]
            assert k not in fold[valid]
            assert not set(group[split.train][fold[split.train] == fold[valid[0]]]) & set(group[valid])
            assert not set(split.train.tolist()) & set(valid.tolist())


def test_noise_gets_a_stronger_penalty_than_clear_classes():
    features, target = small_problem(n=300)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    clear = fit_heads(of_rows(features), small_folds(target)).strengths
    assert max(clear) < min(fit_heads(of_rows(noise), small_folds(target)).strengths)


def test_the_strength_lies_at_the_bottom_of_the_parabola():
    at = np.log(STRENGTHS[:4])
    bottom = np.log(0.4)  # between the second and the third
    assert lowest_strength(list((at - bottom) ** 2)) == pytest.approx(0.4)
    assert lowest_strength([1.0, 2.0]) == STRENGTHS[0]
    assert lowest_strength([3.0, 2.0, 1.0]) == STRENGTHS[2]
