"""Section 2, the data: class sizes, contact sheets, copies, what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from folds.find.reasons import RELABELLED, UNLABELLED, from_cell, reason_text
from folds.manifest.duplicates import COPY
from folds.manifest.manifest import LEFT_OUT, UNREADABLE, USABLE
from folds.manifest.summary import class_sizes, copy_counts, quartiles, reason_rows, reasons, status_counts
from submissions.report.plots import bars
from submissions.report.workfolder import WorkFolder
from submissions.settings import ReportSettings

MOST_SETS = 12  # sets of copies that are shown of each kind
MOST_OF_SET = 6  # pictures of one set
MOST_LEFT_OUT = 48  # files left out that are shown
CONTACT_PICTURES = 2000  # on all contact sheets together: about 6 MB
UNEVEN = 8.0  # largest class to smallest: from here on a logarithmic axis shows more


def data_section(work: WorkFolder, settings: ReportSettings) -> dict[str, Any]:
    """What the manifest says, with pictures. sheets: the classes, rarest first, each with some of its images."""
    manifest, status = work.manifest, work.manifest["status"].to_numpy()
    sizes = class_sizes(manifest)
    sheets = list(_sheets(work, sizes, settings))
    without = sum(not sheet["pictures"] and sheet["images"] > 0 for sheet in sheets)
    lost = [row for kind in (LEFT_OUT, UNREADABLE) for row in np.flatnonzero(status == kind).tolist()]
    chart = bars(
        "class-sizes",
        "Images of each class",
        rows=[(label, float(size)) for label, size in sizes.items()],
        y_title="usable training images",
        is_log=bool(sizes.max() >= UNEVEN * max(sizes.min(), 1)),
    )
    return {
        "files": len(manifest),
        "counts": status_counts(manifest),
        "quartiles": quartiles(sizes),
        "chart": chart,
        "sheets": sheets,
        "sheets_without_pictures": without if settings.contact_pictures else 0,
        "reasons": [replace(one, paths=one.paths[:2]) for one in reasons(manifest)],
        "left_out": [
            {
                "image": work.image_at(row),
                "status": status[row],
                "reason": reason_text(str(manifest["reasons"].iat[row])),
            }
            for row in lost[:MOST_LEFT_OUT]
        ],
        "left_out_total": len(lost),
        "relabelled": int(reason_rows(manifest)["code"].isin([RELABELLED, UNLABELLED]).sum()),
        "copies": list(_copies(work)),
    }


def _sheets(work: WorkFolder, sizes: pd.Series, settings: ReportSettings) -> Iterator[dict[str, Any]]:
    """Images evenly spread over the ids of each class, the rarest classes first, until the page has enough."""
    each = min(settings.contact_pictures, max(1, CONTACT_PICTURES // max(len(sizes), 1)))
    is_usable = (work.manifest["split"] == "train") & (work.manifest["status"] == USABLE)
    rows_of = work.manifest[is_usable].groupby("label").groups
    for number, (label, count) in enumerate(sizes.items()):
        rows = rows_of.get(label, work.manifest.index[:0])
        room = each if number * each < CONTACT_PICTURES else 0
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(room, len(rows))).astype(int))
        pictures = [work.image_at(rows[place]) for place in chosen.tolist()]
        yield {"label": str(label), "images": int(count), "pictures": pictures}


def _copies(work: WorkFolder) -> Iterator[dict[str, Any]]:
    """Each kind of copies that there is, with its first sets side by side. total: all of its sets."""
    manifest = work.manifest
    rows_with_copies = manifest.index.to_series()[manifest["group"].duplicated(keep=False)]
    sets = [rows.tolist() for _, rows in rows_with_copies.groupby(manifest["group"])]
    path_of = manifest["path"].tolist()
    for count in copy_counts(manifest):
        if not count.paths:
            continue
        paths = set(count.paths)
        mine = [rows for rows in sets if any(path_of[row] in paths for row in rows)]
        shown = []
        for rows in mine[:MOST_SETS]:
            codes = {reason.code for cell in manifest["reasons"].iloc[rows] for reason in from_cell(cell)}
            kind = next((kind for (kind, _), code in reversed(COPY.items()) if code in codes), "exact")
            pictures = [work.image_at(row) for row in rows[:MOST_OF_SET]]
            shown.append({"kind": kind, "pictures": pictures, "more": len(rows) - len(pictures)})
        yield {"title": count.what, "images": len(count.paths), "total": len(mine), "sets": shown}
