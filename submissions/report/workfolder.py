"""What a work folder holds by now; what is absent is None, what is damaged becomes a sentence on the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from ensemble.blend.apply import open_members
from ensemble.blend.blend_json import load_blend
from ensemble.members.members import load_members
from ensemble.members.open_run import list_runs
from ensemble.members.training_rows import Rows
from ensemble.settings import BlendSettings
from ensemble.weights.metric import LEAST_PROB
from ensemble.weights.recipe import Recipe
from folds.base.errors import UserError
from folds.base.interval import rate_interval
from folds.base.metrics import top_classes, true_rank
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest
from folds.pixels.store import open_store
from folds.split.assign import SPLIT_HINT, changed_since, load_folds
from models.runs import runs

T = TypeVar("T")
Image = Mapping[str, str]  # image_id, split, label, path (below DATA)


class WorkFolder:
    """A work folder, opened. Raises UserError where not even a manifest is there.

    runs      begun, done or added, by name
    problems  a sentence for each thing that cannot be used; the sections add theirs
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.manifest = workspace, read_manifest(workspace)
        self.problems: list[str] = []
        self.folds = self.attempt(lambda: load_folds(workspace)) if workspace.folds_json.exists() else None
        if self.folds is not None and (changed := changed_since(workspace, self.folds, self.manifest)):
            self.problems.append(f"{changed}; {SPLIT_HINT}")
        self.store = self.attempt(lambda: open_store(workspace))
        self.blend = self.attempt(lambda: load_blend(workspace.blend)) if workspace.blend.exists() else None
        self.runs = sorted({*runs(workspace), *list_runs(workspace)})

    def attempt(self, make: Callable[[], T]) -> T | None:
        """What `make` returns, or None where it raises UserError, which is added to the problems."""
        try:
            return make()
        except UserError as err:
            sentence = f"{err.message}; {err.hint}" if err.hint else err.message
            if sentence not in self.problems:
                self.problems.append(sentence)
            return None

    def image(self, image_id: str, *, split: str = "train") -> Image:
        row = self.row_of.get((split, image_id))
        if row is None:  # predicted once, and no longer in the data
            return {"image_id": image_id, "split": split, "label": "", "path": image_id}
        return self.image_at(row)

    def image_at(self, row: int) -> Image:
        """The image in one row of the manifest."""
        return {name: str(self.manifest[name].iat[row]) for name in ("image_id", "split", "label", "path")}

    @cached_property
    def row_of(self) -> Mapping[tuple[str, str], int]:
        """The row of the manifest by split and image_id."""
        keys = zip(self.manifest["split"], self.manifest["image_id"], strict=True)
        return {key: row for row, key in enumerate(keys)}


@dataclass(frozen=True)
class Entry:
    """The blend or a run. Errors in [0, 1], log_loss in nats; low, high: 95% interval of the top-3 error."""

    name: str
    folds: int
    images: int
    top3_error: float
    low: float
    high: float
    top1_error: float | None = None
    is_blend: bool = False
    log_loss: float = field(default=math.nan, repr=False)


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

    @cached_property
    def true_prob(self) -> np.ndarray:
        return self.probs[np.arange(len(self.rows)), self.rows.target]  # (N,)


def score_runs(work: WorkFolder) -> list[Entry]:
    """Every run with a finished fold, over the folds that it has; a damaged run is left out."""
    names = list_runs(work.workspace) if work.folds else []
    made = [work.attempt(partial(score_run, work.workspace, name)) for name in names]
    return [entry for entry in made if entry is not None]


def score_run(workspace: Workspace, name: str) -> Entry:
    """The errors of a run; copies count as one draw in their interval. Raises UserError where it is damaged."""
    members = load_members(workspace, BlendSettings(members=(name,), partial=True))
    rows, rank = members.rows, np.empty(len(members.rows), np.int64)  # how many classes beat the true one
    for piece, probs in members.chunks():
        rank[piece] = true_rank(probs[0], rows.target[piece])
    top3_error, top1_error = (float((rank >= k).mean()) for k in (3, 1))
    log_loss = float(-np.log(np.maximum(members.true_probs[0].astype(np.float64), LEAST_PROB)).mean())
    interval = rate_interval(rank >= 3, rows.group)
    return Entry(name, rows.n_folds, len(rows), top3_error, *interval, top1_error, log_loss=log_loss)


def best_oof(work: WorkFolder, runs: Sequence[Entry]) -> Oof | None:
    """The blend's predictions; where no blend can be opened, those of the run with most images and the least error."""
    blend, members = work.blend, None
    if blend is not None and work.folds is not None:
        members = work.attempt(lambda: open_members(work.workspace, blend))
    if blend is not None and members is not None:
        name, recipe, is_blend = "the blend", blend.recipe(), True
    elif runs:
        name = min(runs, key=lambda one: (-one.images, one.top3_error, one.log_loss)).name
        recipe, is_blend = Recipe("mean", np.ones(1)), False
        members = load_members(work.workspace, BlendSettings(members=(name,), partial=True))
    else:
        return None
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
