"""Section 5, the blend: its candidates, weights, how alike members err, what members and views add, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from ensemble.analysis.next_gain import next_gains
from ensemble.analysis.views import report_views
from ensemble.blend.blend_json import Blend
from ensemble.blend.member_value import correlation
from ensemble.settings import MetricName
from ensemble.weights.metric import Metric
from folds.base.errors import UserError
from submissions.report.plots import Chart, heat, lines, ranges
from submissions.report.workfolder import Oof, WorkFolder

MOST_MEMBERS = 40  # in the charts, those with the largest weights
MOST_RUNS = 12  # whose views are measured: each is read once more
Row = dict[str, Any]


def blend_section(work: WorkFolder, oof: Oof | None) -> dict[str, Any]:
    """All about the blend and about the views of the runs; parts are empty where there is no blend, or one member."""
    blend, views = work.blend, _views(work)
    candidates, members = (_candidates(blend), _members(blend)) if blend else ([], [])
    calibration = calibration_of(oof) if oof is not None else None
    charts = (
        _candidate_chart(candidates) if len(candidates) > 1 else None,
        _weight_chart(members[:MOST_MEMBERS]) if len(members) > 1 else None,
        _correlation_chart(oof) if oof is not None and oof.is_blend and 2 <= len(oof.members) <= MOST_MEMBERS else None,
        _added_chart(members[:MOST_MEMBERS]),
        _view_chart(views) if views else None,
        calibration_chart(calibration) if calibration is not None else None,
    )
    return {
        "kept": _kept(blend) if blend else None,
        "candidates": candidates,
        "members": members,
        "next_gains": [{**asdict(one), "per_hour": one.per_hour} for one in next_gains(work.workspace)]
        if blend
        else [],
        "views": views,
        "calibration": calibration,
        "charts": [chart for chart in charts if chart is not None],
    }


def _kept(blend: Blend) -> Row:
    """The candidate that is kept, its loss on images that its weights were fitted to, and on others."""
    metric = Metric(cast(MetricName, blend.metric), blend.k).title
    figures = {"in_sample": blend.in_sample, "crossfit": blend.crossfit}
    return {"candidate": blend.candidate, "why": blend.why, "metric": metric, **figures}


def _candidates(blend: Blend) -> list[Row]:
    figures = ("in_sample", "crossfit", "low", "high", "behind", "behind_error")
    return [
        {"name": one["candidate"], "is_kept": one["candidate"] == blend.candidate, **{key: one[key] for key in figures}}
        for one in blend.scores
    ]


def _members(blend: Blend) -> list[Row]:
    """By weight; adds: the cross-fitted loss without the member less the one with it, None where it is not known."""
    figures = ("name", "alone", "weight", "weight_low", "weight_high")
    made = [
        {key: one[key] for key in figures}
        | {"adds": None if one["without"] is None else one["without"] - blend.crossfit}
        for one in blend.worth
    ]
    return sorted(made, key=lambda one: (-one["weight"], one["name"]))


def _views(work: WorkFolder) -> list[Row]:
    """What each view adds, for the runs with more than one: top-3 errors, with 95% intervals of the differences."""
    found = []
    for name in work.runs[:MOST_RUNS]:
        try:
            report = next(iter(report_views(work.workspace, [name]))) if work.folds else None
        except UserError:
            continue  # unfinished or damaged: the first section says so
        if report is None or len(report.views) < 2:
            continue
        views = [
            {"view": one.view, "alone": one.alone}
            | {
                figure: getattr(one.adds, of, None)
                for figure, of in (("adds", "mean"), ("low", "low"), ("high", "high"))
            }
            for one in report.worth
        ]
        proposed = report.proposed.views if report.is_worth_it else None
        found.append({"run": report.name, "views": views, "proposed": proposed})
    return found


def _candidate_chart(candidates: Sequence[Row]) -> Chart:
    kept = next((i for i, one in enumerate(candidates) if one["is_kept"]), 0)
    return ranges(
        "candidates",
        "Ways to blend: cross-fitted (filled) and in-sample (hollow)",
        f"Cross-fitted losses of {len(candidates)} candidates with 95% intervals, and their in-sample losses; kept:"
        f" {candidates[kept]['name']} with {candidates[kept]['crossfit']:.4f}",
        rows=[(one["name"], one["crossfit"], one["low"], one["high"]) for one in candidates],
        hollow=[one["in_sample"] for one in candidates],
        x_title="loss, 95% interval of the cross-fitted one",
        strong=kept,
    )


def _weight_chart(members: Sequence[Row]) -> Chart:
    return ranges(
        "weights",
        "Weights",
        f"Weights of {len(members)} members; the largest, {members[0]['name']}, has {members[0]['weight']:.3f}",
        rows=[(one["name"], one["weight"], one["weight_low"], one["weight_high"]) for one in members],
        x_title="share of the blend; bar: range of the fits without one fold",
        has_zero=True,
    )


def _added_chart(members: Sequence[Row]) -> Chart | None:
    known = [(one["name"], one["adds"]) for one in members if one["adds"] is not None]
    if len(known) < 2:
        return None
    name, most = max(known, key=lambda one: one[1])
    return ranges(
        "members",
        "What each member adds",
        f"Cross-fitted loss without each of {len(known)} members, less the loss with all; most for {name}: {most:+.4f}",
        rows=[(name, adds, min(adds, 0.0), max(adds, 0.0)) for name, adds in known],
        x_title="loss without it less the loss with it",
        has_zero=True,
    )


def _view_chart(runs: Sequence[Row]) -> Chart:
    return ranges(
        "views",
        "What each view adds",
        f"Top-3 error of {len(runs)} runs without each of their views less the error with all, 95% intervals",
        rows=[
            (f"{run['run']}: {one['view']}", one["adds"], one["low"], one["high"])
            for run in runs
            for one in run["views"]
        ],
        x_title="top-3 error without it less the error with it",
        has_zero=True,
    )


def _correlation_chart(oof: Oof) -> Chart:
    matrix = correlation(oof.missed.astype(np.float64))
    apart = matrix[~np.eye(len(matrix), dtype=bool)]
    return heat(
        "correlation",
        "How alike members err (correlation of top-3 errors)",
        f"Correlations between the errors of {len(matrix)} members, {apart.min():.2f} to {apart.max():.2f}",
        labels=oof.members,
        matrix=matrix.tolist(),
    )


BINS = 10  # of confidence, with equally many images


def calibration_of(oof: Oof) -> dict[str, Any]:
    """Confidence and share of hits in each bin; error: their mean distance over images; log_loss in nats."""
    probs = np.maximum(oof.probs, 1e-12).astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    confidence, hit = probs.max(axis=1), oof.rank == 0
    parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), BINS) if len(part)]
    means = np.array([confidence[part].mean() for part in parts])
    hits = np.array([hit[part].mean() for part in parts])
    true = probs[np.arange(len(hit)), oof.rows.target]
    return {
        "name": oof.name,
        "confidence": means.tolist(),
        "hits": hits.tolist(),
        "error": float(np.average(np.abs(means - hits), weights=[len(part) for part in parts])),
        "log_loss": float(-np.log(true).mean()),
    }


def calibration_chart(calibration: dict[str, Any]) -> Chart:
    """A line that would lie on the diagonal if every probability were right."""
    line = {"name": calibration["name"], "role": "valid", "x": calibration["confidence"], "y": calibration["hits"]}
    return lines(
        "calibration",
        "Calibration of the top class",
        f"Share of hits over confidence; mean distance from the diagonal: {calibration['error']:.4f}",
        series=[line],
        x_title="probability of the top class",
        y_title="share of hits",
        has_diagonal=True,
    )
