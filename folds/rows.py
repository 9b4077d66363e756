"""This file is what a worker process does: decode one file and write its row of the pixel store.

It imports little, since every process does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from folds.decode import Facts, decode


@dataclass(frozen=True)
class RowTask:
    """What a process needs to decode one file into its row."""

    source: str
    store: str
    slot: int
    size: int


def write_row(task: RowTask) -> Facts:
    """The facts about one file, whose pixels are then in the store. Runs in a worker process."""
    facts, pixels = decode(Path(task.source), size=task.size)
    if pixels is None:
        return facts
    file = _open_rows(task.store)
    file.seek(task.slot * pixels.nbytes)
    file.write(pixels.data)
    return facts


@lru_cache(maxsize=1)
def _open_rows(path: str) -> BinaryIO:
    return open(path, "r+b", buffering=0)
