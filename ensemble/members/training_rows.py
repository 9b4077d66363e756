"""The training images in the order that the blend works in: fold by fold, inside a fold by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from folds.split.assign import Folds


@dataclass(frozen=True)
class Rows:
    """The N training images, fold after fold, so that the rows of one `oof.npz` lie side by side.

    image_id (N,) str    target (N,) int64 in [0, C)    fold (N,) int64, rising    group (N,) int64 of duplicates
    Where only some folds are in use, they are numbered 0, 1, .. here, and `folds` has their own numbers.
    """

    image_id: np.ndarray
    target: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    classes: tuple[str, ...]
    n_folds: int
    digest: str
    folds: tuple[int, ...]
    is_partial: bool = False

    def __len__(self) -> int:
        return len(self.image_id)

    def of_fold(self, fold: int) -> slice:
        """Where the rows of one fold lie."""
        start, stop = np.searchsorted(self.fold, [fold, fold + 1])
        return slice(int(start), int(stop))


def rows_of(folds: Folds, only: Sequence[int] | None = None) -> Rows:
    """The rows of `folds.csv`, which is sorted by id, in fold order. only: the folds in use, ascending; all if None."""
    used = tuple(range(folds.n_folds)) if only is None else tuple(only)
    order = np.argsort(folds.fold, kind="stable")
    order = order[np.isin(folds.fold[order], used)]
    return Rows(
        image_id=folds.image_id[order],
        target=folds.target[order],
        fold=np.searchsorted(used, folds.fold[order]),
        group=folds.group[order],
        classes=tuple(folds.classes),
        n_folds=len(used),
        digest=folds.digest,
        folds=used,
        is_partial=len(used) < folds.n_folds,
    )
