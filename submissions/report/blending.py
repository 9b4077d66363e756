"""This file shows the blend: weights, how alike members err, what each is worth, what views add, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.record import Blend
from ensemble.views import ViewReport, report_views
from ensemble.worth import correlation
from folds.errors import UserError
from submissions.report.charts import Heat, Lines, Ranges, Series, numbers
from submissions.report.guesses import Guesses, member_misses
from submissions.report.source import Source

BINS = 10  # of confidence, equally filled
MOST_MEMBERS = 40  # in the charts, those with the largest weights
MOST_RUNS = 12  # whose views are measured: each is read once more


@dataclass(frozen=True)
class Calibration:
    """How honest probabilities are: `error` is the mean distance between confidence and hits over bins."""

    name: str
    confidence: tuple[float, ...]
    hits: tuple[float, ...]
    error: float
    log_loss: float


@dataclass(frozen=True)
class Candidate:
    name: str
    is_kept: bool
    in_sample: float
    crossfit: float
    low: float
    high: float
    behind: float
    behind_error: float


@dataclass(frozen=True)
class MemberWorth:
    """As `ensemble.worth` says it; adds: the cross-fitted loss without it minus the one with it."""

    name: str
    alone: float
    weight: float
    weight_low: float
    weight_high: float
    adds: float | None


@dataclass(frozen=True)
class ViewGain:
    view: str
    alone: float
    adds: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RunViews:
    run: str
    views: tuple[ViewGain, ...]
    proposed: tuple[str, ...]
    is_worth_it: bool


@dataclass(frozen=True)
class Blending:
    """The fifth section; parts are empty where there is no blend, or one member."""

    candidate: str | None
    why: str | None
    metric: str | None
    in_sample: float | None
    crossfit: float | None
    temperature: float
    candidates: tuple[Candidate, ...]
    members: tuple[MemberWorth, ...]
    views: tuple[RunViews, ...]
    calibration: tuple[Calibration, ...]
    charts: Mapping[str, Any]


def gather_blending(source: Source, guesses: Guesses | None) -> Blending:
    """All about the blend that is there, and about the views of runs."""
    blend = source.blend
    views = tuple(_views(source))
    calibration = _calibrations(guesses) if guesses is not None else ()
    candidates = _candidates(blend) if blend else ()
    members = _worth(blend) if blend else ()
    charts = {
        "candidates": _candidate_chart(candidates) if len(candidates) > 1 else None,
        "weights": _weight_chart(members[:MOST_MEMBERS]) if len(members) > 1 else None,
        "worth": _worth_chart(members[:MOST_MEMBERS]) if sum(one.adds is not None for one in members) > 1 else None,
        "correlation": _correlation(guesses) if guesses is not None and guesses.is_blend else None,
        "views": _view_chart(views) if views else None,
        "calibration": _calibration_chart(calibration) if calibration else None,
    }
    return Blending(
        candidate=blend.candidate if blend else None,
        why=blend.why if blend else None,
        metric=_metric_title(blend) if blend else None,
        in_sample=blend.in_sample if blend else None,
        crossfit=blend.crossfit if blend else None,
        temperature=guesses.temperature if guesses is not None else 1.0,
        candidates=candidates,
        members=members,
        views=views,
        calibration=calibration,
        charts=charts,
    )


def _metric_title(blend: Blend) -> str:
    from ensemble.metric import Metric

    return Metric(blend.metric, blend.k).title  # type: ignore[arg-type]


def _candidates(blend: Blend) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(
            name=str(one["candidate"]),
            is_kept=one["candidate"] == blend.candidate,
            **{key: float(one[key]) for key in ("in_sample", "crossfit", "low", "high", "behind", "behind_error")},
        )
        for one in blend.scores
    )


def _worth(blend: Blend) -> tuple[MemberWorth, ...]:
    """Members by weight; a blend of an earlier version knows its weights only."""
    total = sum(blend.weights.values())
    known: Sequence[Mapping[str, Any]] = blend.worth or [
        {"name": name, "alone": np.nan, "weight": w / total, "weight_low": w / total, "weight_high": w / total}
        for name, w in blend.weights.items()
    ]
    made = [
        MemberWorth(
            name=one["name"],
            **{key: float(one[key]) for key in ("alone", "weight", "weight_low", "weight_high")},
            adds=one["without"] - blend.crossfit if one.get("without") is not None else None,
        )
        for one in known
    ]
    return tuple(sorted(made, key=lambda one: (-one.weight, one.name)))


def _candidate_chart(candidates: Sequence[Candidate]) -> Ranges:
    kept = next((i for i, one in enumerate(candidates) if one.is_kept), 0)
    return Ranges(
        key="candidates",
        title="Ways to blend: cross-fitted (filled) and in-sample (hollow)",
        alt=f"Cross-fitted losses of {len(candidates)} candidates with 95% intervals, and their in-sample losses; kept:"
        f" {candidates[kept].name} with {candidates[kept].crossfit:.4f}",
        labels=tuple(one.name for one in candidates),
        values=tuple(one.crossfit for one in candidates),
        low=tuple(one.low for one in candidates),
        high=tuple(one.high for one in candidates),
        hollow=tuple(one.in_sample for one in candidates),
        x_title="loss, 95% interval of the cross-fitted one",
        strong=(kept,),
    )


def _weight_chart(members: Sequence[MemberWorth]) -> Ranges:
    return Ranges(
        key="weights",
        title="Weights",
        alt=f"Weights of {len(members)} members; the largest, {members[0].name}, has {members[0].weight:.3f}",
        labels=tuple(one.name for one in members),
        values=tuple(one.weight for one in members),
        low=tuple(one.weight_low for one in members),
        high=tuple(one.weight_high for one in members),
        x_title="share of the blend; bar: range of the fits without one fold",
        zero=0.0,
    )


def _worth_chart(members: Sequence[MemberWorth]) -> Ranges:
    known = [(one.name, one.adds) for one in members if one.adds is not None]
    most = max(known, key=lambda pair: pair[1])
    return Ranges(
        key="worth",
        title="What the blend loses without each member",
        alt=f"Cross-fitted loss without each of {len(known)} members, less the loss with all; most for {most[0]}:"
        f" {most[1]:+.4f}",
        labels=tuple(name for name, _ in known),
        values=tuple(adds for _, adds in known),
        low=tuple(min(adds, 0.0) for _, adds in known),
        high=tuple(max(adds, 0.0) for _, adds in known),
        x_title="loss without it less the loss with it",
        zero=0.0,
    )


def _correlation(guesses: Guesses) -> Heat | None:
    if not 2 <= len(guesses.members) <= MOST_MEMBERS:
        return None
    matrix = correlation(member_misses(guesses.members).astype(np.float64))
    apart = matrix[~np.eye(len(matrix), dtype=bool)]
    return Heat(
        key="correlation",
        title="How alike members err (correlation of top-3 errors)",
        alt=f"Correlations between the errors of {len(matrix)} members, {apart.min():.2f} to {apart.max():.2f}",
        labels=guesses.members.names,
        matrix=tuple(map(numbers, matrix.tolist())),
    )


def _views(source: Source) -> list[RunViews]:
    """What each view adds, for the runs with more than one; a run that lacks folds cannot tell."""
    found = []
    for name in source.runs[:MOST_RUNS]:
        try:
            report = next(iter(report_views(source.workspace, [name]))) if source.folds else None
        except UserError:
            continue  # unfinished or damaged: the first section says so
        if report is not None and len(report.views) > 1:
            found.append(_run_views(report))
    return found


def _run_views(report: ViewReport) -> RunViews:
    gains = [
        ViewGain(
            one.view,
            one.alone,
            one.adds.mean if one.adds else None,
            one.adds.low if one.adds else None,
            one.adds.high if one.adds else None,
        )
        for one in report.worth
    ]
    return RunViews(report.name, tuple(gains), report.proposed.views, report.is_worth_it)


def _view_chart(runs: Sequence[RunViews]) -> Ranges:
    known = [(f"{run.run}: {one.view}", one.adds, one.low, one.high) for run in runs for one in run.views]
    labels, adds, low, high = zip(*known, strict=True)
    return Ranges(
        key="views",
        title="What each view adds",
        alt=f"Top-3 error of {len(runs)} runs without each of their views less the error with all, 95% intervals",
        labels=labels,
        values=adds,
        low=low,
        high=high,
        x_title="top-3 error without it less the error with it",
        zero=0.0,
    )


def _calibrations(guesses: Guesses) -> tuple[Calibration, ...]:
    before = _calibration("as blended" if guesses.is_blend else guesses.name, guesses, temperature=1.0)
    if guesses.temperature == 1.0:
        return (before,)
    return before, _calibration(f"temperature {guesses.temperature:.2f}", guesses, temperature=guesses.temperature)


def _calibration(name: str, guesses: Guesses, *, temperature: float) -> Calibration:
    """Confidence of the first guess against the share of hits, in bins of equally many images."""
    logs = np.log(np.maximum(guesses.probs, 1e-12)) / np.float32(temperature)
    logs -= logs.max(axis=1, keepdims=True)
    total = np.exp(logs).sum(axis=1)
    confidence, hit = 1 / total, guesses.rank == 0
    parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), BINS) if len(part)]
    means = np.array([confidence[part].mean() for part in parts])
    hits = np.array([hit[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    true = logs[np.arange(len(hit)), guesses.rows.target] - np.log(total)
    error = float((np.abs(means - hits) * sizes).sum() / sizes.sum())
    return Calibration(name, numbers(means.tolist()), numbers(hits.tolist()), error, float(-true.mean()))


def _calibration_chart(calibration: Sequence[Calibration]) -> Lines:
    roles = ("train", "valid") if len(calibration) > 1 else ("plain",)
    errors = ", ".join(f"{one.name} {one.error:.4f}" for one in calibration)
    return Lines(
        key="calibration",
        title="Calibration of the first guess",
        alt=f"Share of hits over confidence; mean distance from the diagonal: {errors}",
        series=tuple(
            Series(one.name, role, one.confidence, one.hits) for one, role in zip(calibration, roles, strict=True)
        ),
        x_title="confidence",
        y_title="share of hits",
        has_diagonal=True,
    )
