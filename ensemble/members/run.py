"""A run that is opened: its probabilities of training and of test images, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.members.oof_file import CHUNK_ROWS, StoredPredictions, open_predictions, refuse_changed
from folds.base.errors import UserError, first_few
from models.predict.predictions import ROW_SUM_TOLERANCE, average_views


@dataclass(frozen=True)
class Run:
    """One trained run (or one member of columns or of another tool), opened and checked, its values still on disk."""

    name: str
    root: Path
    oof: tuple[StoredPredictions, ...]  # of each fold; none where the run was opened for the test images alone
    tests: tuple[Path, ...]
    views: tuple[str, ...]  # those in use
    use_views: tuple[int, ...]  # their places in the file
    columns: np.ndarray | None  # class c stands in column columns[c] of the file; None: in column c
    seed: int | None
    settings: Mapping[str, Any] = field(repr=False)  # without seed and name: equal settings make siblings
    digests: Mapping[str, str] = field(repr=False)  # of every file, by its path below the run
    remake_hint: str = field(repr=False)  # what makes its predictions again
    warnings: tuple[str, ...] = ()
    is_of_columns: bool = False  # and of no pixels

    def probs(self, start: int, stop: int) -> np.ndarray:
        """Probabilities of rows start to stop, the views averaged. (n, C) float32."""
        pieces = [
            self.averaged(fold.log_probs(max(start, fold.start), min(stop, fold.stop)))
            for fold in self.oof
            if fold.start < stop and start < fold.stop
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def test_ids(self) -> np.ndarray:
        """The ids of its test predictions, sorted. (T,) str"""
        return np.sort(open_predictions(self.tests[0], hint=self.remake_hint).image_id)

    def test_probs(self, path: Path, image_id: np.ndarray, *, some: bool) -> Iterator[tuple[slice, np.ndarray]]:
        """The probabilities in one of its `tests` in the order of the ids, piece by piece: (rows, (n, C) float32).

        some  the ids are a few of those predicted: only their rows are read, and the file's digest is not taken
        Raises UserError where the file was changed, is unfit, or predicts other images.
        """
        hint, place = self.remake_hint, path.relative_to(self.root).as_posix()
        stored = open_predictions(path, hint=hint)
        if not some:
            refuse_changed(path, self.digests.get(place), what=f"{self.name}: {place}", hint=hint)
        if not set(self.views) <= set(stored.views):
            raise UserError(f"{self.name}: {place} lacks views of its test images", hint=hint)
        order = np.argsort(stored.image_id, kind="stable")
        is_known = len(order) >= len(image_id) if some else len(order) == len(image_id)
        if is_known:
            rows = np.searchsorted(stored.image_id, image_id, sorter=order)
            rows = order.take(rows, mode="clip")
        if not is_known or not np.array_equal(stored.image_id[rows], image_id):
            odd = np.setdiff1d(image_id, stored.image_id) if some else np.setxor1d(image_id, stored.image_id)
            fault = "has no prediction for" if some else "predicts other test images than the other files do:"
            raise UserError(f"{self.name}: {place} {fault} {first_few(list(odd))}", hint=hint)
        stored = replace(stored, order=None if np.array_equal(rows, np.arange(len(order))) else rows)
        for start in range(0, max(len(rows), 1), CHUNK_ROWS):  # one piece, an empty one, where there is no test image
            stop = min(start + CHUNK_ROWS, len(rows))
            probs = self.averaged(stored.log_probs(start, stop))
            if not (np.abs(probs.sum(axis=1) - 1) <= ROW_SUM_TOLERANCE).all():
                raise UserError(f"{self.name}: {place} holds NaN, or rows that do not sum to 1", hint=hint)
            yield slice(start, stop), probs

    def with_views(self, views: tuple[str, ...]) -> Run:
        """The same run with some of its views in use."""
        return replace(self, views=views, use_views=tuple(self.use_views[self.views.index(view)] for view in views))

    def averaged(self, log_probs: np.ndarray) -> np.ndarray:
        """The views in use, averaged as probabilities, columns in target order. (n, V, C) -> (n, C) float32."""
        probs = average_views(log_probs, self.use_views)
        return probs if self.columns is None else np.ascontiguousarray(probs[:, self.columns])


def is_added(root: Path) -> bool:
    """Whether another tool or columns made these predictions: no network here can predict them again."""
    return root.parent.name == "members"
