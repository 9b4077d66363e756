"""Fills the pixel store: processes decode and write their rows, unchanged rows come from the old store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from folds.base.progress import Track
from folds.base.workspace import reserve
from folds.find.dataset import Dataset
from folds.find.listing import File
from folds.manifest.facts import Key, key_of
from folds.pixels.decode import NO_DECODER, Facts
from folds.pixels.jpeg import CHANNELS, INDEX, JpegPixels, slot_bytes
from folds.pixels.pool import Casualty
from folds.pixels.store import Pixels, map_pixels
from folds.pixels.worker import Row, RowTask
from folds.settings import StoreForm

PASSING = (
    "crashed the decoder",
    "took the decoder",
    "cannot be read",
    NO_DECODER,
)  # faults that another day may not have
Decode: TypeAlias = Callable[[Sequence[RowTask]], Iterator[tuple[int, Row | Casualty]]]
ROWS_AT_A_TIME = 16  # when rows are moved or copied: 4 MB at 288 pixels


@dataclass(frozen=True)
class OldRows:
    """Rows that need no decoding, in a store of the same form. pixels: (n, S, S, 3) uint8; row: by file."""

    pixels: Pixels
    row: Mapping[Key, int]


@dataclass(frozen=True)
class Filled:
    """facts: of every item, in order; pixels: of every item that decoded, holes between; decoded: files decoded now."""

    facts: tuple[Facts, ...]
    pixels: Pixels
    decoded: int


def fill(
    path: Path,
    dataset: Dataset,
    *,
    size: int,
    form: StoreForm,
    decode: Decode,
    known: Mapping[Key, Facts],
    old: OldRows | None,
    track: Track,
) -> Filled:
    """Write the picture of item i at row i of the file `path`; rows of unreadable files stay holes.

    decode  has files decoded into their rows, and yields what became of each, by its position
    known   facts of unchanged files: those whose row is in `old`, or that are unreadable, are not decoded
    Raises OSError where the disk has no room for them.
    """
    items = dataset.items
    pixels = _make_room(path, n=len(items), size=size, form=form)
    facts = [_known_fact(item.file, known, old) for item in items]
    if old is not None:
        slots = [slot for slot, fact in enumerate(facts) if fact is not None and fact.decoded > 0]
        _copy(pixels, slots, old.pixels, [old.row[key_of(items[slot].file)] for slot in slots])
    todo = [slot for slot, fact in enumerate(facts) if fact is None]
    root, store = str(dataset.root), str(path)  # joined as text: pathlib takes 10 us for each
    tasks = [RowTask(os.path.join(root, items[slot].file.path), store, slot, size, form) for slot in todo]
    for at, answer in track(decode(tasks), what="decode", total=len(tasks)):
        row = Row(Facts(notes=answer.why)) if isinstance(answer, Casualty) else answer
        facts[todo[at]] = row.facts
        if row.errno:
            raise OSError(row.errno, os.strerror(row.errno))
        if isinstance(pixels, JpegPixels):
            pixels.index[todo[at]] = (pixels.index["start"][todo[at]], row.n_bytes, row.crc)
    assert all(fact is not None for fact in facts), "an item has no facts"
    return Filled(tuple(fact for fact in facts if fact is not None), pixels, len(todo))


def _make_room(path: Path, *, n: int, size: int, form: StoreForm) -> Pixels:
    """A file of n rows, all of them holes; of JPEGs, whose lengths nobody knows, the bytes cannot be reserved."""
    row_bytes = slot_bytes(size) if form == "jpeg" else size * size * CHANNELS
    with open(path, "wb") as file:
        file.truncate(n * row_bytes)
    if form == "jpeg":
        index = np.zeros(n, INDEX)
        index["start"] = np.arange(n, dtype=np.uint64) * np.uint64(row_bytes)
        return JpegPixels(path, index, size)
    reserve(path, n * row_bytes)
    return map_pixels(path, n=n, size=size, mode="r+")


def _known_fact(file: File, known: Mapping[Key, Facts], old: OldRows | None) -> Facts | None:
    """What is known of a file without decoding it, None if nothing is; a fault that may pass is looked at again."""
    if file.fault:
        return Facts(notes=file.fault)
    fact = known.get(key_of(file))
    if fact is None or fact.notes.startswith(PASSING):
        return None
    return fact if fact.decoded == 0 or (old is not None and key_of(file) in old.row) else None


def keep_rows(path: Path, rows: np.ndarray, *, size: int) -> None:
    """Move these rows of a store, ascending, to its front and cut off the rest. rows: (n,) int64.

    By reading and writing, which moves 7 GB/s where a memory map moved 2.
    """
    row_bytes = size * size * CHANNELS
    buffer = memoryview(bytearray(ROWS_AT_A_TIME * row_bytes))
    with open(path, "r+b", buffering=0) as file:
        for source, target, count in _runs(rows):
            if source != target:
                part = buffer[: count * row_bytes]
                file.seek(source * row_bytes)
                assert file.readinto(part) == len(part), f"{path} ends in row {source}"
                file.seek(target * row_bytes)
                file.write(part)
        file.truncate(len(rows) * row_bytes)


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(first row, where it goes, how many) of stretches of ascending rows."""
    start = 0
    for stop in [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]:
        for begin in range(start, stop, ROWS_AT_A_TIME):
            yield int(rows[begin]), begin, min(ROWS_AT_A_TIME, stop - begin)
        start = stop


def _copy(pixels: Pixels, slots: Sequence[int], old: Pixels, rows: Sequence[int]) -> None:
    """Bring rows over from the old store."""
    if isinstance(pixels, JpegPixels):
        assert isinstance(old, JpegPixels), "a raw store has no rows for one of JPEGs"
        with open(pixels.path, "r+b") as file:
            for slot, row in zip(slots, rows, strict=True):
                pixels.index[["bytes", "crc"]][slot] = old.index[["bytes", "crc"]][row]
                file.seek(int(pixels.index["start"][slot]))
                file.write(old.encoded(row))
        return
    assert not isinstance(old, JpegPixels), "nor has one of JPEGs for a raw one"
    for start in range(0, len(slots), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        pixels[slots[part]] = old[rows[part]]
