"""Opens the pixel store: the picture of every file of the manifest, upright, S x S, uint8, one memory-mapped file.

Row i is row i of the manifest; files that could not be read have an empty row. The store has two forms: `raw` keeps
the bytes of the pixels, `jpeg` a JPEG of each picture, for disks that are too small. Jobs may read a copy on their
machine's own disk, made once for all of them, after every row of it was checked.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from folds.base.errors import CannotWriteError, UserError, first_few
from folds.base.locks import claim, pause
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json, read_json_if_whole, replacing, write_json
from folds.manifest.manifest import PREPARE_HINT, USABLE, read_manifest, read_manifest_bytes
from folds.pixels.forms import JpegPixels, RawPixels
from folds.settings import StoreForm

VERSION = 3  # of the store's layout and of the decoding rules: a store of another version is made anew
ENDINGS: dict[StoreForm, str] = {"raw": "u8", "jpeg": "jpegs"}
Pixels: TypeAlias = RawPixels | JpegPixels
FORMS: dict[StoreForm, type[RawPixels] | type[JpegPixels]] = {"raw": RawPixels, "jpeg": JpegPixels}
STORE_GRID = 32  # pixels: the side of a store that nobody chose is a multiple of it
PIECE = 1 << 24  # bytes that are copied at a time
MARK = "copied.json"  # of a copy, written last: sizes and times of its files, once every pixel had been checked


@dataclass(frozen=True)
class PixelStore:
    """The pictures of all files of the manifest, in its order.

    pixels    looks like an (n, S, S, 3) uint8 array
    image_id  (n,) str     split  (n,) 'train', 'test', or '' for a file that is not used
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

    @property
    def longest_side(self) -> int:
        """Of the pictures that are used, in pixels: no input shows more."""
        return int(np.maximum(self.width, self.height)[self.split != ""].max())

    @property
    def test_rows(self) -> np.ndarray:
        """The rows of all usable test images, ascending. (T,) int64."""
        return np.flatnonzero(self.split == "test")

    def rows(self, image_id: np.ndarray, *, split: str) -> np.ndarray:
        """The rows of these ids, in their order. (len(image_id),) int64.

        Raises UserError for ids that it does not have, or that are not used.
        """
        here = np.flatnonzero(self.split == split)  # ascending, and so are its ids: the manifest is sorted by them
        ids = self.image_id[here]
        at = np.searchsorted(ids, image_id)
        lacking = np.append(ids, "")[at] != np.asarray(image_id)  # '' stands behind the last id
        if lacking.any():
            names = first_few(list(np.asarray(image_id)[lacking]))
            older = "`python run.py split` says whether the folds are older than the images"
            raise UserError(
                f"the pixel store has no {split} image {names}", hint=older if split == "train" else PREPARE_HINT
            )
        return here[at].astype(np.int64)


def open_store(workspace: Workspace) -> PixelStore:
    """The pixel store of the work folder: the one that was made for the manifest's rows, and whose file is whole.

    Raises UserError where there is none. Its sums are checked by `damaged_rows`, which reads all of it.
    """
    manifest = read_manifest(workspace)
    rows = rows_digest(manifest)
    for path in sorted(workspace.folds.glob("pixels-*.json")):
        head = read_json(path, hint=PREPARE_HINT)
        if not isinstance(head, dict) or head.get("version") != VERSION:
            raise UserError(f"{path} was written by another version", hint=PREPARE_HINT)
        if head["rows"] != rows:
            continue
        pixels = FORMS[head["form"]].open(store_path(workspace, head["size"], head["form"]), head)
        if pixels is not None:
            return PixelStore(
                pixels=pixels,
                image_id=manifest["image_id"].to_numpy(dtype=str),
                split=manifest["split"].where(manifest["status"] == USABLE, "").to_numpy(dtype=str),
                width=manifest["width"].to_numpy(dtype=np.int64),
                height=manifest["height"].to_numpy(dtype=np.int64),
                size=pixels.size,
            )
    raise UserError(f"{workspace.folds} has no pixel store that fits its manifest", hint=PREPARE_HINT)


