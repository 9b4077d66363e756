"""Reads and lays out the pixel store: every usable image, upright, S x S, uint8, one memory-mapped file.

It has two forms: `raw` keeps the bytes of the pixels, and a batch is gathered at the speed of memory; `jpeg` keeps a
JPEG of each picture, for disks that are too small. Everything but the bytes of the file is the same.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, digest, read_json, write_json
from folds.manifest.manifest import PREPARE_HINT, parse_manifest, read_manifest, read_manifest_bytes, usable_rows
from folds.pixels.jpeg import CHANNELS, JpegPixels, read_index
from folds.settings import StoreForm

VERSION = 1  # of the store's layout and of the decoding rules: a store of another version is made anew
FILTER = "bicubic"  # Pillow's antialiased resampling from the decoded picture to the square
ENDINGS: dict[StoreForm, str] = {"raw": "u8", "jpeg": "jpegs"}
Pixels: TypeAlias = np.ndarray | JpegPixels  # both have a shape of (n, S, S, 3), and [row] of both is a picture


@dataclass(frozen=True)
class PixelStore:
    """All usable images of train and test, in the order of the manifest.

    pixels    (n, S, S, 3) uint8, read-only: np.memmap or JpegPixels
    image_id  (n,) str     split  (n,) 'train' or 'test'
    width, height  (n,) int64, pixels: the true size, upright; the store squashes it to a square
    size      S, pixels
    """

    pixels: Pixels
    image_id: np.ndarray
    split: np.ndarray
    width: np.ndarray
    height: np.ndarray
    size: int

    @property
    def identity(self) -> list[int | str]:
        """What tells the pixels of this store from those of another size or form, for whatever is made from them."""
        return [*self.pixels.shape, *(["jpeg"] if isinstance(self.pixels, JpegPixels) else [])]

    def rows(self, image_id: np.ndarray, *, split: str) -> np.ndarray:
        """The rows of these ids, in their order. (len(image_id),) int64. Raises UserError for ids it does not have."""
        here = np.flatnonzero(self.split == split)  # ascending, and so are its ids: the manifest is sorted by them
        ids = self.image_id[here]
        at = np.searchsorted(ids, image_id)
        lacking = np.ones(len(image_id), dtype=bool)
        inside = at < len(ids)
        lacking[inside] = ids[at[inside]] != np.asarray(image_id)[inside]
        if lacking.any():
            names = first_few(list(np.asarray(image_id)[lacking]))
            raise UserError(f"the pixel store has no {split} image {names}", hint=PREPARE_HINT)
        return here[at].astype(np.int64)


def open_store(workspace: Workspace) -> PixelStore:
    """The pixel store of the work folder, checked for its length and against the manifest.

    Raises UserError where it is absent or damaged. Its sums are checked by `damaged_rows`, which reads all of it.
    """
    manifest_data = read_manifest_bytes(workspace)
    pixels = _find_pixels(workspace, manifest_digest=digest(manifest_data))
    if pixels is None:
        raise UserError(f"{workspace.folds} has no pixel store that fits its manifest", hint=PREPARE_HINT)
    rows = usable_rows(parse_manifest(manifest_data, name=str(workspace.manifest)))
    if len(rows) != len(pixels):
        raise UserError(f"{workspace.folds} holds {len(pixels)} images where {len(rows)} are usable", hint=PREPARE_HINT)
    return PixelStore(
        pixels=pixels,
        image_id=rows["image_id"].to_numpy(dtype=str),
        split=rows["split"].to_numpy(dtype=str),
        width=rows["width"].to_numpy(dtype=np.int64),
        height=rows["height"].to_numpy(dtype=np.int64),
        size=pixels.shape[1],
    )


def store_path(workspace: Workspace, size: int, form: StoreForm) -> Path:
    return workspace.folds / f"pixels-{size}.{ENDINGS[form]}"


def all_stores(workspace: Workspace) -> list[Path]:
    """Every file of pixels that lies there, whatever its size and form."""
    return sorted(path for ending in ENDINGS.values() for path in workspace.folds.glob(f"pixels-*.{ending}"))


def head_path(workspace: Workspace, size: int) -> Path:
    return workspace.folds / f"pixels-{size}.json"


def _find_pixels(workspace: Workspace, *, manifest_digest: str) -> Pixels | None:
    """The pixels of the one store that was made with this manifest and whose file is whole, else None."""
    for path in sorted(workspace.folds.glob("pixels-*.json")):
        head = read_json(path, hint=PREPARE_HINT)
        if not isinstance(head, dict) or head.get("version") != VERSION or head.get("manifest") != manifest_digest:
            continue
        n, size, form = head["n"], head["size"], head.get("form", "raw")
        store = store_path(workspace, size, form)
        if form == "jpeg":
            index = read_index(store, n=n, n_bytes=head["bytes"], index_digest=head["index"])
            if index is not None:
                return JpegPixels(store, index, size)
        elif store.exists() and store.stat().st_size == n * size**2 * CHANNELS:
            return map_pixels(store, n=n, size=size)
    return None


def write_head(
    workspace: Workspace, *, n: int, size: int, form: StoreForm, manifest_digest: str, more: dict[str, Any]
) -> None:
    """Describe the store, last of all its files: without this one it does not count as there."""
    head = {
        "version": VERSION,
        "form": form,
        "n": n,
        "size": size,
        "shape": [n, size, size, CHANNELS],
        "filter": FILTER,
        "manifest": manifest_digest,
        **more,
    }
    write_json(head_path(workspace, size), head)


def map_pixels(path: Path, *, n: int, size: int, mode: str = "r") -> np.ndarray:
    """(n, size, size, 3) uint8, memory-mapped; an empty array where n is 0, which no file can map."""
    shape = (n, size, size, CHANNELS)
    return np.memmap(path, dtype=np.uint8, mode=mode, shape=shape) if n else np.empty(shape, np.uint8)  # type: ignore[call-overload]


def damaged_rows(workspace: Workspace) -> np.ndarray:
    """The image ids whose pixels are not those that were written. (m,) str; reads the whole store.

    The second half of a digest in the manifest is the CRC-32 of the image's row; JPEGs have one of their own.
    """
    store = open_store(workspace)
    if isinstance(store.pixels, JpegPixels):
        return store.image_id[store.pixels.damaged()]
    digests = usable_rows(read_manifest(workspace))["digest"]
    written = [int(text[8:], 16) for text in digests]
    now = [zlib.crc32(row.data) for row in store.pixels]
    return store.image_id[np.array(now) != np.array(written)]
