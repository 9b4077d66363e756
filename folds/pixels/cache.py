"""Copies the pixel store to a machine's own disk, once for all jobs on it, and checks every row of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from folds.base.errors import CannotWriteError, UserError, first_few
from folds.base.locks import claim, pause
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json, replacing, write_json
from folds.manifest.manifest import PREPARE_HINT, read_manifest_bytes
from folds.pixels.store import damaged_rows

PIECE = 1 << 24  # bytes
MARK = "copied.json"  # written last: sizes and times of the files, as they were when every pixel had been checked


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


def _is_whole(copy: Workspace) -> bool:
    try:
        return bool(read_json(copy.root / MARK, hint="")["files"] == _sizes_and_times(copy))
    except (UserError, KeyError, TypeError):
        return False


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
