"""Holds the reduced objective against a stable sort of the whole blended matrix."""

from dataclasses import replace

import numpy as np
import pytest

from ensemble.weights.metric import Metric
from ensemble.weights.recipe import pool_scores
from ensemble.weights.reduction import Reduction, build_reduction


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members (M, N, C), targets (N,) and weights (4, M): half of the cases full of ties, some weights 0."""
    rng = np.random.default_rng(seed)
    n_members, n, n_classes = rng.integers(1, 6), rng.integers(1, 40), rng.integers(2, 10)
    probs = rng.dirichlet(np.full(n_classes, 0.5), size=(n_members, n))
    if seed % 4 == 1:
        probs = np.round(probs * 4) / 4  # exact ties, and sums that round alike
    if seed % 4 == 3:
        probs = np.where(rng.random(probs.shape) < 0.4, 0.1, np.round(probs, 1))  # tenths: sums that round differently
    if seed % 5 == 0:
        probs[-1] = probs[0]
    drawn, equal = rng.dirichlet(np.ones(n_members), size=2), np.full(n_members, 1 / n_members)
    weights = np.vstack([drawn, equal, np.eye(n_members)[0]])
    return probs.astype([np.float32, np.float64][seed % 2]), rng.integers(0, n_classes, n), weights


def reduced(probs: np.ndarray, target: np.ndarray, steps: np.ndarray) -> Reduction:
    n, size = len(target), max(len(target) // 3, 5)
    pieces = [(slice(start, min(start + size, n)), probs[:, start : start + size]) for start in range(0, n, size)]
    return build_reduction(pieces, target, steps=steps)


def sorted_ranks(probs: np.ndarray, target: np.ndarray, weights: np.ndarray, pool: str) -> np.ndarray:
    """The slow way: blend everything, sort stably, look where the true class stands."""
    blended = np.zeros(probs.shape[1:])
    for weight, member in zip(weights, probs, strict=True):
        blended += weight * pool_scores(member, pool)
    order = np.argsort(-blended, axis=1, kind="stable")
    return (order == target[:, None]).argmax(axis=1)


@pytest.mark.parametrize(("n_classes", "k"), [(300, 1), (300, 3), (300, 127), (600, 3)])
def test_more_rivals_ahead_than_a_byte_counts_are_a_miss(n_classes, k):
    n, rng = 100, np.random.default_rng(n_classes)
    probs = rng.dirichlet(np.full(n_classes, 0.5), size=(12, n)).astype(np.float32)  # too many contests to be pruned
    probs[:, ::3] = np.round(probs[:, ::3] * 500) / 500  # exact ties
    target = rng.integers(0, n_classes, n)
    steps = Metric("top-k-error", k).steps(n_classes)
    reduction = reduced(probs, target, steps)
    assert len(reduction.starts) > 256
    for weights in rng.dirichlet(np.ones(12), size=3):
        ranks = sorted_ranks(probs, target, weights, "mean")
        assert (ranks >= 256).any()
        misses = steps[np.minimum(ranks, k)]
        assert np.array_equal(reduction.outcomes(weights), misses)
        assert reduction.losses(weights[None])[0] == pytest.approx(misses.mean(), abs=1e-12)


@pytest.mark.parametrize("pool", ["mean", "log"])
@pytest.mark.parametrize("metric", [*(Metric("top-k-error", k) for k in (1, 2, 3, 4, 5)), Metric("map", 3)], ids=str)
def test_the_reduction_equals_a_stable_sort_with_planted_ties_and_so_does_a_subset(metric, pool):
    for seed in range(80):
        probs, target, weights = random_case(seed)
        steps = metric.steps(probs.shape[2])
        reduction = replace(reduced(probs, target, steps), pool=pool)
        rows = np.random.default_rng(seed).random(len(target)) < 0.6
        rows[0] = True
        for one, loss in zip(weights, reduction.losses(weights), strict=True):
            outcomes = steps[np.minimum(sorted_ranks(probs, target, one, pool), len(steps) - 1)]
            assert np.array_equal(reduction.outcomes(one), outcomes), seed
            assert np.array_equal(reduction.subset(rows).outcomes(one), outcomes[rows]), seed
            assert loss == pytest.approx(outcomes.mean(), abs=1e-12)


@pytest.mark.parametrize("weights", [[np.nan, 1.0], [np.inf, 1.0], [-0.1, 1.0], [0.0, 0.0]])
def test_weights_that_are_no_weights_are_a_bug(weights):
    probs = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 9))
    reduction = reduced(probs, np.zeros(9, int), Metric("top-k-error", 2).steps(4))
    with pytest.raises(AssertionError):
        reduction.losses(np.array([weights]))


def test_the_table_holds_only_what_weights_can_change():
    rng = np.random.default_rng(3)
    target = rng.integers(0, 30, 4000)
    probs = rng.dirichlet(np.full(30, 0.1), size=(3, 4000)).astype(np.float32)
    probs[:, np.arange(4000), target] += 1.0  # nearly always right
    reduction = reduced(probs, target, Metric("top-k-error", 3).steps(30))
    assert reduction.rival.nbytes + reduction.true.nbytes < 0.02 * probs.nbytes
