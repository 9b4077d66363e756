"""Holds the fits of weights against slow, general optimisers and against what was planted."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from scipy.optimize import minimize

from ensemble.members.members import load_members
from ensemble.settings import BlendSettings
from ensemble.weights.log_pool import BIAS_SD, WEIGHT_SHRINKAGE, fit_log_pools
from ensemble.weights.metric import Metric
from ensemble.weights.recipe import FLOOR, softmax
from ensemble.weights.reduction import build_reduction
from ensemble.weights.search import Search, best_on_line, descend, half_of_groups, start_weights
from ensemble.weights.simple import FitData, LogLoss, greedy_weights, log_loss_weights
from tests.ensemble.small import small_oof, write_small

NAMES = ("a", "b", "c", "d", "e")


def made(seed: int, *, n: int = 800, n_members: int = 5, n_classes: int = 12) -> tuple[FitData, np.ndarray, np.ndarray]:
    """What weights are fitted to, the probabilities (M, N, C) and the targets (N,)."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + 2.0 * rng.normal(size=(n_members, n, n_classes)) / 2
    logits[:, np.arange(n), target] += np.linspace(1.0, 2.2, n_members)[:, None]
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    steps, pieces = Metric("top-k-error", 3).steps(n_classes), [(slice(0, n), probs.astype(np.float32))]
    reduction = build_reduction(pieces, target, steps=steps)
    true_probs = probs[:, np.arange(n), target].astype(np.float32)
    return FitData(reduction, LogLoss(true_probs), np.arange(n)), probs, target


def test_log_loss_weights_are_those_of_a_general_optimiser_and_pass_their_certificate():
    true_probs = made(0)[0].log_loss.true_probs.astype(np.float64)
    weights = log_loss_weights(true_probs)
    general = minimize(
        lambda w: -np.log(w @ true_probs).mean(), np.full(5, 0.2), method="SLSQP", bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14},
    )  # fmt: skip
    mix = weights @ true_probs
    assert -np.log(mix).mean() <= general.fun + 1e-7
    assert weights.sum() == pytest.approx(1)
    assert (true_probs / mix).mean(axis=1).max() <= 1 + 1e-4  # Cover 1984: at the optimum no member has a mean above 1


@pytest.mark.parametrize("is_shared", [False, True], ids=["a weight for each member", "one weight for all"])
def test_log_probabilities_with_biases_are_those_of_a_general_optimiser(work, is_shared):
    members = load_members(work)
    score = np.log(members.stacked(slice(0, 600)).astype(np.float64) + FLOOR)
    if is_shared:
        score = score.mean(axis=0, keepdims=True)
    target, m = members.rows.target, len(score)

    def loss(point: np.ndarray, rows: np.ndarray) -> float:
        z = np.tensordot(point[:m], score[:, rows], 1) + point[m:]
        own = z[np.arange(len(z)), target[rows]]
        nll = (np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)) + z.max(axis=1) - own).mean()
        shrink = WEIGHT_SHRINKAGE / 2 * ((point[:m] - 1 / m) ** 2).sum()
        return float(nll + shrink + (point[m:] ** 2).sum() / (2 * BIAS_SD**2 * rows.sum()))

    parts, fits = [np.ones(600, bool), *(members.rows.fold != k for k in range(3))], fit_log_pools(members)
    for recipe, rows in zip(fits.shared if is_shared else fits.biased, parts, strict=True):
        weights = recipe.weights.sum(keepdims=True) if is_shared else recipe.weights
        assert len(np.unique(recipe.weights)) == m
        start = np.append(np.full(m, 1 / m), np.zeros(8))
        bounds = [(0, None)] * m + [(None, None)] * 8
        general = minimize(loss, start, args=(rows,), bounds=bounds, method="L-BFGS-B", options={"maxiter": 500})
        best = loss(np.append(general.x[:m], general.x[m:] - general.x[m:].mean()), rows)
        assert loss(np.append(weights, recipe.bias), rows) <= best + 1e-4


