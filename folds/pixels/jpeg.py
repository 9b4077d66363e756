"""Keeps pictures as JPEGs: one after the other in one file, and at its end an index of where each one lies.

Measured on pictures of Caltech-101 (`python -m tests.benchmarks.store`): quality 95 with full colours costs a sixth of
the raw bytes. Colours at half the resolution would save a seventh of that and cost 1.5 to 3 dB; to win these back by
quality costs more bytes than were saved.
"""

from __future__ import annotations

import io
import mmap
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from folds.base.errors import UserError
from folds.base.workspace import digest

CHANNELS = 3
QUALITY, SUBSAMPLING = 95, "4:4:4"
INDEX = np.dtype([("start", "<u8"), ("bytes", "<u4"), ("crc", "<u4")])  # 16 bytes for each picture
DECODER = "torchcodec"


@dataclass(frozen=True)
class JpegPixels:
    """Pictures that look like an (n, S, S, 3) uint8 array, one decoded where it is asked for.

    index  (n,) INDEX: where each JPEG begins in the file, how long it is, and the CRC-32 of its bytes
    size   S, pixels
    on_gpu whether batches for a GPU are decoded there
    """

    path: Path
    index: np.ndarray
    size: int
    on_gpu: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.index), self.size, self.size, CHANNELS

    @property
    def nbytes(self) -> int:
        """Bytes of all JPEGs."""
        return int(self.index["bytes"].sum(dtype=np.int64))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> np.ndarray:
        """One picture, (S, S, 3) uint8, decoded by Pillow; whole batches are decoded in `models/input/decoding.py`."""
        with Image.open(io.BytesIO(self.encoded(row)), formats=["JPEG"]) as picture:
            return np.asarray(picture)

    def encoded(self, row: int) -> bytes:
        """The JPEG of one picture."""
        start, n_bytes, _ = self.index[row].item()
        return self._file[start : start + n_bytes]

    def damaged(self) -> np.ndarray:
        """Whether the bytes of each JPEG are not those that were written. (n,) bool; reads everything."""
        return np.array([zlib.crc32(self.encoded(row)) for row in range(len(self))]) != self.index["crc"]

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


def pack(path: Path, jpegs: JpegPixels, rows: np.ndarray) -> dict[str, Any]:
    """Move these JPEGs of a file that is being filled, ascending, to its front, and put their index at its end.

    Returns what the store's head has to know: the length of the file, and the digest of its index.
    """
    index, at = jpegs.index[rows].copy(), 0
    with open(path, "rb", buffering=0) as source, open(path, "r+b") as file:  # read, since mapped pages count as memory
        for entry in index:
            source.seek(int(entry["start"]))
            data = source.read(int(entry["bytes"]))
            file.write(data)  # never over what is still to be read: a JPEG is at most as long as its slot
            entry["start"], at = at, at + len(data)
        file.write(index.tobytes())
        file.truncate()
    return {"bytes": at + index.nbytes, "index": digest(index.tobytes())}


def read_index(path: Path, *, n: int, n_bytes: int, index_digest: str) -> np.ndarray | None:
    """The index of a whole file of n JPEGs; None where it has another length or its index is not what was written."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != n_bytes:
                return None
            file.seek(-n * INDEX.itemsize, os.SEEK_END)
            data = file.read()
    except OSError:
        return None
    return np.frombuffer(data, dtype=INDEX) if digest(data) == index_digest else None


def refuse_without_decoder() -> None:
    """Refuse work with JPEGs where what decodes them in batches is not installed; torch is not imported."""
    if find_spec(DECODER) is None:
        raise UserError(
            f"a pixel store of JPEGs is decoded by {DECODER}, which is not installed", hint="`pip install -e '.[jpeg]'`"
        )
