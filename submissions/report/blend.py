"""Section 5, the blend: its candidates, weights, how alike members err, what members and views add, calibration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import numpy as np

from ensemble.analysis.next_gain import next_gains
from ensemble.analysis.views import ViewReport, report_views
from ensemble.blend.blend_json import Blend
from ensemble.blend.member_value import correlation
from ensemble.settings import MetricName
from ensemble.weights.metric import Metric
from folds.base.errors import UserError
from submissions.report.plots import Chart, lines, ranges
from submissions.report.workfolder import Oof, WorkFolder

MOST_MEMBERS = 40  # in the charts, those with the largest weights
BINS = 10  # of confidence, with equally many images
MOST_RUNS = 12  # whose views are measured: each is read once more


def blend_section(work: WorkFolder, oof: Oof | None) -> dict[str, Any]:
    """All about the blend and about the views of the runs; parts are empty where there is no blend, or one member."""
    blend, correlations, calibration = work.blend, None, None
    views: list[ViewReport] = []
    for name in work.runs[:MOST_RUNS] if work.folds else []:
        with suppress(UserError):  # unfinished or damaged: the first section says so
            views += [report for report in report_views(work.workspace, [name]) if len(report.views) > 1]
    charts = list(_charts(blend)) if blend else []
    adds = [(f"{run.name}: {one.view}", one.adds) for run in views for one in run.worth if one.adds is not None]
    if adds:
        rows = [(name, one.mean, one.low, one.high) for name, one in adds]
        title = "top-3 error without it less the error with it"
        charts.append(ranges("views", "What each view adds", rows=rows, x_title=title, has_zero=True))
    if oof is not None:
        if oof.is_blend and 2 <= len(oof.members) <= MOST_MEMBERS:
            correlations = {"labels": oof.members, "matrix": correlation(oof.missed.astype(np.float64))}
        calibration, chart = _calibration(oof)
        charts.append(chart)
    return {
        "kept": blend,
        "metric": Metric(cast(MetricName, blend.metric), blend.k).title if blend else None,
        "next_gains": work.attempt(lambda: next_gains(work.workspace)),
        "views": views,
        "correlation": correlations,
        "calibration": calibration,
        "charts": charts,
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


def _calibration(oof: Oof) -> tuple[dict[str, Any], Chart]:
    """The calibration error (the mean distance over images), the log loss in nats, and both over the bins.

    The line would lie on the diagonal if every probability were right.
    """
    probs = np.maximum(oof.probs, 1e-12).astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    confidence, hit = probs.max(axis=1), oof.rank == 0
    parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), BINS) if len(part)]
    means = np.array([confidence[part].mean() for part in parts])
    hits = np.array([hit[part].mean() for part in parts])
    error = float(np.average(np.abs(means - hits), weights=[len(part) for part in parts]))
    log_loss = float(-np.log(probs[np.arange(len(hit)), oof.rows.target]).mean())
    chart = lines(
        "calibration",
        "Calibration of the top class",
        series=[{"name": oof.name, "role": "valid", "x": means.tolist(), "y": hits.tolist()}],
        x_title="probability of the top class",
        y_title="share of hits",
        has_diagonal=True,
    )
    return {"name": oof.name, "error": error, "log_loss": log_loss}, chart
