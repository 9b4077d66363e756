"""Lays out what `prepare` and `split` found as tables for the terminal; `run.py` prints them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from folds.base.errors import first_few
from folds.manifest.manifest import LEFT_OUT, UNREADABLE, USABLE
from folds.manifest.prepare import PrepareResult
from folds.manifest.summary import class_sizes, copy_counts, quartiles, reasons, status_counts
from folds.split.assign import Folds

EXTREMES = 5  # smallest and largest classes that are shown


def prepare_tables(result: PrepareResult) -> RenderableType:
    """Everything `prepare` has to say: what it did, files by status and reason, copies and leaks, class sizes."""
    parts: list[RenderableType] = [Text(headline(result)), status_table(result)]
    if reasons(result.manifest):
        parts.append(reason_table(result))
    if any(count.total for count in copy_counts(result.manifest)):
        parts.append(copy_table(result))
    if result.hidden:
        parts.append(
            Text(f"{_files(len(result.hidden))} hidden or of the system, left out: {first_few(result.hidden)}\n")
        )
    parts += [class_table(result), *(Text(f"note: {note}") for note in result.notes)]
    return Group(*parts)


def headline(result: PrepareResult) -> str:
    """What was done, in one line."""
    files = f"{len(result.manifest):,} files"
    if result.unchanged:
        return f"{files}, unchanged since the last prepare: nothing to do"
    kept = len(result.manifest) - result.decoded
    again = f", {kept:,} unchanged ones kept" if kept else ""
    rate = result.decoded / max(result.seconds, 1e-9)
    minutes, seconds = divmod(round(result.seconds), 60)
    decoded = f"{result.decoded:,} decoded{again}, in {minutes}:{seconds:02d} ({rate:,.0f} images/s)"
    return f"{files}: {decoded}, kept {'as JPEG ' if result.store == 'jpeg' else ''}at {result.store_size} pixels"


def status_table(result: PrepareResult) -> Table:
    """Files by status, train and test."""
    table = _table("files", "train", "test")
    for status, (train, test) in status_counts(result.manifest).items():
        table.add_row(status, f"{train:,}", f"{test:,}")
    return table


def reason_table(result: PrepareResult) -> Table:
    """Files by reason, with the first names; what costs files comes first."""
    table = _table("reason", "train", "test", "these files are", "first")
    for reason in reasons(result.manifest):
        table.add_row(reason.kind, f"{reason.train:,}", f"{reason.test:,}", reason.status, _names(reason.paths))
    return table


def copy_table(result: PrepareResult) -> Table:
    """Images that have a copy somewhere, by where and how close."""
    table = _table("copies", "exact", "near", "mirrored", "first")
    for count in copy_counts(result.manifest):
        if count.total:
            numbers = (f"{count.exact:,}", f"{count.near:,}", f"{count.mirrored:,}")
            table.add_row(count.what, *numbers, _names(count.paths))
    return table


def class_table(result: PrepareResult) -> Table:
    """Usable training images per class: the spread, and the smallest and largest classes."""
    sizes = class_sizes(result.manifest)
    low, first, middle, third, high = quartiles(sizes)
    table = _table("classes", f"{len(sizes):,}")
    table.add_row("images per class: min, quartiles, max", f"{low:,}  {first:,}  {middle:,}  {third:,}  {high:,}")
    table.add_row("smallest", _sized(sizes[:EXTREMES]))
    table.add_row("largest", _sized(sizes[::-1][:EXTREMES]))
    empty = sizes.index[sizes.to_numpy() == 0].tolist()
    if empty:
        table.add_row("without a usable image, left out", first_few(empty))
    return table


def split_tables(folds: Folds) -> RenderableType:
    """The folds, and the classes that cannot be in all of them."""
    small = small_classes(folds)
    parts: list[RenderableType] = [fold_table(folds)]
    if small:
        what = "1 class has" if len(small) == 1 else f"{len(small):,} classes have"
        parts.append(Text(f"{what} fewer images than the {folds.n_folds} folds: {first_few(small, most=10)}"))
    return Group(*parts)


def fold_table(folds: Folds) -> Table:
    """Images, classes and the rarest class of each fold."""
    table = _table("fold", "images", "classes", "rarest class")
    for k in range(folds.n_folds):
        counts = np.bincount(folds.target[folds.fold == k], minlength=len(folds.classes))
        present = np.flatnonzero(counts)
        rarest = present[np.argmin(counts[present])]
        table.add_row(
            str(k),
            f"{counts.sum():,}",
            f"{len(present):,}",
            f"{folds.classes[rarest]}: {_images(counts[rarest])}",
        )
    return table


def small_classes(folds: Folds) -> list[str]:
    """`label: n images` of the classes with fewer images than folds, in class order."""
    counts = np.bincount(folds.target, minlength=len(folds.classes))
    return [f"{folds.classes[c]}: {_images(counts[c])}" for c in np.flatnonzero(counts < folds.n_folds)]


def left_out_line(result: PrepareResult) -> str:
    """One line for those who skip tables: how many files are not used."""
    counts = status_counts(result.manifest)
    usable, lost = sum(counts[USABLE]), sum(counts[LEFT_OUT]) + sum(counts[UNREADABLE])
    return f"{usable:,} usable images, {lost:,} files left out or unreadable"


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in others:
        is_text = column in ("first", "these files are", "rarest class") or first == "classes"
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    return table


def _names(paths: tuple[str, ...]) -> Text:
    """File names as they are: brackets in them are no markup."""
    return Text(first_few([repr(path)[1:-1] for path in paths], most=2))


def _files(count: int) -> str:
    return f"{count:,} file" if count == 1 else f"{count:,} files"


def _images(count: int) -> str:
    return f"{count:,} image" if count == 1 else f"{count:,} images"


def _sized(sizes: pd.Series) -> Text:
    return Text(", ".join(f"{label}: {size:,}" for label, size in sizes.items()))
