"""Makes the manifest and the pixel store from a folder of images: it finds, decodes, compares and resizes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from folds.base.errors import UserError, first_few
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json_if_whole, replacing, write_bytes, write_json
from folds.find.dataset import Dataset, Item, find_dataset
from folds.find.listing import File, Key
from folds.find.reasons import DAMAGED, TRUNCATED, UNREAD, from_cell, reason_text, to_cell
from folds.find.relabel import relabel
from folds.manifest.duplicates import mark_copies
from folds.manifest.manifest import (
    COLUMNS,
    LEFT_OUT,
    UNREADABLE,
    USABLE,
    csv_bytes,
    parse_table,
    read_manifest,
    read_manifest_bytes,
    write_manifest,
)
from folds.manifest.summary import decoder_notes
from folds.pixels.decode import Facts, longest_side
from folds.pixels.fill import Known, fill, write_row
from folds.pixels.formats import FORMATS
from folds.pixels.pool import start_server, usable_cores
from folds.pixels.store import FORMS, STORE_GRID, VERSION, Pixels, open_store, store_path, write_head
from folds.settings import PrepareSettings, StoreForm

FACT_COLUMNS = ["path", "bytes", "mtime_ns", *(field.name for field in fields(Facts))]  # of files.csv
FACT_NUMBERS = {**dict.fromkeys(("bytes", "mtime_ns", "width", "height"), "int64"), "decoded": "float64"}
OF_FACTS = ("format", "mode", "width", "height", "digest", "phash", "mirror_phash")  # the hashes are not kept
DEPENDED_ON = ("store_size", "store", "keep_truncated", "keep_two_labels", "near_bits")  # settings
SAMPLE = 500  # files whose headers tell how large the pictures are
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
    track: Track = silently,
    lock: AbstractContextManager[None] = nullcontext(),  # noqa: B008  it holds nothing
) -> PrepareResult:
    """Bring manifest and pixel store up to date with the data: what is unchanged is kept, the rest is decoded.

    needed_size  side in pixels that the store has where the settings name none and the pictures are as large; a larger
                 store that is there stays
    lock         entered before anything is written, once it is known that the work folder lies outside of the data
    Raises UserError where the data cannot be used, lies around the work folder, or is not what the folder was made of.
    """
    start = time.perf_counter()
    _refuse_inside(workspace, data)
    if not workspace.prepare_json.exists():
        start_server(write_row)  # there will be something to decode: its processes import while files are listed
    dataset = find_dataset(data, settings)
    _refuse_inside(workspace, *dataset.targets)
    with lock:
        before = read_json_if_whole(workspace.prepare_json)
        notes, relabelled = list(dataset.notes), 0
        if settings.relabel is not None:
            dataset, relabelled, note = relabel(dataset, settings.relabel)
            notes.append(note)
        elif before.get("relabelled"):
            notes.append("labels are those of DATA again, since `--relabel` was not given this time")
        if dataset.sample is None and before.get("sample", digest(b"")) != digest(b""):
            notes.append(
                "the sample submission of the last prepare is not used, since `--sample` was not given this time"
            )
        size = settings.store_size or max(_no_larger(needed_size, dataset), before.get("store_size", 0))
        form: StoreForm = settings.store or before.get("store", "raw")
        settings = replace(settings, store_size=size, store=form)
        state = _state(dataset, settings, relabelled=relabelled)
        unchanged = (
            before == {**state, "manifest": before.get("manifest")}
            and _is_whole(workspace, before)
            and not _may_be_read_now(workspace, dataset.root)
        )
        if unchanged:
            manifest, decoded = read_manifest(workspace), 0
        else:
            manifest, decoded = _make(workspace, dataset, settings, before, state, track=track)
            write_json(workspace.prepare_json, {**state, "manifest": digest(read_manifest_bytes(workspace))})
        seconds = time.perf_counter() - start
        notes += decoder_notes(manifest)
        return PrepareResult(manifest, unchanged, decoded, dataset.hidden, tuple(notes), seconds, size, form)


def _no_larger(size: int, dataset: Dataset) -> int:
    """The side of a store, or of the longest picture where all are smaller, rounded up: no detail is lost."""
    step = math.ceil(len(dataset.items) / SAMPLE)
    longest = longest_side([dataset.root / item.file.path for item in dataset.items[::step]])
    return size if longest is None else min(size, math.ceil(longest / STORE_GRID) * STORE_GRID)


def _make(
    workspace: Workspace,
    dataset: Dataset,
    settings: PrepareSettings,
    before: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    track: Track,
) -> tuple[pd.DataFrame, int]:
    """Make everything, and write it in an order that leaves no store with another manifest where it is killed.

    before, state  what the work folder was made from, and what it is to be made from
    """
    files, facts = [item.file for item in dataset.items], _read_facts(workspace)
    _refuse_other_data(workspace, dataset, facts)
    known = Known({}, None)
    if all(before.get(key) == state[key] for key in ("version", "store_size", "store")):
        with suppress(UserError):  # a store that is absent or damaged: all files are decoded again
            known = Known(facts, open_store(workspace).pixels)
    all_known = known.all_of(files)
    if known.pixels is not None and all_known is not None:  # other labels or settings: no pixel is touched
        manifest = _manifest(dataset, all_known, known.pixels, settings)
        _write_manifest(workspace, dataset, manifest)
        return manifest, 0
    size, form = state["store_size"], state["store"]
    with replacing(store_path(workspace, size, form)) as temporary:
        pixels = FORMS[form].create(temporary, n=len(files), size=size)
        workers = settings.workers or usable_cores()
        made, decoded = fill(pixels, files, root=dataset.root, known=known, workers=workers, track=track)
        manifest = _manifest(dataset, made, pixels, settings)
        more = pixels.finish()
        for head in workspace.folds.glob("pixels-*.json"):
            head.unlink()  # from here to `write_head` there is no store
    _write_facts(workspace, files, made)
    _write_manifest(workspace, dataset, manifest)
    write_head(workspace, manifest, size=size, form=form, more=more)
    return manifest, decoded


def _manifest(dataset: Dataset, facts: Sequence[Facts], pixels: Pixels, settings: PrepareSettings) -> pd.DataFrame:
    """The manifest: a row per item, in their order. Raises UserError where fewer than two classes have images to train.

    pixels  (items, S, S, 3) uint8: the picture of each item that decoded
    """
    items = dataset.items
    columns = {name: [getattr(item, name) for item in items] for name in ("image_id", "split", "label")}
    columns |= {name: [getattr(fact, name) for fact in facts] for name in OF_FACTS}
    table = pd.DataFrame(columns)
    table["path"], table["bytes"] = [item.file.path for item in items], [item.file.bytes for item in items]
    table["status"] = [_status(item, fact, settings) for item, fact in zip(items, facts, strict=True)]
    reasons = [[*item.reasons, *fact.reasons] for item, fact in zip(items, facts, strict=True)]
    mark_copies(table, reasons, pixels, settings)
    table["reasons"] = list(map(to_cell, reasons))
    train = table[table["split"] == "train"]
    n_classes = train.loc[train["status"] == USABLE, "label"].nunique()
    if n_classes < 2:
        whys = sorted(set(map(reason_text, train.loc[train["status"] != USABLE, "reasons"])))
        raise UserError(
            f"{n_classes} classes of {train['label'].nunique()} have usable training images and two are needed; "
            f"first reasons: {first_few(whys)}"
        )
    return table[list(COLUMNS)]


def _status(item: Item, fact: Facts, settings: PrepareSettings) -> str:
    if fact.decoded == 0:
        return UNREADABLE
    is_damaged = any(reason.code in (TRUNCATED, DAMAGED) for reason in fact.reasons)
    if item.is_left_out or (is_damaged and item.split == "train" and not settings.keep_truncated):
        return LEFT_OUT
    return USABLE


def _write_facts(workspace: Workspace, files: Sequence[File], facts: Sequence[Facts]) -> None:
    """Write `files.csv`: what decoding found out about each file, in the order of the manifest."""
    rows = [(*file.key, *vars(fact).values()) for file, fact in zip(files, facts, strict=True)]
    table = pd.DataFrame(rows, columns=FACT_COLUMNS)
    table["reasons"] = table["reasons"].map(to_cell)
    write_bytes(workspace.folds / "files.csv", csv_bytes(table))


def _read_facts(workspace: Workspace) -> dict[Key, tuple[int, Facts]]:
    """The row and the facts by file; empty where there are none, or where they were written by another version."""
    try:
        table = parse_table((workspace.folds / "files.csv").read_bytes(), FACT_NUMBERS)
        table["reasons"] = table["reasons"].map(from_cell)
        rows = enumerate(zip(*(table[name].tolist() for name in FACT_COLUMNS), strict=True))
        return {(path, size, mtime): (row, Facts(*facts)) for row, (path, size, mtime, *facts) in rows}
    except (OSError, ValueError, TypeError, KeyError):  # absent, or not to be read: all files are decoded again
        return {}


def _state(dataset: Dataset, settings: PrepareSettings, *, relabelled: int) -> dict[str, Any]:
    """What the work folder depends on: as long as it is equal, there is nothing to do."""
    listing = [
        (i.image_id, i.split, i.label, i.is_left_out, i.reasons, i.file.key, i.file.fault) for i in dataset.items
    ]
    csvs = (dataset.sample, dataset.train_csv)
    sample, labels = (digest((dataset.root / path).read_bytes() if path else b"") for path in csvs)
    return {
        "version": VERSION,
        **{name: getattr(settings, name) for name in DEPENDED_ON},
        "files": len(dataset.items),
        "listing": digest(json.dumps(listing).encode()),
        "sample": sample,
        "labels": labels,
        "relabelled": relabelled,
        "id_column": dataset.id_column,
        "reads": [name for name in ("AVIF", "HEIF") if name in FORMATS],  # with one more there is something to do
    }


def _is_whole(workspace: Workspace, before: Mapping[str, Any]) -> bool:
    """Whether the manifest and the copies of DATA's CSVs are those that were written, and the store is theirs."""
    try:
        open_store(workspace)
    except UserError:
        return False
    files = {"manifest": workspace.manifest, "sample": workspace.sample, "labels": workspace.labels}
    return all(digest(path.read_bytes() if path.exists() else b"") == before[name] for name, path in files.items())


