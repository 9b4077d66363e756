"""Fills the pixel store: processes decode files and write their rows, unchanged rows come from the old store.

The decoding processes import this module, so that it imports little.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import EIO
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from folds.base.progress import Track
from folds.find.listing import File, Key
from folds.find.reasons import CRASHED, NO_DECODER, TOO_SLOW, UNREAD, Reason
from folds.pixels.decode import Facts, decode
from folds.pixels.forms import JpegPixels, encode
from folds.pixels.pool import in_processes

if TYPE_CHECKING:
    from folds.pixels.store import Pixels

PASSING = frozenset({CRASHED, TOO_SLOW, UNREAD, NO_DECODER})  # faults that another day may not have


@dataclass(frozen=True)
class Known:
    """Facts of files that were decoded before, with their rows in `pixels`; no facts, no pixels."""

    facts: Mapping[Key, tuple[int, Facts]]
    pixels: Pixels | None

    def of(self, file: File) -> Facts | None:
        """The facts of a file that needs no decoding, else None; a fault that may pass is looked at again."""
        if file.fault is not None:
            return Facts(reasons=(file.fault,))
        _, facts = self.facts.get(file.key, (0, None))
        if facts is None or any(reason.code in PASSING for reason in facts.reasons):
            return None
        return facts

    def all_of(self, files: Sequence[File]) -> list[Facts] | None:
        """The facts of all files, if the old store has these files in this order and none is to be decoded."""
        found = [fact for fact in map(self.of, files) if fact is not None]
        rows = [self.facts.get(file.key, (None,))[0] for file in files]
        return found if len(found) == len(files) and rows == list(range(len(self.facts))) else None


def fill(
    pixels: Pixels, files: Sequence[File], *, root: Path, known: Known, workers: int, track: Track
) -> tuple[list[Facts], int]:
    """Write the picture of file i to row i; returns the facts of all files, and how many were decoded now.

    Rows of unreadable files stay empty. Raises OSError where the disk has no room.
    """
    facts = [known.of(file) for file in files]
    if known.pixels is not None:  # of the same size and form
        with open(pixels.path, "r+b") as store:
            for row, fact in track(enumerate(facts), what="keep", total=len(files)):
                if fact is not None and fact.decoded > 0:
                    old_row, _ = known.facts[files[row].key]
                    data = known.pixels.stored(old_row)
                    store.seek(pixels.place(row))
                    store.write(data)
                    if isinstance(known.pixels, JpegPixels):
                        pixels.note(row, n_bytes=len(data), crc=int(known.pixels.index["crc"][old_row]))
    todo = [row for row, fact in enumerate(facts) if fact is None]
    is_jpeg = isinstance(pixels, JpegPixels)
    folder, path, size = str(root), str(pixels.path), pixels.shape[1]  # joined as text: pathlib takes 10 us for each
    tasks = [
        RowTask(os.path.join(folder, files[row].path), path, pixels.place(row), size, is_jpeg=is_jpeg) for row in todo
    ]
    answers = in_processes(write_row, tasks, workers=workers)
    for at, answer in track(answers, what="decode", total=len(tasks)):
        done = Row(Facts(reasons=(answer,))) if isinstance(answer, Reason) else answer
        facts[todo[at]] = done.facts
        if done.errno:
            raise OSError(done.errno, os.strerror(done.errno))
        pixels.note(todo[at], n_bytes=done.n_bytes, crc=done.crc)
    whole = [fact for fact in facts if fact is not None]
    assert len(whole) == len(files), f"{len(whole)} facts of {len(files)} files"
    return whole, len(todo)


@dataclass(frozen=True)
class RowTask:
    """What a process needs to decode the file `path` and write it into the file `store`, from byte `place` on."""

    path: str
    store: str
    place: int
    size: int
    is_jpeg: bool


@dataclass(frozen=True)
class Row:
    """What became of a file: its facts; of a JPEG the length and the CRC-32; errno: why nothing could be written."""

    facts: Facts
    n_bytes: int = 0
    crc: int = 0
    errno: int = 0


def write_row(task: RowTask) -> Row:
    """Decode one file and write its pixels, or their JPEG, into the store. Runs in a worker process."""
    facts, pixels = decode(Path(task.path), size=task.size)
    if pixels is None:
        return Row(facts)
    data = memoryview(encode(pixels)) if task.is_jpeg else pixels.data.cast("B")
    left = data
    try:
        file = _open_rows(task.store)
        file.seek(task.place)
        while len(left):  # a disk that is nearly full takes a part of it, and refuses the rest
            left = left[file.write(left) :]
    except OSError as err:
        return Row(facts, errno=err.errno or EIO)
    return Row(facts, len(data), zlib.crc32(data) if task.is_jpeg else 0)


@lru_cache(maxsize=1)
def _open_rows(path: str) -> BinaryIO:
    return open(path, "r+b", buffering=0)
