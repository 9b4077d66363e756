"""Sections 2 and 6, the data and the test set: class sizes, copies, what was left out; what is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ensemble.blend.apply import Blended, apply_blend, apply_run
from folds.base.metrics import top_classes
from folds.find.reasons import RELABELLED, UNLABELLED, from_cell, reason_text
from folds.manifest.manifest import LEFT_OUT, UNREADABLE, USABLE
from folds.manifest.status import COPY
from folds.manifest.summary import class_sizes, copy_counts, quartiles, reason_rows, reasons, status_counts
from submissions.report.plots import Chart, bars, points
from submissions.report.workfolder import Oof, WorkFolder
from submissions.settings import ReportSettings

MOST_SETS = 12  # sets of copies that are shown of each kind
MOST_OF_SET = 6  # pictures of one set
MOST_LEFT_OUT = 48  # files left out that are shown
CONTACT_PICTURES = 2000  # on all contact sheets together: about 6 MB
UNEVEN = 8.0  # largest class to smallest: from here on a logarithmic axis shows more


def data_section(work: WorkFolder, settings: ReportSettings) -> dict[str, Any]:
    """What the manifest says, with pictures. sheets: the classes, rarest first, each with some of its images."""
    manifest = work.manifest
    sizes = class_sizes(manifest)
    sheets = list(_sheets(work, sizes, settings))
    lost = np.flatnonzero(manifest["status"] != USABLE)
    without = sum(not sheet["pictures"] and sheet["images"] > 0 for sheet in sheets)
    kinds = [
        {"kind": one.kind, "fate": one.status, "train": one.train, "test": one.test, "first": one.paths[:2]}
        for one in reasons(manifest)
    ]
    return {
        "files": len(manifest),
        "counts": status_counts(manifest),
        "quartiles": quartiles(sizes),
        "chart": _chart(sizes),
        "sheets": sheets,
        "sheets_without_pictures": without if settings.contact_pictures else 0,
        "reasons": kinds,
        "left_out": list(_left_out(work, lost)),
        "left_out_total": len(lost),
        "relabelled": int(reason_rows(manifest)["code"].isin([RELABELLED, UNLABELLED]).sum()),
        "copies": list(_copies(work)),
    }


def _chart(sizes: pd.Series) -> Chart:
    low, _, middle, _, high = quartiles(sizes)
    return bars(
        "class-sizes",
        "Images of each class",
        f"{len(sizes):,} classes by usable training images: {low:,} to {high:,}, the median one {middle:,}",
        rows=[(label, float(size)) for label, size in sizes.items()],
        y_title="usable training images",
        is_log=high >= UNEVEN * max(low, 1),
    )


def _sheets(work: WorkFolder, sizes: pd.Series, settings: ReportSettings) -> Iterator[dict[str, Any]]:
    """Images evenly spread over the ids of each class, the rarest classes first, until the page has enough."""
    each = min(settings.contact_pictures, max(1, CONTACT_PICTURES // max(len(sizes), 1)))
    usable = np.flatnonzero((work.manifest["split"] == "train") & (work.manifest["status"] == USABLE))
    rows_of = pd.Series(usable).groupby(work.manifest["label"].to_numpy()[usable]).apply(np.array).to_dict()
    for number, (label, count) in enumerate(sizes.items()):
        rows = rows_of.get(label, np.empty(0, np.int64))
        room = each if number * each < CONTACT_PICTURES else 0
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(room, len(rows))).astype(int))] if len(rows) else rows
        pictures = [work.image_at(row) for row in chosen.tolist()]
        yield {"label": str(label), "images": int(count), "pictures": pictures}


def _left_out(work: WorkFolder, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    """What was left out though it is a picture first, then what cannot be read."""
    status = work.manifest["status"].to_numpy()
    order = [*rows[status[rows] == LEFT_OUT], *rows[status[rows] == UNREADABLE]]
    for row in order[:MOST_LEFT_OUT]:
        reason = reason_text(str(work.manifest["reasons"].iat[row]))
        yield {"image": work.image_at(int(row)), "status": str(status[row]), "reason": reason}


def _copies(work: WorkFolder) -> Iterator[dict[str, Any]]:
    """Each kind of copies that there is, with its first sets side by side. total: all of its sets."""
    manifest = work.manifest
    sets, path_of = _copy_sets(manifest), manifest["path"].tolist()
    for count in copy_counts(manifest):
        if count.total:
            paths = set(count.paths)
            mine = [rows for rows in sets if any(path_of[row] in paths for row in rows)]
            shown = [_copy_set(work, rows) for rows in mine[:MOST_SETS]]
            yield {"title": count.what, "images": count.total, "total": len(mine), "sets": shown}


def _copy_sets(manifest: pd.DataFrame) -> list[list[int]]:
    """The rows of each group of two or more."""
    group = manifest["group"].to_numpy()
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order], prepend=-1))
    parts = np.split(order, edges[1:]) if len(edges) else []
    return [rows.tolist() for rows in parts if len(rows) > 1]


def _copy_set(work: WorkFolder, rows: list[int]) -> dict[str, Any]:
    """Pictures that show the same: kind is exact, near or mirrored; more: how many of them are not shown."""
    codes = {reason.code for cell in work.manifest["reasons"].iloc[rows] for reason in from_cell(cell)}
    kind = next((kind for (kind, _), code in reversed(COPY.items()) if code in codes), "exact")
    shown = [work.image_at(row) for row in rows[:MOST_OF_SET]]
    return {"kind": kind, "pictures": shown, "more": len(rows) - len(shown)}


NAMED = 8  # classes in the table and with their names in the chart: those whose shares differ most
Row = dict[str, Any]


def test_set_section(work: WorkFolder, oof: Oof | None, settings: ReportSettings, *, copies: Sequence[Row]) -> Row:
    """What is predicted of the test images; copies: all that the data section found.

    distance  half the sum of the shares' differences; 0: equal shares, 1: none in common
    """
    test = work.manifest[work.manifest["split"] == "test"]
    blended = work.attempt(lambda: _apply(work, oof)) if oof is not None and len(test) else None
    shares = _shares(work, blended) if blended is not None else []
    apart = sorted(range(len(shares)), key=lambda i: -abs(shares[i]["train"] - shares[i]["test"]))[:NAMED]
    return {
        "of": oof.name if oof is not None and blended is not None else None,
        "images": len(test),
        "unreadable": int((test["status"] != USABLE).sum()),
        "shares": shares,
        "largest_differences": [shares[i] for i in apart],
        "distance": sum(abs(one["train"] - one["test"]) for one in shares) / 2 if shares else None,
        "chart": _share_chart(shares, apart) if shares else None,
        "unsure": _unsure(work, blended, oof, settings) if blended is not None and oof is not None else [],
        "copies": [one for one in copies if "test" in one["title"] and not one["title"].startswith("training")],
    }


def _apply(work: WorkFolder, oof: Oof) -> Blended:
    if oof.is_blend and work.blend is not None:
        return apply_blend(work.workspace, work.blend)
    return apply_run(work.workspace, oof.name)


def _shares(work: WorkFolder, blended: Blended) -> list[Row]:
    first = top_classes(blended.scores, k=1)[:, 0]
    test = np.bincount(first, minlength=len(blended.classes)) / max(len(first), 1)
    counts = np.array([work.class_counts.get(label, 0) for label in blended.classes])
    train = counts / max(counts.sum(), 1)
    shares = zip(blended.classes, train.tolist(), test.tolist(), strict=True)
    return [{"label": label, "train": before, "test": now} for label, before, now in shares]


def _share_chart(shares: Sequence[Row], apart: Sequence[int]) -> Chart:
    most, known = shares[apart[0]], [one["train"] for one in shares if one["train"] > 0]
    return points(
        "shares",
        "Share of each class: predicted in test, counted in training",
        f"Shares of {len(shares):,} classes; {most['label']} differs most, {most['train']:.2%} in training and"
        f" {most['test']:.2%} in test",
        rows=[(one["label"], 100 * one["train"], 100 * one["test"]) for one in shares],
        x_title="% of training images",
        y_title="% of test images, by their top class",
        is_log=max(known) >= UNEVEN * min(known),
        has_diagonal=True,
        named=apart,
    )


def _unsure(work: WorkFolder, blended: Blended, oof: Oof, settings: ReportSettings) -> list[Row]:
    """The test images whose top class has the lowest probability."""
    probs = work.blend.recipe().probs(blended.scores) if oof.is_blend and work.blend is not None else blended.scores
    top = top_classes(probs)
    order = np.argsort(probs.max(axis=1), kind="stable")[: settings.hardest_images]
    return [
        {
            "image": work.image(str(blended.image_id[row]), split="test"),
            "top": [(blended.classes[c], float(probs[row, c])) for c in top[row].tolist()],
        }
        for row in order.tolist()
    ]
