"""Lays out the contests of undecided images: rows with equally many contests side by side, in one block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    """Undecided rows with equally many contests: contest j of row i is number contests.start + j * n_rows + i."""

    length: int
    rows: slice  # among the U undecided rows
    contests: slice  # among the R contests


@dataclass(frozen=True)
class Layout:
    """Where the R contests of U undecided images lie.

    row (U,) int64     the images, ordered by length
    length (U,) int64  how many contests each has, rising
    """

    row: np.ndarray
    length: np.ndarray

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The rows by number of contests."""
        lengths, starts = np.unique(self.length, return_index=True)
        groups, first = [], 0
        for length, start, stop in zip(lengths, starts, np.append(starts, len(self.row))[1:], strict=True):
            size = int(length) * int(stop - start)
            groups.append(Group(int(length), slice(int(start), int(stop)), slice(first, first + size)))
            first += size
        return tuple(groups)

    @cached_property
    def n_contests(self) -> int:
        return int(self.length.sum())

    @cached_property
    def owner(self) -> np.ndarray:
        """The row, in [0, U), that each contest belongs to. (R,) int64"""
        parts = [np.tile(np.arange(group.rows.start, group.rows.stop), group.length) for group in self.groups]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @cached_property
    def first(self) -> np.ndarray:
        """The number of each row's contest 0. (U,) int64"""
        parts = [group.contests.start + np.arange(group.rows.stop - group.rows.start) for group in self.groups]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @cached_property
    def stride(self) -> np.ndarray:
        """How far it is to each row's next contest. (U,) int64"""
        sizes = [group.rows.stop - group.rows.start for group in self.groups]
        return np.repeat(sizes, sizes).astype(np.int64)

    def places(self, row: np.ndarray) -> np.ndarray:
        """The numbers of contests that come sorted by their image, which is one of `self.row`. (R,) -> (R,) int64"""
        by_row = np.argsort(self.row)
        undecided = by_row[np.searchsorted(self.row[by_row], row)]
        nth = np.arange(len(row)) - np.searchsorted(row, row)
        return self.first[undecided] + self.stride[undecided] * nth


def layout_of(row: np.ndarray, length: np.ndarray) -> Layout:
    """The layout of rows in any order."""
    order = np.argsort(length, kind="stable")
    return Layout(row[order], length[order])
