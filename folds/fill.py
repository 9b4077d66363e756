"""This file fills the pixel store: processes decode and write their rows, unchanged rows come from the old store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.dataset import Dataset
from folds.decode import Facts
from folds.facts import Key, key_of
from folds.listing import File
from folds.pixels import CHANNELS, map_pixels
from folds.rows import RowTask, write_row
from folds.track import Track
from folds.workers import Casualty, in_processes
from folds.workspace import reserve

PASSING = ("crashed the decoder", "took the decoder", "cannot be read")  # faults that another day may not have
ROWS_AT_A_TIME = 16  # when rows are moved or copied: 4 MB at 288 pixels


@dataclass(frozen=True)
class OldRows:
    """Rows that need no decoding. pixels: (n, S, S, 3) uint8; row: by file."""

    pixels: np.ndarray
    row: Mapping[Key, int]


@dataclass(frozen=True)
class Filled:
    """facts: of every item, in order; decoded: files decoded now."""

    facts: tuple[Facts, ...]
    decoded: int


def fill(
    path: Path,
    dataset: Dataset,
    *,
    size: int,
    workers: int | None,
    known: Mapping[Key, Facts],
    old: OldRows | None,
    track: Track,
) -> Filled:
    """Write the picture of item i at row i of the file `path`; rows of unreadable files stay holes.

    known  facts of unchanged files: those whose row is in `old`, or that are unreadable, are not decoded
    """
    items = dataset.items
    with open(path, "wb") as file:
        file.truncate(len(items) * size * size * CHANNELS)
    reserve(path, len(items) * size * size * CHANNELS)
    facts = [_known_fact(item.file, known, old) for item in items]
    if old is not None:
        slots = [slot for slot, fact in enumerate(facts) if fact is not None and fact.decoded > 0]
        copies = [(slot, old.row[key_of(items[slot].file)]) for slot in slots]
        _copy(path, copies, old.pixels, n=len(items), size=size)
    todo = [slot for slot, fact in enumerate(facts) if fact is None]
    root, store = str(dataset.root), str(path)  # joined as text: pathlib takes 10 us for each
    tasks = [RowTask(os.path.join(root, items[slot].file.path), store, slot, size) for slot in todo]
    answers = in_processes(write_row, tasks, workers=workers or os.cpu_count() or 1)
    for at, answer in track(answers, what="decode", total=len(tasks)):
        facts[todo[at]] = Facts(notes=answer.why) if isinstance(answer, Casualty) else answer
    assert all(fact is not None for fact in facts), "an item has no facts"
    return Filled(tuple(fact for fact in facts if fact is not None), len(todo))


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


def _copy(path: Path, copies: Sequence[tuple[int, int]], old: np.ndarray, *, n: int, size: int) -> None:
    """Bring rows over from the old store."""
    pixels = map_pixels(path, n=n, size=size, mode="r+")
    slots, rows = np.array(copies, dtype=np.int64).reshape(-1, 2).T
    for start in range(0, len(slots), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        pixels[slots[part]] = old[rows[part]]
