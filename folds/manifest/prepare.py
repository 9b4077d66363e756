"""Makes the manifest and the pixel store from a folder of images: it finds, decodes, compares and resizes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from folds.base.errors import UserError, first_few
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json, replacing, sweep, write_bytes, write_json
from folds.engine import SEQUENTIAL, EngineSettings
from folds.find.dataset import Dataset, find_dataset
from folds.find.listing import linked_folders
from folds.find.relabel import relabel, relabel_note
from folds.manifest.facts import Key, read_facts, write_facts
from folds.manifest.left_out import left_out_path, write_left_out
from folds.manifest.manifest import USABLE, read_manifest, sample_path, usable_rows, write_manifest
from folds.manifest.status import make_manifest
from folds.manifest.summary import decoder_notes
from folds.pixels.decode import FORMATS, Facts
from folds.pixels.fill import Decode, OldRows, fill, keep_rows
from folds.pixels.jpeg import JpegPixels, pack, refuse_without_decoder
from folds.pixels.pool import in_processes, start_early
from folds.pixels.ray_rows import rows_on_ray
from folds.pixels.store import VERSION, Pixels, all_stores, open_store, store_path, write_head
from folds.pixels.worker import write_row
from folds.settings import PrepareSettings, StoreForm
from folds.split.classes import class_order

KNOWN_SHARE = 0.5  # of the files that the work folder was made from must still be there, else it is other data


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare` did and found.

    manifest  one row per file, as in manifest.csv     decoded  files decoded now; 0 and `unchanged` if nothing was due
    hidden    hidden and system files left out         notes    sentences that the user should read
    seconds   of the whole call                         store_size, store  side and form of the pixel store
    """

    manifest: pd.DataFrame
    unchanged: bool
    decoded: int
    hidden: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    store_size: int
    store: StoreForm


def prepare(
    workspace: Workspace,
    data: Path,
    settings: PrepareSettings,
    *,
    needed_size: int = 288,
    engine: EngineSettings = SEQUENTIAL,
    track: Track = silently,
) -> PrepareResult:
    """Bring manifest and pixel store up to date with the data: what is unchanged is kept, the rest is decoded.

    engine       its address names a cluster, all machines of which decode; else the cores of this machine do
    needed_size  side in pixels that the store must have where the settings name none; a larger one that is there stays
    Raises UserError where the data cannot be used, lies around the work folder, or is not what the folder was made of.
    """
    start = time.perf_counter()
    _refuse_inside(workspace, [data])
    before = _read_state(workspace)
    if not before:
        start_early(write_row)  # there will be something to decode: its processes import while files are listed
    found = find_dataset(data, settings)
    _refuse_inside(workspace, found.targets)
    dataset, changes, notes = _relabelled(found, settings, before=before)
    if settings.store_size is None:
        settings = replace(settings, store_size=max(needed_size, before.get("store_size", 0)))
    if settings.store is None:
        settings = replace(settings, store=before.get("store", "raw"))
    if settings.store == "jpeg":
        refuse_without_decoder()
    state = _state(dataset, settings, changes)
    if before == state and _is_whole(workspace):
        manifest, decoded, unchanged = read_manifest(workspace), 0, True
    else:
        decode = _decode(settings, engine)
        manifest, decoded = _make(workspace, dataset, settings, before=before, decode=decode, track=track)
        unchanged = False
        write_json(state_path(workspace), state)
    seconds = time.perf_counter() - start
    size, form, notes = state["store_size"], state["store"], (*notes, *decoder_notes(manifest))
    return PrepareResult(manifest, unchanged, decoded, dataset.hidden, notes, seconds, size, form)


def _relabelled(
    dataset: Dataset, settings: PrepareSettings, *, before: Mapping[str, Any]
) -> tuple[Dataset, Mapping[str, str], tuple[str, ...]]:
    """The dataset with the labels of `--relabel`, what that changed, and all notes."""
    if settings.relabel is not None:
        dataset, changes = relabel(dataset, settings.relabel)
        return dataset, changes, (*dataset.notes, relabel_note(settings.relabel, changes))
    if before.get("relabelled"):
        note = "labels are those of DATA again, since `--relabel` was not given this time"
        return dataset, {}, (*dataset.notes, note)
    return dataset, {}, dataset.notes


def state_path(workspace: Workspace) -> Path:
    return workspace.folds / "prepare.json"


def _make(
    workspace: Workspace,
    dataset: Dataset,
    settings: PrepareSettings,
    *,
    before: dict[str, Any],
    decode: Decode,
    track: Track,
) -> tuple[pd.DataFrame, int]:
    """Make everything and write it in an order that a kill leaves either whole or known to be unfinished."""
    known = read_facts(workspace)
    _refuse_other_data(workspace, dataset, known)
    size, form = settings.store_size, settings.store
    assert size is not None, "prepare() settles the size"
    assert form is not None, "and the form"
    if any(before.get(key) != now for key, now in (("version", VERSION), ("store_size", size), ("store", form))):
        known = {}
    sweep(workspace.folds)
    with replacing(store_path(workspace, size, form)) as temporary:
        old = _old_rows(workspace, known)
        filled = fill(temporary, dataset, size=size, form=form, decode=decode, known=known, old=old, track=track)
        manifest = make_manifest(dataset.items, filled.facts, filled.pixels, settings)
        _refuse_unusable(manifest)
        rows = np.flatnonzero(manifest["status"] == USABLE)
        write_left_out(workspace, manifest, filled.pixels)
        more = _keep(temporary, filled.pixels, rows)
        state_path(workspace).unlink(missing_ok=True)  # from here to the last line the work folder is unfinished
        for head in workspace.folds.glob("pixels-*.json"):
            head.unlink()
    write_facts(workspace, dataset.items, filled.facts)
    _copy_sample(workspace, dataset)
    manifest_digest = write_manifest(workspace, manifest)
    write_head(workspace, n=len(rows), size=size, form=form, manifest_digest=manifest_digest, more=more)
    for other in all_stores(workspace):
        if other != store_path(workspace, size, form):
            other.unlink()
    return manifest, filled.decoded


