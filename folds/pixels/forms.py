"""The two forms of the pixel store: raw bytes in a memory-mapped file, or JPEGs for disks that are too small.

Raw pixels are gathered at the speed of memory. JPEGs, measured on pictures of Caltech-101
(tests/benchmarks/results.jsonl, "store"): quality 95 with full colours costs a sixth of the raw bytes. Colours at half
the resolution would save a seventh of that and cost 1.5 to 3 dB; to win these back by quality costs more bytes than
were saved. Pillow lets other threads run while it decodes.
"""

from __future__ import annotations

import io
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from folds.base.errors import UserError
from folds.base.workspace import digest, reserve
from folds.pixels.pool import usable_cores

CHANNELS = 3
QUALITY, SUBSAMPLING = 95, "4:4:4"
INDEX = np.dtype([("start", "<u8"), ("bytes", "<u4"), ("crc", "<u4")])  # 16 bytes for each picture


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


@dataclass(frozen=True)
class JpegPixels:
    """Pictures that look like an (n, S, S, 3) uint8 array, one decoded where it is asked for.

    index  (n,) INDEX: where each JPEG begins in the file, how long it is (0: no picture), the CRC-32 of its bytes
    """

    path: Path
    index: np.ndarray
    size: int

    @classmethod
    def create(cls, path: Path, *, n: int, size: int) -> JpegPixels:
        """A file with room for n JPEGs, whose lengths nobody knows: its bytes cannot be reserved."""
        index = np.zeros(n, INDEX)
        index["start"] = np.arange(n, dtype=np.uint64) * np.uint64(slot_bytes(size))
        with open(path, "wb") as file:
            file.truncate(n * slot_bytes(size))
        return cls(path, index, size)

    @classmethod
    def open(cls, path: Path, head: Mapping[str, Any]) -> JpegPixels | None:
        """The file that a head describes; None where its length or its index is not what was written."""
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size != head["bytes"]:
                    return None
                file.seek(-head["n"] * INDEX.itemsize, os.SEEK_END)
                data = file.read()
        except OSError:
            return None
        return cls(path, np.frombuffer(data, dtype=INDEX), head["size"]) if digest(data) == head["index"] else None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.index), self.size, self.size, CHANNELS

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> np.ndarray:
        """One picture, (S, S, 3) uint8. Raises UserError where its JPEG does not decode."""
        data = self.stored(row)
        if not data:
            return np.zeros(self.shape[1:], np.uint8)
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                return np.asarray(picture)
        except (OSError, ValueError) as err:
            raise UserError(
                f"the JPEG in row {row:,} of {self.path} does not decode: {err}",
                hint=f"`rm {self.path}`, then `python run.py prepare DATA`",
            ) from err

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Decode these rows, (m,) int, into `out`, (m, S, S, 3) uint8; threads share the work.

        As many as OMP_NUM_THREADS says where it is set, as on a shared machine and by Ray, else one for each core.
        """
        given = os.environ.get("OMP_NUM_THREADS", "")
        n = int(given) if given.isdigit() and int(given) else usable_cores()

        def decode(first: int) -> None:  # each n-th row: pictures differ in their cost, and neighbours may be alike
            for at in range(first, len(rows), n):
                out[at] = self[int(rows[at])]

        for _ in _threads(n).map(decode, range(n)):
            pass  # an exception of a thread is raised here

    def place(self, row: int) -> int:
        """Where a JPEG begins in the file, in bytes."""
        return int(self.index["start"][row])

    def stored(self, row: int) -> bytes:
        """The JPEG of one picture."""
        start, n_bytes, _ = self.index[row].item()
        return self._file[start : start + n_bytes]

    def note(self, row: int, *, n_bytes: int, crc: int) -> None:
        """Record the length and the CRC-32 of what was written at a row."""
        self.index[["bytes", "crc"]][row] = (n_bytes, crc)

    def finish(self) -> dict[str, Any]:
        """Move the JPEGs to the front of the file that was filled, and put their index at its end.

        Returns what the head of the store has to know: the length of the file, and the digest of its index.
        """
        index, at = self.index.copy(), 0
        with open(self.path, "rb", buffering=0) as source, open(self.path, "r+b") as file:  # mapped pages are memory
            for entry in index:
                source.seek(int(entry["start"]))
                data = source.read(int(entry["bytes"]))
                file.write(data)  # never over what is still to be read: a JPEG is at most as long as its slot
                entry["start"], at = at, at + len(data)
            file.write(index.tobytes())
            file.truncate()
        return {"bytes": at + index.nbytes, "index": digest(index.tobytes())}

    def damaged(self, sums: Sequence[int | None]) -> np.ndarray:
        """Whether each JPEG is not what was written. (n,) bool; reads everything. sums: of pixels, not needed."""
        return np.array([zlib.crc32(self.stored(row)) for row in range(len(self))]) != self.index["crc"]

    @cached_property
    def _file(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def encode(pixels: np.ndarray) -> bytes:
    """A picture, (S, S, 3) uint8, as JPEG; the same pixels are the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return buffer.getvalue()


def slot_bytes(size: int) -> int:
    """Room for any JPEG of this side, while the file is filled: what no picture needs stays a hole without bytes.

    A coefficient takes 16 bits of Huffman code and 11 of its own at the most: 3.4 bytes for each of three channels.
    """
    side = -(-size // 16) * 16  # whole blocks
    return 4096 + 11 * side * side


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="decode")
