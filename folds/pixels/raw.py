"""Keeps pictures as raw bytes in one memory-mapped file: a batch is gathered at the speed of memory."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from folds.base.workspace import reserve

CHANNELS = 3


@dataclass(frozen=True)
class RawPixels:
    """n pictures of S x S pixels in the file `path`, which looks like an (n, S, S, 3) uint8 array.

    Its methods are those of `JpegPixels`, where they are described.
    """

    path: Path
    n: int
    size: int

    @classmethod
    def create(cls, path: Path, *, n: int, size: int) -> RawPixels:
        """A file of n black pictures, whose room on the disk is its own. Raises OSError where there is none."""
        made = cls(path, n, size)
        with open(path, "wb") as file:
            file.truncate(made.nbytes)
        reserve(path, made.nbytes)
        return made

    @classmethod
    def open(cls, path: Path, head: Mapping[str, Any]) -> RawPixels | None:
        """The file that a head describes; None where it has another length."""
        made = cls(path, head["n"], head["size"])
        return made if path.exists() and path.stat().st_size == made.nbytes else None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.n, self.size, self.size, CHANNELS

    @property
    def nbytes(self) -> int:
        return self.n * self.size**2 * CHANNELS

    @cached_property
    def array(self) -> np.ndarray:
        """(n, S, S, 3) uint8, mapped; an empty array where n is 0, which no file can map."""
        return np.memmap(self.path, np.uint8, mode="r", shape=self.shape) if self.n else np.empty(self.shape, np.uint8)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: Any) -> np.ndarray:
        picture: np.ndarray = self.array[row]
        return picture

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy these rows, (m,) int, into `out`, (m, S, S, 3) uint8."""
        np.take(self.array, rows, axis=0, out=out, mode="clip")  # the default mode goes through a copy

    def place(self, row: int) -> int:
        return row * self.size**2 * CHANNELS

    def stored(self, row: int) -> memoryview:
        return self.array[row].data

    def note(self, row: int, *, n_bytes: int, crc: int) -> None:
        """Nothing has to be known of raw pixels."""

    def finish(self) -> dict[str, Any]:
        return {}

    def damaged(self, sums: Sequence[int | None]) -> np.ndarray:
        """Whether each row is not what was written. (n,) bool; reads everything. sums: CRC-32, None for no picture."""
        pairs = enumerate(sums)
        return np.array([crc is not None and zlib.crc32(self.stored(row)) != crc for row, crc in pairs], dtype=bool)
