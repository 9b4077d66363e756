"""Shows the data: classes by size, a contact sheet of each, what was left out, copies and leaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from folds.find.reasons import RELABELLED, UNLABELLED, from_cell, reason_text
from folds.manifest.manifest import LEFT_OUT, UNREADABLE, USABLE
from folds.manifest.status import COPY
from folds.manifest.summary import class_sizes, copy_counts, quartiles, reason_rows, reasons, status_counts
from submissions.report.charts import Bars, numbers
from submissions.report.source import Picture, Source
from submissions.settings import ReportSettings

MOST_SETS = 12  # sets of copies that are shown of each kind
MOST_OF_SET = 6  # pictures of one set
MOST_LEFT_OUT = 48  # files left out that are shown
CONTACT_PICTURES = 2000  # on all contact sheets together: about 6 MB
UNEVEN = 8.0  # largest class to smallest: from here on a logarithmic axis shows more


@dataclass(frozen=True)
class ReasonRow:
    kind: str
    fate: str
    train: int
    test: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """A file that is not used, with its reasons."""

    picture: Picture
    status: str
    reason: str
    is_seen: bool  # a picture of it was kept


@dataclass(frozen=True)
class CopySet:
    """Pictures that show the same: kind is exact, near or mirrored."""

    kind: str
    pictures: tuple[Picture, ...]
    more: int


@dataclass(frozen=True)
class CopySets:
    """Sets of copies of one kind. total: all of them, `sets` are the first."""

    title: str
    images: int
    total: int
    sets: tuple[CopySet, ...]


@dataclass(frozen=True)
class Sheet:
    """A class with some of its pictures, evenly spread over its ids."""

    label: str
    images: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Data:
    """The second section."""

    files: int
    counts: dict[str, tuple[int, int]]  # training and test files by status
    quartiles: tuple[int, int, int, int, int]
    chart: Bars
    sheets: tuple[Sheet, ...]
    sheets_left: int  # classes whose sheet has no picture, for the size of the page
    reasons: tuple[ReasonRow, ...]
    left_out: tuple[LeftOut, ...]
    left_out_total: int
    relabelled: int
    copies: tuple[CopySets, ...]


def gather_data(source: Source, settings: ReportSettings) -> Data:
    """All that the manifest tells, with pictures."""
    manifest = source.manifest
    sizes = class_sizes(manifest)
    sheets = tuple(_sheets(source, sizes, settings))
    lost = np.flatnonzero(manifest["status"] != USABLE)
    return Data(
        files=len(manifest),
        counts=status_counts(manifest),
        quartiles=quartiles(sizes),
        chart=_chart(sizes),
        sheets=sheets,
        sheets_left=sum(not sheet.pictures and sheet.images > 0 for sheet in sheets)
        if settings.contact_pictures
        else 0,
        reasons=tuple(ReasonRow(one.kind, one.status, one.train, one.test, one.paths[:2]) for one in reasons(manifest)),
        left_out=tuple(_left_out(source, lost)),
        left_out_total=len(lost),
        relabelled=int(reason_rows(manifest)["code"].isin([RELABELLED, UNLABELLED]).sum()),
        copies=tuple(_copies(source)),
    )


def _chart(sizes: pd.Series) -> Bars:
    low, _, middle, _, high = quartiles(sizes)
    return Bars(
        key="class-sizes",
        title="Images of each class",
        alt=f"{len(sizes):,} classes by usable training images: {low:,} to {high:,}, the middle one {middle:,}",
        labels=tuple(map(str, sizes.index)),
        values=numbers(sizes.tolist()),
        y_title="usable training images",
        is_log=high >= UNEVEN * max(low, 1),
    )


def _sheets(source: Source, sizes: pd.Series, settings: ReportSettings) -> Iterator[Sheet]:
    """The rarest classes first, as in the chart; a page can take so many pictures and no more."""
    each = min(settings.contact_pictures, max(1, CONTACT_PICTURES // max(len(sizes), 1)))
    usable = (source.manifest["split"] == "train") & (source.manifest["status"] == USABLE)
    rows_of = {str(label): rows.to_numpy() for label, rows in _rows_by(source.manifest["label"], usable)}
    for place, (label, count) in enumerate(sizes.items()):
        rows = rows_of.get(str(label), np.empty(0, np.int64))
        room = each if place * each < CONTACT_PICTURES else 0
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(room, len(rows))).astype(int))] if len(rows) else rows
        yield Sheet(str(label), int(count), tuple(map(source.picture_at, chosen.tolist())))


def _rows_by(key: pd.Series, mask: pd.Series) -> Iterator[tuple[object, pd.Series]]:
    rows = pd.Series(np.flatnonzero(mask))
    yield from rows.groupby(key[mask].to_numpy())


def _left_out(source: Source, rows: np.ndarray) -> Iterator[LeftOut]:
    """What was left out though it is a picture first, then what cannot be read."""
    status = source.manifest["status"].to_numpy()
    order = [*rows[status[rows] == LEFT_OUT], *rows[status[rows] == UNREADABLE]]
    for row in order[:MOST_LEFT_OUT]:
        picture = source.picture_at(int(row))
        reason = reason_text(str(source.manifest["reasons"].iat[row]))
        yield LeftOut(picture, str(status[row]), reason, is_seen=status[row] == LEFT_OUT and source.store is not None)


def _copies(source: Source) -> Iterator[CopySets]:
    """Each kind of copies that there is, with its first sets side by side."""
    manifest = source.manifest
    sets, path_of = _copy_sets(manifest), manifest["path"].tolist()
    for count in copy_counts(manifest):
        if count.total:
            paths = set(count.paths)
            mine = [rows for rows in sets if any(path_of[row] in paths for row in rows)]
            shown = tuple(_copy_set(source, rows) for rows in mine[:MOST_SETS])
            yield CopySets(count.what, count.total, len(mine), shown)


def _copy_sets(manifest: pd.DataFrame) -> list[list[int]]:
    """The rows of each group of two or more."""
    group = manifest["group"].to_numpy()
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order], prepend=-1))
    parts = np.split(order, edges[1:]) if len(edges) else []
    return [rows.tolist() for rows in parts if len(rows) > 1]


def _copy_set(source: Source, rows: list[int]) -> CopySet:
    codes = {reason.code for cell in source.manifest["reasons"].iloc[rows] for reason in from_cell(cell)}
    kind = next((kind for (kind, _), code in reversed(COPY.items()) if code in codes), "exact")
    shown = tuple(source.picture_at(row) for row in rows[:MOST_OF_SET])
    return CopySet(kind, shown, len(rows) - len(shown))
