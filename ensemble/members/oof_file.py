"""Reads the log-probabilities of an `oof.npz` piece by piece, several files side by side."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from folds.base.errors import UserError
from folds.pixels.pool import usable_cores

CHUNK_ROWS = 2048  # rows x 103 classes x float32 = 0.8 MB: a piece and its working copies stay in the processor's cache
MOST_THREADS = 4  # each holds one piece of all members; beyond that the disk or the memory bus is the limit

# One thread at a time has numpy parse the headers of arrays: in Python 3.11.7 and others `ast` counts the depth of all
# threads in one place, and a collection of garbage in between ends in a SystemError (CPython, issue 106905).
PARSING = threading.Lock()

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredPredictions:
    """An npz of `models.predict.predictions` whose small arrays are read and whose large one stays on disk.

    image_id (n,) str    classes (C,) str    views (V,) str    folds_digest of the folds that it belongs to
    offset: where the (n, V, C) float32 values of log_probs begin in the file
    start:  the number of its first row, where the rows of several files are counted on
    order:  row start + i is row order[i] of the file; None: row i
    """

    path: Path
    image_id: np.ndarray
    classes: tuple[str, ...]
    views: tuple[str, ...]
    folds_digest: str
    offset: int
    start: int = 0
    order: np.ndarray | None = None

    @property
    def stop(self) -> int:
        return self.start + len(self.image_id)

    def log_probs(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop. (stop - start, V, C) float32"""
        if self.order is not None:
            return self.scattered(np.arange(start, stop))
        shape = (stop - start, len(self.views), len(self.classes))
        offset = self.offset + 4 * (start - self.start) * shape[1] * shape[2]
        # A plain read, not a memory map: mapped pages would count as memory of this process.
        return np.fromfile(self.path, np.float32, count=int(np.prod(shape)), offset=offset).reshape(shape)

    def scattered(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows (n,) that this file has. (at most n, V, C) float32"""
        own = rows[(rows >= self.start) & (rows < self.stop)] - self.start
        shape = (len(self.image_id), len(self.views), len(self.classes))
        values = np.memmap(self.path, np.float32, "r", offset=self.offset, shape=shape)
        return np.asarray(values[own if self.order is None else self.order[own]])


def open_predictions(path: Path, *, hint: str) -> StoredPredictions:
    """Open a predictions file without reading its values. Raises UserError, with `hint`, where it is absent or torn."""
    try:
        with PARSING, np.load(path, allow_pickle=False) as arrays:
            image_id, classes, views = arrays["image_id"], arrays["classes"], arrays["views"]
            folds_digest = str(arrays["folds_digest"])
            offset, shape = _find_values(path)
    except FileNotFoundError as err:
        raise UserError(f"{path} does not exist", hint=hint) from err
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as err:
        raise UserError(f"{path} is damaged: {err}", hint=hint) from err
    expected = (len(image_id), len(views), len(classes))
    if shape != expected or 0 in expected[1:]:
        raise UserError(f"{path} is damaged: log_probs has shape {shape}, not {expected}", hint=hint)
    names = tuple(map(str, classes)), tuple(map(str, views))
    return StoredPredictions(path, image_id, *names, folds_digest, offset)


def file_digest(path: Path) -> str:
    """The digest of a file's bytes, as `workspace.digest` makes it of those in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def refuse_changed(path: Path, expected: object, *, what: str, hint: str) -> None:
    """Refuse a file whose digest is no longer the one that its `done.json` records."""
    if file_digest(path) != expected:
        raise UserError(f"{what} is damaged: checksum mismatch, the file changed after it was written", hint=hint)


def _find_values(path: Path) -> tuple[int, tuple[int, ...]]:
    """Where the values of log_probs.npy begin in the file, and their shape."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entry = archive.getinfo("log_probs.npy")
        with archive.open(entry) as array:
            np.lib.format.read_magic(array)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(array)  # `np.savez` writes no other version
            header_size = array.tell()
        if entry.compress_type != zipfile.ZIP_STORED or fortran or dtype != np.float32:
            raise ValueError("log_probs is compressed, transposed or not float32")
        file.seek(entry.header_offset)
        header = file.read(30)  # the fixed part of a local file header; bytes 26 to 30: lengths of name and extra field
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        start = file.tell() + header_size
        if path.stat().st_size < start + 4 * int(np.prod(shape)):
            raise ValueError("log_probs is cut off")
        return start, shape


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in the order of the items, whatever finishes first, so that sums come out the same every time."""
    with ThreadPoolExecutor(min(MOST_THREADS, usable_cores())) as pool:
        yield from pool.map(work, items)
