"""This file reads and lays out the pixel store: every usable image, upright, S x S, uint8, one memory-mapped file."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from folds.errors import UserError, first_few
from folds.manifest import PREPARE_HINT, parse_manifest, read_manifest, read_manifest_bytes, usable_rows
from folds.workspace import Workspace, digest, read_json, write_json

VERSION = 1  # of the store's layout and of the decoding rules: a store of another version is made anew
FILTER = "bicubic"  # Pillow's antialiased resampling from the decoded picture to the square
CHANNELS = 3


@dataclass(frozen=True)
class PixelStore:
    """All usable images of train and test, in the order of the manifest.

    pixels    (n, S, S, 3) uint8, read-only np.memmap     image_id  (n,) str     split  (n,) 'train' or 'test'
    width, height  (n,) int64, pixels: the true size, upright; the store squashes it to a square
    size      S, pixels
    """

    pixels: np.ndarray
    image_id: np.ndarray
    split: np.ndarray
    width: np.ndarray
    height: np.ndarray
    size: int

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
    head = store_head(workspace, manifest_digest=digest(manifest_data))
    if head is None:
        raise UserError(f"{workspace.folds} has no pixel store that fits its manifest", hint=PREPARE_HINT)
    rows = usable_rows(parse_manifest(manifest_data, name=str(workspace.manifest)))
    if len(rows) != head["n"]:
        raise UserError(f"{workspace.folds} holds {head['n']} images where {len(rows)} are usable", hint=PREPARE_HINT)
    return PixelStore(
        pixels=map_pixels(store_path(workspace, head["size"]), n=head["n"], size=head["size"]),
        image_id=rows["image_id"].to_numpy(dtype=str),
        split=rows["split"].to_numpy(dtype=str),
        width=rows["width"].to_numpy(dtype=np.int64),
        height=rows["height"].to_numpy(dtype=np.int64),
        size=head["size"],
    )


def store_path(workspace: Workspace, size: int) -> Path:
    return workspace.folds / f"pixels-{size}.u8"


def head_path(workspace: Workspace, size: int) -> Path:
    return workspace.folds / f"pixels-{size}.json"


def store_head(workspace: Workspace, *, manifest_digest: str) -> dict[str, Any] | None:
    """What `pixels-<S>.json` says of the one store that was made with this manifest and has its length, else None."""
    for path in sorted(workspace.folds.glob("pixels-*.json")):
        head = read_json(path, hint=PREPARE_HINT)
        if not isinstance(head, dict) or head.get("version") != VERSION or head.get("manifest") != manifest_digest:
            continue
        store = store_path(workspace, head["size"])
        length = head["n"] * head["size"] ** 2 * CHANNELS
        if store.exists() and store.stat().st_size == length:
            return head
    return None


def write_head(workspace: Workspace, *, n: int, size: int, manifest_digest: str) -> None:
    """Describe the store, last of all its files: without this one it does not count as there."""
    head = {
        "version": VERSION,
        "n": n,
        "size": size,
        "shape": [n, size, size, CHANNELS],
        "filter": FILTER,
        "manifest": manifest_digest,
    }
    write_json(head_path(workspace, size), head)


def map_pixels(path: Path, *, n: int, size: int, mode: str = "r") -> np.ndarray:
    """(n, size, size, 3) uint8, memory-mapped; an empty array where n is 0, which no file can map."""
    shape = (n, size, size, CHANNELS)
    return np.memmap(path, dtype=np.uint8, mode=mode, shape=shape) if n else np.empty(shape, np.uint8)  # type: ignore[call-overload]


def damaged_rows(workspace: Workspace) -> np.ndarray:
    """The image ids whose pixels are not those that were written. (m,) str; reads the whole store.

    The second half of a digest in the manifest is the CRC-32 of the image's row.
    """
    store = open_store(workspace)
    digests = usable_rows(read_manifest(workspace))["digest"]
    written = [int(text[8:], 16) for text in digests]
    now = [zlib.crc32(row.data) for row in store.pixels]
    return store.image_id[np.array(now) != np.array(written)]
