"""Lists the candidates for a blend, simplest first, and how each is fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ensemble.members.members import Members
from ensemble.weights.log_pool import PIECE_ROWS, LogPoolFits, fit_log_pools
from ensemble.weights.metric import Metric
from ensemble.weights.recipe import Pool, Recipe
from ensemble.weights.reduction import build_reduction
from ensemble.weights.search import Search
from ensemble.weights.simple import FitData, LogLoss
from folds.base.progress import Track


@dataclass(frozen=True)
class FitInput:
    """What a candidate is fitted on. parts: the data of all images, then those without one fold each."""

    members: Members
    parts: tuple[FitData, ...]
    search: Search
    track: Track

    @cached_property
    def log_pools(self) -> LogPoolFits:
        """The fits of log-probabilities, which share their readings of the members."""
        return fit_log_pools(self.members)


@dataclass(frozen=True)
class Fits:
    """A candidate's recipe fitted on all images, and the recipes fitted without each fold."""

    whole: Recipe
    without: tuple[Recipe, ...]


@dataclass(frozen=True)
class Candidate:
    """A way to make a recipe for each part of what it is fitted on. `about` is what a table says of it."""

    name: str
    about: str
    fit: Callable[[FitInput], list[Recipe]]


def fit_data(members: Members, metric: Metric) -> FitData:
    """What weights are fitted on, of all N images."""
    rows, log_loss = members.rows, LogLoss(members.true_probs)
    steps = metric.steps(len(rows.classes))
    if steps is None:
        return FitData(log_loss, log_loss, rows.group)
    reduction = build_reduction(members.chunks(size=PIECE_ROWS), rows.target, steps=steps)
    return FitData(reduction, log_loss, rows.group)


def _each(pool: Pool, weights: Callable[[FitData], np.ndarray]) -> Callable[[FitInput], list[Recipe]]:
    """The same way of finding weights for every part."""
    return lambda given: [Recipe(pool, weights(data)) for data in given.parts]


def _equal(data: FitData) -> np.ndarray:
    return np.full(data.n_members, 1 / data.n_members)


def _search(given: FitInput) -> list[Recipe]:
    total = len(given.parts)
    tracked = given.track(enumerate(given.parts), what="searching weights", total=total, unit="searches")
    return [Recipe("mean", given.search.weights(data, number)) for number, data in tracked]


# The order is the order of trust: of equally good candidates the first is kept, and equal weights where they are near.
CANDIDATES = (
    Candidate("equal", "mean of probabilities, equal weights", _each("mean", _equal)),
    Candidate("geometric", "mean of log-probabilities, equal weights", _each("log", _equal)),
    Candidate("single", "the best member alone", _each("mean", lambda data: data.best_of(np.eye(data.n_members)))),
    Candidate("convex", "mean of probabilities, weights of least log loss", _each("mean", lambda data: data.convex)),
    Candidate(
        "geometric-bias",
        "mean of log-probabilities with a bias per class, of least log loss",
        lambda given: given.log_pools.shared,
    ),
    Candidate("log", "weighted log-probabilities of least log loss", lambda given: given.log_pools.plain),
    Candidate("log-bias", "weighted log-probabilities with a bias per class", lambda given: given.log_pools.biased),
    Candidate("greedy", "mean of members taken greedily, with replacement", _each("mean", lambda data: data.greedy)),
    Candidate("search", "mean of probabilities, weights by Optuna on the metric", _search),
)
