"""Lays out what `prepare` found as tables for the terminal; `run.py` prints them."""

from __future__ import annotations

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from folds.base.errors import first_few
from folds.manifest.prepare import PrepareResult
from folds.manifest.summary import class_sizes, copy_counts, quartiles, reasons, status_counts

EXTREMES = 5  # smallest and largest classes that are shown
TEXT_COLUMNS = ("first", "these files are", "rarest class")


def prepare_tables(result: PrepareResult) -> RenderableType:
    """What `prepare` did, files by status and reason, copies and leaks, class sizes, notes."""
    statuses = plain_table("files", "train", "test")
    for status, (train, test) in status_counts(result.manifest).items():
        statuses.add_row(status, f"{train:,}", f"{test:,}")
    parts: list[RenderableType] = [Text(headline(result)), statuses]
    kinds = plain_table("reason", "train", "test", "these files are", "first")
    for reason in reasons(result.manifest):
        kinds.add_row(reason.kind, f"{reason.train:,}", f"{reason.test:,}", reason.status, _names(reason.paths))
    copies = plain_table("copies", "exact", "near", "mirrored", "first")
    for count in copy_counts(result.manifest):
        if count.total:
            copies.add_row(
                count.what, *(f"{n:,}" for n in (count.exact, count.near, count.mirrored)), _names(count.paths)
            )
    parts += [table for table in (kinds, copies) if table.row_count]
    if result.hidden:
        files = f"{len(result.hidden):,} {'file' if len(result.hidden) == 1 else 'files'}"
        parts.append(Text(f"{files} hidden or of the system, left out: {first_few(result.hidden)}\n"))
    return Group(*parts, _class_table(result.manifest), *(Text(f"note: {note}") for note in result.notes))


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


def _class_table(manifest: pd.DataFrame) -> Table:
    """Usable training images per class: the spread, and the smallest and largest classes."""
    sizes = class_sizes(manifest)
    table = plain_table("classes", f"{len(sizes):,}")
    table.add_row("images per class: min, quartiles, max", "  ".join(f"{size:,}" for size in quartiles(sizes)))
    for name, some in (("smallest", sizes[:EXTREMES]), ("largest", sizes[::-1][:EXTREMES])):
        table.add_row(name, Text(", ".join(f"{label}: {size:,}" for label, size in some.items())))
    empty = sizes.index[sizes.to_numpy() == 0].tolist()
    if empty:
        table.add_row("without a usable image, left out", Text(first_few(empty)))
    return table


def plain_table(first: str, *others: str) -> Table:
    """A table without lines, words to the left and numbers to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in others:
        is_text = column in TEXT_COLUMNS or first == "classes"
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    return table


def _names(paths: tuple[str, ...]) -> Text:
    """File names as they are: brackets in them are no markup."""
    return Text(first_few([repr(path)[1:-1] for path in paths], most=2))
