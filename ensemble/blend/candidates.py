"""Lists the candidates for a blend, simplest first, and how each is fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ensemble.blend.evidence import Evidence
from ensemble.blend.recipe import Recipe
from ensemble.members.members import Members
from ensemble.weights.log_pool import LogPoolFits, fit_log_pools
from ensemble.weights.search import Search
from folds.base.progress import Track


@dataclass(frozen=True)
class Case:
    """What a candidate may look at: everything, or everything but one fold."""

    members: Members
    whole: Evidence
    without: tuple[Evidence, ...]  # one per fold
    search: Search
    track: Track

    @cached_property
    def log_pools(self) -> LogPoolFits:
        """Both fits of weighted log-probabilities, which share their readings of the members."""
        return fit_log_pools(self.members)


@dataclass(frozen=True)
class Fits:
    """A candidate's recipe fitted on all images, and the recipes fitted without each fold."""

    whole: Recipe
    without: tuple[Recipe, ...]


@dataclass(frozen=True)
class Candidate:
    """A way to make a recipe. `about` is what a table says of it."""

    name: str
    about: str
    fit: Callable[[Case], Fits]


def _each(fit: Callable[[Evidence, int], Recipe]) -> Callable[[Case], Fits]:
    """Fit on everything and, in the same way, without each fold; the number seeds what is random."""

    def fits(case: Case) -> Fits:
        parts: Sequence[Evidence] = (case.whole, *case.without)
        whole, *without = [fit(evidence, number) for number, evidence in enumerate(parts)]
        return Fits(whole, tuple(without))

    return fits


def _equal_mean(evidence: Evidence, _: int) -> Recipe:
    return Recipe("mean", np.full(evidence.n_members, 1 / evidence.n_members))


def _equal_log(evidence: Evidence, _: int) -> Recipe:
    return Recipe("log", _equal_mean(evidence, 0).weights)


def _best_single(evidence: Evidence, _: int) -> Recipe:
    """The member with the least loss, ties by log loss."""
    alone = np.eye(evidence.n_members)
    losses = evidence.objective.losses(alone)
    tied = np.flatnonzero(losses == losses.min())
    return Recipe("mean", alone[tied[evidence.likelihood.losses(alone[tied]).argmin()]])


def _convex(evidence: Evidence, _: int) -> Recipe:
    return Recipe("mean", evidence.convex)


def _greedy(evidence: Evidence, _: int) -> Recipe:
    return Recipe("mean", evidence.greedy)


def _log_pool(case: Case) -> Fits:
    whole, without = case.log_pools.plain
    return Fits(whole, tuple(without))


def _log_pool_with_bias(case: Case) -> Fits:
    whole, without = case.log_pools.biased
    return Fits(whole, tuple(without))


def _search(case: Case) -> Fits:
    parts = (case.whole, *case.without)
    tracked = case.track(enumerate(parts), what="searching weights", total=len(parts), unit="searches")
    whole, *without = [Recipe("mean", case.search.weights(evidence, number)) for number, evidence in tracked]
    return Fits(whole, tuple(without))


# The order is the order of trust: among candidates that cannot be told apart the first is kept.
CANDIDATES = (
    Candidate("equal", "mean of probabilities, equal weights", _each(_equal_mean)),
    Candidate("geometric", "mean of log-probabilities, equal weights", _each(_equal_log)),
    Candidate("single", "the best member alone", _each(_best_single)),
    Candidate("convex", "mean of probabilities, weights of least log loss", _each(_convex)),
    Candidate("log", "weighted log-probabilities of least log loss", _log_pool),
    Candidate("log-bias", "the same with a bias per class", _log_pool_with_bias),
    Candidate("greedy", "mean of members taken greedily, with replacement", _each(_greedy)),
    Candidate("search", "mean of probabilities, weights by Optuna on the metric", _search),
)