def _may_be_read_now(workspace: Workspace, root: Path) -> bool:
    """Whether a file that could not be read can be opened now; what a decoder cannot do is not tried again."""
    manifest = read_manifest(workspace)
    unread = manifest.loc[manifest["reasons"].str.contains(UNREAD, regex=False), "path"]
    return any(os.access(root / path, os.R_OK) for path in unread)


def _write_manifest(workspace: Workspace, dataset: Dataset, manifest: pd.DataFrame) -> None:
    """Write the manifest and the copies of the sample submission and of the CSV of labels."""
    for path, copy in ((dataset.sample, workspace.sample), (dataset.train_csv, workspace.labels)):
        if path:
            write_bytes(copy, (dataset.root / path).read_bytes())
        else:
            copy.unlink(missing_ok=True)
    write_manifest(workspace, manifest)


def _refuse_inside(workspace: Workspace, *folders: Path | str) -> None:
    for folder in folders:
        if workspace.root.resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(
                f"the work folder {workspace.root} lies inside {folder}, where nothing is written",
                hint="choose another folder with `--work DIR`",
            )


def _refuse_other_data(workspace: Workspace, dataset: Dataset, known: Mapping[Key, tuple[int, Facts]]) -> None:
    """Refuse a work folder that knows other files; the same files elsewhere or with other times are the same data."""
    here = {(item.file.path, item.file.bytes) for item in dataset.items} if known else set()
    there = [(path, size) in here for path, size, _ in known]
    if there and sum(there) < KNOWN_SHARE * len(there):
        raise UserError(
            f"{workspace.root} was made from other data: "
            f"{sum(there):,} of its {len(there):,} files are in {dataset.root}",
            hint="choose another folder with `--work DIR`",
        )
