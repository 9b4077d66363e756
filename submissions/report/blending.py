"""Shows the blend: its rivals, weights, how alike members err, and what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ensemble.blend.blend_json import Blend
from ensemble.blend.member_value import correlation
from ensemble.settings import MetricName
from ensemble.weights.metric import Metric
from submissions.report.calibration import Calibration, calibration_chart, calibrations
from submissions.report.charts import Chart, Heat, Ranges, numbers
from submissions.report.guesses import Guesses, member_misses
from submissions.report.source import Source
from submissions.report.view_gains import RunViews, view_chart, view_gains

MOST_MEMBERS = 40  # in the charts, those with the largest weights


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
    """As `ensemble.blend.member_value` says it; adds: the cross-fitted loss without it minus the one with it."""

    name: str
    alone: float
    weight: float
    weight_low: float
    weight_high: float
    adds: float | None


@dataclass(frozen=True)
class Kept:
    """The blend that is kept, its loss on images that its weights have seen, and on those that they have not."""

    candidate: str
    why: str
    metric: str
    in_sample: float
    crossfit: float


@dataclass(frozen=True)
class Blending:
    """The fifth section; parts are empty where there is no blend, or one member."""

    kept: Kept | None
    candidates: tuple[Candidate, ...]
    members: tuple[MemberWorth, ...]
    views: tuple[RunViews, ...]
    calibration: tuple[Calibration, ...]
    charts: tuple[Chart, ...]


def gather_blending(source: Source, guesses: Guesses | None) -> Blending:
    """All about the blend that is there, and about the views of runs."""
    blend = source.blend
    views = tuple(view_gains(source))
    calibration = calibrations(guesses) if guesses is not None else ()
    candidates, members = (_candidates(blend), _worth(blend)) if blend else ((), ())
    charts = (
        _candidate_chart(candidates),
        _weight_chart(members[:MOST_MEMBERS]),
        _correlation_chart(guesses),
        _worth_chart(members[:MOST_MEMBERS]),
        view_chart(views),
        calibration_chart(calibration),
    )
    return Blending(
        kept=_kept(blend) if blend else None,
        candidates=candidates,
        members=members,
        views=views,
        calibration=calibration,
        charts=tuple(chart for chart in charts if chart is not None),
    )


def _kept(blend: Blend) -> Kept:
    metric = Metric(cast(MetricName, blend.metric), blend.k)
    return Kept(blend.candidate, blend.why, metric.title, blend.in_sample, blend.crossfit)


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


def _candidate_chart(candidates: Sequence[Candidate]) -> Ranges | None:
    if len(candidates) < 2:
        return None
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


def _weight_chart(members: Sequence[MemberWorth]) -> Ranges | None:
    if len(members) < 2:
        return None
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


def _worth_chart(members: Sequence[MemberWorth]) -> Ranges | None:
    known = [(one.name, one.adds) for one in members if one.adds is not None]
    if len(known) < 2:
        return None
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


def _correlation_chart(guesses: Guesses | None) -> Heat | None:
    if guesses is None or not guesses.is_blend or not 2 <= len(guesses.members) <= MOST_MEMBERS:
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
