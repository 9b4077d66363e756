"""Lays out the folds as a table for the terminal; `run.py` prints it."""

from __future__ import annotations

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from folds.base.errors import first_few
from folds.manifest.tables import plain_table
from folds.split.assign import Folds


def split_tables(folds: Folds) -> RenderableType:
    """Images, classes and the rarest class of each fold, and the classes that cannot be in all of them."""
    table = plain_table("fold", "images", "classes", "rarest class")
    for k in range(folds.n_folds):
        counts = np.bincount(folds.target[folds.fold == k], minlength=len(folds.classes))
        present = np.flatnonzero(counts)
        rarest = int(present[np.argmin(counts[present])])
        table.add_row(str(k), f"{counts.sum():,}", f"{len(present):,}", Text(_sized(folds, rarest, counts[rarest])))
    parts: list[RenderableType] = [table]
    counts = np.bincount(folds.target, minlength=len(folds.classes))
    small = [_sized(folds, int(c), counts[c]) for c in np.flatnonzero(counts < folds.n_folds)]
    if small:
        what = "1 class has" if len(small) == 1 else f"{len(small):,} classes have"
        parts.append(Text(f"{what} fewer images than the {folds.n_folds} folds: {first_few(small, most=10)}"))
    return Group(*parts)


def _sized(folds: Folds, target: int, count: int) -> str:
    return f"{folds.classes[target]}: {count:,} {'image' if count == 1 else 'images'}"
