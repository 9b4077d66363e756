"""Section 1, the scores: errors of the blend and of every run, what the blend gains, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import Any

from folds.base.interval import wilson_interval
from submissions.check import check_submission, expected_top3, is_early, is_of_blend, read_lineage
from submissions.csv_form import read_layout
from submissions.report.plots import ranges
from submissions.report.workfolder import Entry, WorkFolder
from submissions.settings import Wanted
from submissions.status import newest_csv, what_is_missing

MOST_LINES = 40  # of the chart; the table has all
FAR = 4  # times the median of the upper ends: there the chart's axis ends


def scores_section(work: WorkFolder, runs: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:
    """entries: the blend, then the runs, best first."""
    n_folds, blend = work.folds.n_folds if work.folds else None, work.blend
    entries = sorted(runs, key=lambda entry: (entry.top3_error, entry.name))
    if blend is not None:
        folds = len(blend.partial["folds"]) if blend.partial else n_folds or 0
        interval = wilson_interval(blend.oof_top3_error, blend.expected_top3.oof_images)
        entries.insert(0, Entry("blend", folds, blend.images, blend.oof_top3_error, *interval, is_blend=True))
    known = work.attempt(lambda: what_is_missing(work.workspace, wanted))
    missing, command = known or (["not known: folds or runs are damaged"], "status")
    shown, chart = entries[:MOST_LINES], None
    if shown:
        chart = ranges(
            "cv",
            "Top-3 error on images not trained on",
            rows=[(one.name, one.top3_error, one.low, one.high) for one in shown],
            x_title="top-3 error, 95% interval",
            strong=0,
            most=FAR * median_low(one.high for one in shown),
        )
    return {
        "entries": entries,
        "n_folds": n_folds,
        "submission": work.attempt(lambda: _submission(work)),
        "missing": missing,
        "next_command": command,
        "chart": chart,
    }


def _submission(work: WorkFolder) -> dict[str, Any] | None:
    """The newest CSV: whether it is valid, and whether it was made from the blend that is shown."""
    path = newest_csv(work.workspace)
    if path is None:
        return None
    checked, lineage = check_submission(path, read_layout(work.workspace)), read_lineage(path)
    return {
        "path": f"submissions/{path.name}",
        "rows": checked.rows,
        "faults": checked.faults,
        "expected": expected_top3(path),
        "guessed": len(lineage.get("unreadable_test_images", ())),
        "is_early": is_early(path),
        "is_of_blend": work.blend is not None and bool(is_of_blend(path, work.blend)),
    }