def rows_digest(manifest: pd.DataFrame) -> str:
    """A digest of which file lies in which row of the store, and of its pixels; labels do not count."""
    cells = zip(manifest["path"].tolist(), manifest["digest"].tolist(), strict=True)
    return digest("\n".join(f"{path}\t{pixels}" for path, pixels in cells).encode())


def store_path(workspace: Workspace, size: int, form: StoreForm) -> Path:
    return workspace.folds / f"pixels-{size}.{ENDINGS[form]}"


def write_head(
    workspace: Workspace, manifest: pd.DataFrame, *, size: int, form: StoreForm, more: dict[str, Any]
) -> None:
    """Describe the store, after its other files are written: one without its head is not used. Removes all others."""
    head = {"version": VERSION, "form": form, "n": len(manifest), "size": size, "rows": rows_digest(manifest), **more}
    write_json(workspace.folds / f"pixels-{size}.json", head)
    for ending in ENDINGS.values():
        for path in workspace.folds.glob(f"pixels-*.{ending}"):
            if path != store_path(workspace, size, form):
                path.unlink()


def cached(workspace: Workspace, cache: Path | None, *, track: Track = silently) -> Workspace:
    """The workspace to read pixels from: a checked copy of manifest and store below `cache`; `workspace` without one.

    Every row of a new copy is held against its sum in the manifest. Later a file counts as unchanged as long as its
    size and time are: reading 20 GB again would cost each job half a minute. Of two that come at once, one copies.
    Raises UserError where the copy cannot be made, or the store is damaged.
    """
    if cache is None:
        return workspace
    owner = digest(str(workspace.root.resolve()).encode())
    heads = sorted(workspace.folds.glob("pixels-*.json"))
    store = digest(b"".join([read_manifest_bytes(workspace), *(path.read_bytes() for path in heads)]))
    copy = Workspace(cache.absolute() / f"foldblend-{owner}-{store}")
    try:
        while not _is_whole(copy):
            with claim(cache / f"foldblend-{owner}.json") as holder:
                if holder is None and not _is_whole(copy):
                    for other in cache.absolute().glob(f"foldblend-{owner}-*"):  # torn ones, and those of older stores
                        shutil.rmtree(other, ignore_errors=True)
                    _copy(workspace, copy, track=track)
            if holder is not None:
                pause(track)
    except CannotWriteError as err:
        raise UserError(f"the pixels cannot be copied: {err.message}", hint="`--cache DIR` with more room") from err
    return copy


def damaged_rows(workspace: Workspace) -> np.ndarray:
    """The image ids whose pixels are not those that were written. (m,) str; reads the whole store.

    A digest in the manifest is the CRC-32 of the image's row; JPEGs have one of their own.
    """
    store = open_store(workspace)
    digests = read_manifest(workspace)["digest"].tolist()
    return store.image_id[store.pixels.damaged([int(text, 16) if text else None for text in digests])]


def _is_whole(copy: Workspace) -> bool:
    return bool(read_json_if_whole(copy.root / MARK).get("files") == _sizes_and_times(copy))


def _sizes_and_times(copy: Workspace) -> dict[str, list[int]]:
    files = sorted(copy.folds.glob("[!.]*"))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _copy(workspace: Workspace, copy: Workspace, *, track: Track) -> None:
    files = [workspace.manifest, *sorted(workspace.folds.glob("pixels-*"))]
    total = sum(path.stat().st_size for path in files)
    pieces = (piece for path in files for piece in _copied(path, copy.folds / path.name))
    for _ in track(pieces, what=f"copy the pixels to {copy.root.parent}", total=total, unit="bytes", each=PIECE):
        pass
    damaged = damaged_rows(copy)
    if len(damaged):
        shutil.rmtree(copy.root, ignore_errors=True)
        raise UserError(
            f"checksum mismatch: the pixels of {first_few(list(damaged))} in {workspace.folds} changed after they were "
            "written",
            hint=f"`rm {workspace.folds}/pixels-*`, then {PREPARE_HINT}",
        )
    write_json(copy.root / MARK, {"files": _sizes_and_times(copy)})


def _copied(source: Path, target: Path) -> Iterator[int]:
    """Copy a file whole or not at all; yields after each piece."""
    with replacing(target) as temporary, open(source, "rb") as old, open(temporary, "wb") as new:
        while data := old.read(PIECE):
            new.write(data)
            yield len(data)
