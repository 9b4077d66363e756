"""What `prepare` and `split` do; each returns the tables that are to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from folds.base.errors import counted, first_few
from folds.base.locks import alone
from folds.base.terminal import Screen, duration
from folds.base.workspace import Workspace
from folds.find.reasons import NEVER_OPENED, NO_FILE, from_cell
from folds.manifest import prepare as manifest
from folds.manifest.duplicates import KINDS
from folds.manifest.prepare import PrepareResult
from folds.manifest.summary import class_sizes, copy_counts, lacking_files, quartiles, reasons, status_counts
from folds.settings import PrepareSettings, SplitSettings
from folds.split import assign
from folds.split.assign import Folds

EXTREMES = 5  # smallest and largest classes that are shown


def prepare(
    workspace: Workspace, data: Path, settings: PrepareSettings, *, needed_size: int, screen: Screen
) -> RenderableType:
    """Make the manifest and the pixel store. needed_size: pixels of the store where its size is not set."""
    lock = alone(workspace, "folds", say=screen.complain)
    made = manifest.prepare(workspace, data, settings, needed_size=needed_size, track=screen.track, lock=lock)
    return prepare_tables(made)


def split(workspace: Workspace, settings: SplitSettings, *, seed: int, screen: Screen) -> RenderableType:
    """Assign the folds."""
    with alone(workspace, "folds", say=screen.complain, is_to_write=workspace.manifest.is_file()):
        folds, notes = assign.split(workspace, settings, seed=seed)
    return split_tables(folds, notes)


def prepare_tables(result: PrepareResult) -> RenderableType:
    """What `prepare` did, files by status and reason, copies and leaks, class sizes, notes."""
    statuses = plain_table("files", numbers=("train", "test"))
    for status, (train, test) in status_counts(result.manifest).items():
        statuses.add_row(status, f"{train:,}", f"{test:,}")
    parts: list[RenderableType] = [Text(headline(result)), statuses]
    kinds = plain_table("reason", numbers=("train", "test"), texts=("these files are", "first"))
    for reason in reasons(result.manifest):
        kinds.add_row(reason.kind, f"{reason.train:,}", f"{reason.test:,}", reason.status, _names(reason.paths))
    copies = plain_table("copies", numbers=KINDS, texts=("first",))
    for count in copy_counts(result.manifest):
        if count.paths:
            numbers = (f"{n:,}" for n in (count.exact, count.near, count.mirrored))
            copies.add_row(count.what, *numbers, _names(count.paths))
    parts += [table for table in (kinds, copies) if table.row_count]
    if result.hidden:
        files = counted(len(result.hidden), "file", "files")
        parts.append(Text(f"{files} hidden or of the system, left out: {first_few(result.hidden)}\n"))
    sizes = class_sizes(result.manifest)
    classes = plain_table("classes", texts=(f"{len(sizes):,}",))
    classes.add_row("images per class: min, quartiles, max", "  ".join(f"{size:,}" for size in quartiles(sizes)))
    for name, some in (("smallest", sizes[:EXTREMES]), ("largest", sizes[::-1][:EXTREMES])):
        classes.add_row(name, Text(", ".join(f"{label}: {size:,}" for label, size in some.items())))
    if (sizes == 0).any():
        classes.add_row("without a usable image, left out", Text(first_few(sizes.index[sizes == 0].tolist())))
    notes = [f"note: {note}" for note in result.notes]
    if lacking := lacking_files(result.manifest):
        notes.append(f"warning: {lacking}")
    return Group(*parts, classes, *map(Text, notes))


def headline(result: PrepareResult) -> str:
    codes = [{reason.code for reason in from_cell(cell)} for cell in result.manifest["reasons"]]
    n_files = sum(NO_FILE not in of_file for of_file in codes)  # it stands for an id of a CSV
    files = f"{n_files:,} files"
    if result.unchanged:
        return f"{files}, unchanged since the last prepare: nothing to do"
    kept = sum(of_file.isdisjoint(NEVER_OPENED) for of_file in codes) - result.decoded
    again = f", {kept:,} kept as they were" if kept else ""
    rate = result.decoded / max(result.seconds, 1e-9)
    decoded = f"{result.decoded:,} decoded{again}, in {duration(result.seconds)} ({rate:,.0f} images/s)"
    return f"{files}: {decoded}, kept {'as JPEG ' if result.store == 'jpeg' else ''}at {result.store_size} pixels"


def split_tables(folds: Folds, notes: Sequence[str] = ()) -> RenderableType:
    """Images, classes and the rarest class of each fold, and the classes that cannot be in all of them.

    notes  about the user's groups and folds; how even they leave the folds is said where there are any
    """
    held = np.zeros((folds.n_folds, len(folds.classes)), np.int64)
    np.add.at(held, (folds.fold, folds.target), 1)
    table = plain_table("fold", numbers=("images", "classes"), texts=("rarest class",))
    for k, counts in enumerate(held):
        present = np.flatnonzero(counts)
        rarest = int(present[np.argmin(counts[present])])
        table.add_row(str(k), f"{counts.sum():,}", f"{len(present):,}", Text(_sized(folds, rarest, counts[rarest])))
    total = held.sum(axis=0)
    small = [_sized(folds, int(c), total[c]) for c in np.flatnonzero(total < folds.n_folds)]
    lines = []
    if small:
        what = counted(len(small), "class has", "classes have")
        lines.append(f"{what} fewer images than the {folds.n_folds} folds: {first_few(small, most=10)}")
    if notes:
        share, of_all = held / held.sum(axis=1, keepdims=True), total / total.sum()  # (K, C) and (C,)
        fold, c = np.unravel_index(np.abs(share - of_all).argmax(), share.shape)
        lines += [
            *notes,
            f"the classes' shares differ most in fold {fold}: {share[fold, c]:.1%} of it are {folds.classes[c]}, "
            f"of all images {of_all[c]:.1%}",
        ]
        lonely = [_sized(folds, int(c), total[c]) for c in np.flatnonzero(((held > 0).sum(axis=0) == 1) & (total > 1))]
        if lonely:
            what, named = counted(len(lonely), "class has", "classes have"), first_few(lonely, most=10)
            lines.append(f"warning: {what} all images in one fold, which is predicted without having seen any: {named}")
    return Group(table, *map(Text, lines))


def _sized(folds: Folds, target: int, count: int) -> str:
    return f"{folds.classes[target]}: {counted(count, 'image', 'images')}"


def plain_table(first: str, *, numbers: Sequence[str] = (), texts: Sequence[str] = ()) -> Table:
    """A table without lines: a column of names, then numbers to the right, then texts to the left."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", overflow="fold")
    for column in texts:
        table.add_column(column, overflow="fold")
    return table


def _names(paths: tuple[str, ...]) -> Text:
    """File names as they are: brackets in them are no markup."""
    return Text(first_few([repr(path)[1:-1] for path in paths], most=2))
