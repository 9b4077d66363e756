"""Out-of-fold predictions of runs and of the blend: of each image, by networks that have not trained on it."""

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
from submissions.report.workfolder import WorkFolder


@dataclass(frozen=True)
class Ranks:
    """The rank of the true class in a run's predictions: (N,) int, 0 is first; log_loss in nats."""

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
class Oof:
    """Predictions of the blend, or of one run, in the order of `rows`.

    probs (N, C) float32    rank (N,) int: how many classes beat the true one    top (N, 3) int: best first
    Rank and top are those of the blended scores, as in the submission: float32 probabilities have more ties.
    missed (M, N) bool: whether each of the `members` misses the true class in its own top 3
    """

    name: str
    is_blend: bool
    rows: Rows
    probs: np.ndarray
    rank: np.ndarray
    top: np.ndarray
    members: tuple[str, ...]
    missed: np.ndarray

    @property
    def true_prob(self) -> np.ndarray:
        return self.probs[np.arange(len(self.rows)), self.rows.target]  # (N,)


def run_ranks(work: WorkFolder) -> Mapping[str, Ranks]:
    """The ranks of every run with a finished fold, over the folds that it has; a damaged run is left out."""
    if work.folds is None:
        return {}
    made = {name: work.attempt(partial(_ranks_of, work, name)) for name in list_runs(work.workspace)}
    return {name: ranks for name, ranks in made.items() if ranks is not None}


def best_oof(work: WorkFolder, ranks: Mapping[str, Ranks]) -> Oof | None:
    """The blend's predictions; where no blend can be opened, those of the run with most images and the least error."""
    blend = work.blend
    if blend is not None and work.folds is not None:
        members = work.attempt(lambda: open_members(work.workspace, blend))
        if members is not None:
            return _read("the blend", members, blend.recipe(), is_blend=True)
    if not ranks:
        return None
    best = min(ranks.values(), key=lambda one: (-len(one.rows), one.error(3), one.log_loss)).name
    members = load_members(work.workspace, [best], partial=True)
    return _read(best, members, Recipe("mean", np.ones(1)), is_blend=False)


def _read(name: str, members: Members, recipe: Recipe, *, is_blend: bool) -> Oof:
    rows, n_classes = members.rows, len(members.rows.classes)
    probs = np.empty((len(rows), n_classes), np.float32)
    rank, top = np.empty(len(rows), np.int64), np.empty((len(rows), min(3, n_classes)), np.int64)
    missed = np.empty((len(members), len(rows)), bool)
    for piece, own in members.chunks():
        scores, target = recipe.scores(own), rows.target[piece]
        probs[piece] = recipe.probs(scores)
        rank[piece], top[piece] = true_rank(scores, target), top_classes(scores)
        missed[:, piece] = [true_rank(one, target) >= 3 for one in own]
    return Oof(name, is_blend, rows, probs, rank, top, members.names, missed)


def _ranks_of(work: WorkFolder, name: str) -> Ranks:
    members = load_members(work.workspace, [name], partial=True)
    rank = np.empty(len(members.rows), np.int64)
    for piece, probs in members.chunks():
        rank[piece] = true_rank(probs[0], members.rows.target[piece])
    true_prob = np.maximum(members.true_probs[0].astype(np.float64), 1e-15)
    return Ranks(name, members.rows, rank, float(-np.log(true_prob).mean()))
