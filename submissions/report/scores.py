"""Section 1, the scores: errors of the blend and of every run, what the blend gains, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any

from ensemble.blend.expected import expected_words
from folds.base.interval import wilson_interval
from models.runs import done_folds
from submissions.check import check_submission, expected_top3, is_early, read_lineage
from submissions.report.plots import Chart, ranges
from submissions.report.workfolder import Ranks, WorkFolder
from submissions.status import newest_csv, what_is_missing

MOST_LINES = 40  # of the chart; the table has all
FAR = 4  # times the median of the upper ends: there the chart's axis ends
Entry = dict[str, Any]


def scores_section(work: WorkFolder, ranks: Mapping[str, Ranks], planned: Sequence[str]) -> dict[str, Any]:
    """entries: the blend, then the runs, best first. planned: the runs that the settings ask for."""
    entries = sorted(
        (_run(work, one) for one in ranks.values()), key=lambda entry: (entry["top3_error"], entry["name"])
    )
    if work.blend is not None:
        entries.insert(0, _blend(work))
    missing, command = what_is_missing(work.workspace, planned)
    return {
        "entries": entries,
        "n_folds": work.folds.n_folds if work.folds else None,
        "expected": expected_words(work.blend.expected_top3) if work.blend else None,
        "test_images": work.blend.expected_top3.test_images if work.blend else None,
        "gain": {**work.blend.gain, "is_sure": work.blend.gain["high"] < 0} if work.blend else None,
        "submission": work.attempt(lambda: _submission(work)),
        "missing": missing,
        "next_command": command,
        "chart": _chart(entries[:MOST_LINES]) if entries else None,
    }


def _run(work: WorkFolder, one: Ranks) -> Entry:
    """Errors in [0, 1]; low, high: 95% interval of the top-3 error; seconds of all its folds."""
    done = work.attempt(lambda: done_folds(work.workspace, one.name)) or {}
    low, high = one.interval
    return {
        "name": one.name,
        "is_blend": False,
        "folds": one.rows.n_folds,
        "images": len(one.rows),
        "top3_error": one.error(3),
        "low": low,
        "high": high,
        "top1_error": one.error(1),
        "log_loss": one.log_loss,
        "seconds": sum(record.get("seconds", 0.0) for record in done.values()) or None,
    }


def _blend(work: WorkFolder) -> Entry:
    blend = work.blend
    assert blend is not None
    partial = blend.partial["folds"] if blend.partial else None
    low, high = wilson_interval(blend.oof_top3_error, blend.expected_top3.oof_images)
    return {
        "name": "blend",
        "is_blend": True,
        "folds": len(partial) if partial else work.folds.n_folds if work.folds else 0,
        "images": blend.images,
        "top3_error": blend.oof_top3_error,
        "low": low,
        "high": high,
        **dict.fromkeys(("top1_error", "log_loss", "seconds")),
    }


def _submission(work: WorkFolder) -> dict[str, Any] | None:
    """The newest CSV: whether it is valid, and whether it was made from the blend that is shown."""
    path = newest_csv(work.workspace)
    if path is None:
        return None
    checked, lineage = check_submission(path, work.workspace), read_lineage(path)
    expected = expected_top3(path)
    return {
        "path": f"submissions/{path.name}",
        "rows": checked.rows,
        "faults": checked.faults,
        "expected": expected_words(expected) if expected else None,
        "guessed": len(lineage.get("unreadable_test_images", ())),
        "is_early": is_early(path),
        "is_of_blend": work.blend is not None and lineage.get("weights") == dict(work.blend.weights),
    }


def _chart(entries: Sequence[Entry]) -> Chart:
    return ranges(
        "cv",
        "Top-3 error on images not trained on",
        rows=[(one["name"], one["top3_error"], one["low"], one["high"]) for one in entries],
        x_title="top-3 error, 95% interval",
        strong=0,
        most=FAR * median_low(one["high"] for one in entries),
    )
