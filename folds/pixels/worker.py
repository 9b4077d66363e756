"""What a worker process does: decode one file and write its row of the pixel store.

It imports little, since every process does.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from errno import EIO
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from folds.pixels.decode import Facts, decode
from folds.pixels.jpeg import CHANNELS, encode, slot_bytes

if TYPE_CHECKING:
    from folds.settings import StoreForm  # whose import of cyclopts would cost each process


@dataclass(frozen=True)
class RowTask:
    """What a process needs to decode one file into its row."""

    source: str
    store: str
    slot: int
    size: int
    form: StoreForm


@dataclass(frozen=True)
class Row:
    """What became of a file: its facts; of a JPEG the length and the CRC-32; errno: why nothing could be written."""

    facts: Facts
    n_bytes: int = 0
    crc: int = 0
    errno: int = 0


def write_row(task: RowTask) -> Row:
    """Decode one file and write its pixels, or their JPEG, into the store. Runs in a worker process."""
    facts, pixels = decode(Path(task.source), size=task.size)
    if pixels is None:
        return Row(facts)
    data = encode(pixels) if task.form == "jpeg" else pixels.tobytes()
    try:
        write_all(_open_rows(task.store), memoryview(data), at=task.slot * slot_room(task))
    except OSError as err:
        return Row(facts, errno=err.errno or EIO)
    return Row(facts, len(data), zlib.crc32(data) if task.form == "jpeg" else 0)


def slot_room(task: RowTask) -> int:
    """Bytes from one slot of the file to the next."""
    return slot_bytes(task.size) if task.form == "jpeg" else task.size**2 * CHANNELS


def write_all(file: BinaryIO, data: memoryview, *, at: int) -> None:
    """All of the data: a disk that is nearly full takes a part of it, and refuses the rest."""
    file.seek(at)
    while len(data):
        data = data[file.write(data) :]


@lru_cache(maxsize=1)
def _open_rows(path: str) -> BinaryIO:
    return open(path, "r+b", buffering=0)
