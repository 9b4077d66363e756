"""Gathers what runs and the blend say of the training images that they have not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ensemble.blend.apply import open_members
from ensemble.blend.recipe import Recipe
from ensemble.members.members import Members, load_members
from ensemble.members.open_run import list_runs
from ensemble.members.training_rows import Rows
from folds.base.interval import rate_interval
from folds.base.metrics import top_classes, true_rank
from submissions.report.source import Source


@dataclass(frozen=True)
class Ranks:
    """Where the true class stands in a run's guesses: rank (N,) int, 0 is first; log_loss in nats."""

    name: str
    rows: Rows
    rank: np.ndarray
    log_loss: float

    def error(self, k: int) -> float:
        return float((self.rank >= k).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95%, of the top-3 error; copies count as one draw."""
        return rate_interval(self.rank >= 3, self.rows.group)


@dataclass(frozen=True)
class Guesses:
    """Out-of-fold guesses of the blend, or of one run, in the order of `rows`.

    probs (N, C) float32    rank (N,) int: how many classes beat the true one    top (N, 3) int: the best, best first
    Rank and top are those of the blended scores, as in the submission: float32 probabilities have more ties.
    temperature  that makes a blend's probabilities honest; 1 for a run
    members      those of the blend, or the one run
    """

    name: str
    is_blend: bool
    rows: Rows
    probs: np.ndarray
    rank: np.ndarray
    top: np.ndarray
    temperature: float
    members: Members

    @property
    def true_prob(self) -> np.ndarray:
        return self.probs[np.arange(len(self.rows)), self.rows.target]  # (N,)


def run_ranks(source: Source) -> Mapping[str, Ranks]:
    """The ranks of every run that has a finished fold, over the folds that it has; a damaged run is left out."""
    if source.folds is None:
        return {}
    made = {name: source.attempt(partial(_ranks_of, source, name)) for name in list_runs(source.workspace)}
    return {name: ranks for name, ranks in made.items() if ranks is not None}


def best_guesses(source: Source, ranks: Mapping[str, Ranks]) -> Guesses | None:
    """The blend's guesses; where no blend can be opened, those of the run with the most images and the least error."""
    blend = source.blend
    if blend is not None and source.folds is not None:
        members = source.attempt(lambda: open_members(source.workspace, blend))
        if members is not None:
            return _guesses("the blend", members, blend.recipe(), temperature=1.0, is_blend=True)
    if not ranks:
        return None
    best = min(ranks.values(), key=lambda one: (-len(one.rows), one.error(3), one.log_loss)).name
    members = load_members(source.workspace, [best], partial=True)
    return _guesses(best, members, Recipe("mean", np.ones(1)), temperature=1.0, is_blend=False)


def member_misses(members: Members) -> np.ndarray:
    """Whether each member misses the true class in its top 3. (M, N) bool"""
    misses = np.empty((len(members), len(members.rows)), bool)
    for piece, probs in members.chunks():
        for member, own in enumerate(probs):
            misses[member, piece] = true_rank(own, members.rows.target[piece]) >= 3
    return misses


def _guesses(name: str, members: Members, recipe: Recipe, *, temperature: float, is_blend: bool) -> Guesses:
    rows, n_classes = members.rows, len(members.rows.classes)
    probs = np.empty((len(rows), n_classes), np.float32)
    rank, top = np.empty(len(rows), np.int64), np.empty((len(rows), min(3, n_classes)), np.int64)
    for piece, own in members.chunks():
        scores = recipe.scores(own)
        probs[piece] = recipe.probs(scores)
        rank[piece], top[piece] = true_rank(scores, rows.target[piece]), top_classes(scores)
    return Guesses(name, is_blend, rows, probs, rank, top, temperature, members)


def _ranks_of(source: Source, name: str) -> Ranks:
    members = load_members(source.workspace, [name], partial=True)
    rank = np.empty(len(members.rows), np.int64)
    for piece, probs in members.chunks():
        rank[piece] = true_rank(probs[0], members.rows.target[piece])
    true_prob = np.maximum(members.true_probs[0].astype(np.float64), 1e-15)
    return Ranks(name, members.rows, rank, float(-np.log(true_prob).mean()))