def _decode(settings: PrepareSettings, engine: EngineSettings) -> Decode:
    """Who decodes: processes of this machine, as many as it has cores, or all machines of a cluster."""
    if engine.address is not None:
        return partial(rows_on_ray, engine=engine)
    return partial(in_processes, write_row, workers=settings.workers or os.cpu_count() or 1)


def _keep(path: Path, pixels: Pixels, rows: np.ndarray) -> dict[str, Any]:
    """Let a file that was filled hold these rows only, side by side; returns what its head must know beside that."""
    if isinstance(pixels, JpegPixels):
        return pack(path, pixels, rows)
    keep_rows(path, rows, size=pixels.shape[1])
    return {}


def _old_rows(workspace: Workspace, known: Mapping[Key, Facts]) -> OldRows | None:
    """The rows of the store that is there, by file; None if there is none that fits its manifest."""
    if not known:
        return None
    try:
        store = open_store(workspace)
        manifest = usable_rows(read_manifest(workspace))
    except UserError:
        return None  # absent or damaged: everything is decoded again
    row_of_path = {path: row for row, path in enumerate(manifest["path"])}
    rows = {key: row_of_path[key[0]] for key in known if key[0] in row_of_path}
    return OldRows(store.pixels, rows)


def _state(dataset: Dataset, settings: PrepareSettings, changes: Mapping[str, str]) -> dict[str, Any]:
    """What the work folder depends on: as long as it is equal, there is nothing to do. changes: those of `relabel`."""
    listing = [
        (i.image_id, i.split, i.label, i.left_out, i.file.path, i.file.bytes, i.file.mtime_ns, i.file.fault, i.note)
        for i in dataset.items
    ]
    sample = (dataset.root / dataset.sample).read_bytes() if dataset.sample else b""
    return {
        "version": VERSION,
        "store_size": settings.store_size,
        "store": settings.store,
        "keep_truncated": settings.keep_truncated,
        "keep_two_labels": settings.keep_two_labels,
        "near_bits": settings.near_bits,
        "files": len(dataset.items),
        "listing": digest(json.dumps(listing).encode()),
        "sample": digest(sample),
        "relabelled": len(changes),
        **({"decoders": ["HEIF"]} if "HEIF" in FORMATS else {}),  # once it is installed, there is something to do
    }


def _read_state(workspace: Workspace) -> dict[str, Any]:
    try:
        state = read_json(state_path(workspace), hint="")
    except UserError:
        return {}  # absent or damaged: everything is looked at again
    return {"store": "raw", **state} if isinstance(state, dict) else {}  # older ones knew one form only


def _is_whole(workspace: Workspace) -> bool:
    try:
        open_store(workspace)
    except UserError:
        return False
    return left_out_path(workspace).is_file()


def _copy_sample(workspace: Workspace, dataset: Dataset) -> None:
    if dataset.sample:
        write_bytes(sample_path(workspace), (dataset.root / dataset.sample).read_bytes())
    else:
        sample_path(workspace).unlink(missing_ok=True)


def is_apart(workspace: Workspace, data: Path) -> bool:
    """Whether there is data, and the work folder lies outside of it and of all folders that its links lead to."""
    if not data.is_dir() or _is_inside(workspace, data):
        return False
    if workspace.manifest.is_file():
        return True  # an earlier `prepare` has looked at the links
    return not any(_is_inside(workspace, target) for target in linked_folders(data))


def _is_inside(workspace: Workspace, data: Path | str) -> bool:
    return workspace.root.resolve().is_relative_to(Path(data).resolve())


def _refuse_inside(workspace: Workspace, folders: Iterable[Path | str]) -> None:
    for folder in folders:
        if _is_inside(workspace, folder):
            raise UserError(
                f"the work folder {workspace.root} lies inside {folder}, where nothing is written",
                hint="choose another folder with `--work DIR`",
            )


def _refuse_other_data(workspace: Workspace, dataset: Dataset, known: Mapping[Key, Facts]) -> None:
    """The work folder knows other files. The same files at another place or with another time are the same data."""
    here = {(item.file.path, item.file.bytes) for item in dataset.items} if known else set()
    there = [(path, size) in here for path, size, _ in known]
    if there and sum(there) < KNOWN_SHARE * len(there):
        raise UserError(
            f"{workspace.root} was made from other data: "
            f"{sum(there):,} of its {len(there):,} files are in {dataset.root}",
            hint="choose another folder with `--work DIR`",
        )


def _refuse_unusable(manifest: pd.DataFrame) -> None:
    train = manifest[manifest["split"] == "train"]
    labels = class_order(train.loc[train["status"] == USABLE, "label"])
    if len(labels) < 2:
        reasons = train.loc[train["status"] != USABLE, "reason"]
        raise UserError(
            f"{len(labels)} classes of {train['label'].nunique()} have usable training images and two are needed; "
            f"first reasons: {first_few(sorted(set(reasons)))}"
        )
