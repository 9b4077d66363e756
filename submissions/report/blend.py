"""Section 5, the blend: its candidates, weights, how alike members err, what members and views add, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from submissions.report.plots import Chart, lines, ranges
from submissions.report.workfolder import Oof, WorkFolder

MOST_MEMBERS = 40  # in the charts, those with the largest weights
MOST_RUNS = 12  # whose views are measured: each is read once more
Row = dict[str, Any]


def blend_section(work: WorkFolder, oof: Oof | None) -> dict[str, Any]:
    """All about the blend and about the views of the runs; parts are empty where there is no blend, or one member."""
    blend, views = work.blend, _views(work)
    calibration = calibration_of(oof) if oof is not None else None
    charts = [*(_charts(blend) if blend else []), *_view_charts(views)]
    correlations = None
    if oof is not None and oof.is_blend and 2 <= len(oof.members) <= MOST_MEMBERS:
        correlations = {"labels": oof.members, "matrix": correlation(oof.missed.astype(np.float64)).tolist()}
    return {
        **(_of_blend(work, blend) if blend else {"kept": None, "candidates": [], "next_gains": []}),
        "views": views,
        "correlation": correlations,
        "calibration": calibration,
        "charts": [*charts, calibration_chart(calibration)] if calibration is not None else charts,
    }


def _of_blend(work: WorkFolder, blend: Blend) -> Row:
    """The candidates; the one that is kept, with its loss on images that its weights were fitted to, and on others."""
    metric = Metric(cast(MetricName, blend.metric), blend.k).title
    kept = {name: getattr(blend, name) for name in ("candidate", "why", "in_sample", "crossfit")}
    return {
        "kept": {"metric": metric, **kept},
        "candidates": [{**one, "is_kept": one["candidate"] == blend.candidate} for one in blend.scores],
        "next_gains": [{**asdict(one), "per_hour": one.per_hour} for one in next_gains(work.workspace)],
    }


def _charts(blend: Blend) -> Iterator[Chart]:
    """The candidates, the weights, and what each member adds, where there is more than one."""
    if len(blend.scores) > 1:
        yield ranges(
            "candidates",
            "Ways to blend: cross-fitted (filled) and in-sample (hollow)",
            rows=[(one["candidate"], one["crossfit"], one["low"], one["high"]) for one in blend.scores],
            hollow=[one["in_sample"] for one in blend.scores],
            x_title="loss, 95% interval of the cross-fitted one",
            strong=[one["candidate"] for one in blend.scores].index(blend.candidate),
        )
    members = sorted(blend.worth, key=lambda one: (-one.weight, one.name))[:MOST_MEMBERS]
    if len(members) > 1:
        yield ranges(
            "weights",
            "Weights",
            rows=[(one.name, one.weight, one.weight_low, one.weight_high) for one in members],
            x_title="share of the blend; bar: range of the fits without one fold",
            has_zero=True,
        )
    known = [(one.name, one.without - blend.crossfit) for one in members if one.without is not None]
    if len(known) > 1:
        yield ranges(
            "members",
            "What each member adds",
            rows=[(name, adds, min(adds, 0.0), max(adds, 0.0)) for name, adds in known],
            x_title="loss without it less the loss with it",
            has_zero=True,
        )


def _view_charts(runs: Sequence[Row]) -> Iterator[Chart]:
    rows = [
        (f"{run['run']}: {one['view']}", one["adds"], one["low"], one["high"]) for run in runs for one in run["views"]
    ]
    if rows:
        title = "top-3 error without it less the error with it"
        yield ranges("views", "What each view adds", rows=rows, x_title=title, has_zero=True)


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
        series=[line],
        x_title="probability of the top class",
        y_title="share of hits",
        has_diagonal=True,
    )