def test_a_log_pool_of_members_that_are_nearly_always_right_stopped_too_early(work, folds):
    """A step that gains less than 0.001 was the last, which was all of the loss."""
    rng = np.random.default_rng(0)
    for member in range(3):
        logits = rng.normal(size=(600, 8)) * 1.5
        logits[np.arange(600), folds.target] += 8
        write_small(work, folds, f"m0{member}", np.log(softmax(logits)).astype(np.float32))
    members = load_members(work)
    score = np.log(members.stacked(slice(0, 600)).astype(np.float64) + FLOOR)
    target = members.rows.target

    def loss(weights: np.ndarray) -> float:
        z = np.tensordot(weights, score, 1)
        nll = np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)) + z.max(axis=1) - z[np.arange(600), target]
        return float(nll.mean() + WEIGHT_SHRINKAGE / 2 * ((weights - 1 / 3) ** 2).sum())

    best = minimize(loss, np.full(3, 1 / 3), bounds=[(0, None)] * 3, method="L-BFGS-B").fun
    assert best < 0.02
    assert loss(fit_log_pools(members).plain[0].weights) <= 1.05 * best


def test_weights_without_a_fold_do_not_know_that_fold(work, folds):
    _, *before = fit_log_pools(load_members(work)).plain
    spoilt = np.log(np.random.default_rng(0).dirichlet(np.ones(8), size=600)).astype(np.float32)
    write_small(work, folds, "m00", np.where(folds.fold[:, None] == 1, spoilt, small_oof(folds, 0)))
    _, *after = fit_log_pools(load_members(work)).plain
    assert after[1].weights == pytest.approx(before[1].weights, abs=0.02)
    assert np.abs(after[0].weights - before[0].weights).max() > 0.1


def test_a_line_search_finds_what_a_fine_grid_finds():
    for seed in range(20):
        reduction = made(seed, n=300, n_members=3)[0].objective
        start, end = np.random.default_rng(seed).dirichlet(np.ones(3), size=2)
        share, loss = best_on_line(reduction, start, end)
        shares = np.linspace(0, 1, 2001)
        grid = reduction.losses((1 - shares)[:, None] * start + shares[:, None] * end)
        assert loss <= grid.min() + 1e-12
        assert reduction.losses(((1 - share) * start + share * end)[None])[0] == pytest.approx(loss, abs=1e-12)


def test_descent_never_makes_it_worse():
    for seed in range(10):
        reduction, start = made(seed, n=300)[0].objective, np.random.default_rng(seed).dirichlet(np.ones(5))
        found = descend(reduction, start, passes=6)
        before, after = reduction.losses(np.stack([start, found]))
        assert after <= before
        assert found.sum() == pytest.approx(1)
        assert (found >= 0).all()


def test_greedy_selection_is_that_of_the_slow_way():
    data, probs, target = made(3, n=300, n_members=4)
    found = greedy_weights(data, steps=20)
    taken: list[int] = []
    best, best_loss = np.zeros(4), np.inf
    for _ in range(20):
        losses, ties = [], []
        for member in range(4):
            mean = probs.astype(np.float32)[[*taken, member]].mean(axis=0, dtype=np.float64)
            losses.append(Metric("top-k-error", 3).outcomes(mean, target).mean())
            ties.append(-np.log(mean[np.arange(300), target]).mean())
        taken.append(min(range(4), key=lambda m: (losses[m], ties[m])))
        if losses[taken[-1]] < best_loss:
            best_loss, best = losses[taken[-1]], np.bincount(taken, minlength=4) / len(taken)
    assert found == pytest.approx(best)


@pytest.mark.parametrize("sampler", ["cma", "tpe", "random"])
def test_the_search_is_no_worse_than_its_starts_and_repeats_itself(sampler):
    data = made(4)[0]
    search = Search(NAMES, BlendSettings(trials=48, sampler=sampler, half_samples=1), seed=0)
    found = search.weights(data, 1)
    assert data.objective.losses(found[None])[0] <= data.objective.losses(start_weights(data)).min()
    assert np.array_equal(search.weights(data, 1), found)


def test_a_search_by_half_samples_repeats_itself_and_its_study_opens_in_optuna(tmp_path):
    data, path = made(6, n=200)[0], tmp_path / "study.log"
    path.write_bytes(b"no journal" * 100)  # is replaced
    search = Search(NAMES, BlendSettings(trials=64, half_samples=2), seed=0, study=path)
    assert np.array_equal(search.weights(data, 0), replace(search, study=None).weights(data, 0))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    loaded = optuna.load_study(study_name="blend", storage=storage)
    assert (len(loaded.trials), set(loaded.best_params)) == (64, set(NAMES))
    losses = data.objective.losses(softmax(np.array([list(loaded.best_params.values())])))
    assert loaded.best_value == losses[0]


def test_half_a_sample_cuts_no_group():
    group = np.repeat(np.arange(50), 3)
    half = half_of_groups(group, np.random.default_rng(0))
    assert half.sum() == 75
    assert set(group[half]).isdisjoint(group[~half])
