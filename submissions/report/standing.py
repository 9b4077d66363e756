"""Answers where the work folder stands: scores with intervals, what the blend bought, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensemble.blend.blend_json import Blend
from ensemble.members.training_rows import Rows, rows_of
from folds.base.interval import agreeing_images, wilson_interval
from folds.split.assign import Folds
from models.runs import done_folds
from submissions.check import check_submission
from submissions.lineage import read_lineage
from submissions.report.charts import Ranges
from submissions.report.guesses import Ranks
from submissions.report.source import Source
from submissions.score import promised_error
from submissions.status import is_early, newest_csv, what_is_missing

MOST_LINES = 40  # of a chart; the table has all


@dataclass(frozen=True)
class Entry:
    """A run or the blend. Errors in [0, 1]; low, high: 95% interval of the top-3 error; seconds of all its folds."""

    name: str
    is_blend: bool
    folds: int
    images: int
    top3_error: float
    low: float
    high: float
    top1_error: float | None = None
    log_loss: float | None = None
    seconds: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Gain:
    """The blend's loss less that of its best member, 95% interval; below 0 the blend is better.

    low, high  None for a blend that was made before blends knew them
    """

    over: str
    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def is_sure(self) -> bool:
        return self.high is not None and self.high < 0


@dataclass(frozen=True)
class Submission:
    """The newest CSV. promised: the cross-fitted top-3 error; is_of_blend: it was made from the blend that is there.

    is_early  it was made by the probes alone, before anything was trained
    """

    path: str
    rows: int
    faults: tuple[str, ...]
    promised: float | None
    guessed: int
    is_of_blend: bool
    is_early: bool


@dataclass(frozen=True)
class Standing:
    """The first section. entries: the blend first, then runs, best first."""

    entries: tuple[Entry, ...]
    n_folds: int | None
    gain: Gain | None
    submission: Submission | None
    missing: tuple[str, ...]
    next_command: str
    chart: Ranges | None


def gather_standing(source: Source, ranks: Mapping[str, Ranks], planned: Sequence[str]) -> Standing:
    """Where the competitor stands. planned: the runs that the settings ask for."""
    entries = sorted((_entry(source, one) for one in ranks.values()), key=lambda entry: (entry.top3_error, entry.name))
    if source.blend is not None:
        entries.insert(0, _blend_entry(source))
    missing, command = what_is_missing(source.workspace, planned)
    return Standing(
        entries=tuple(entries),
        n_folds=source.folds.n_folds if source.folds else None,
        gain=_gain(source, entries),
        submission=source.attempt(lambda: _submission(source)),
        missing=tuple(missing),
        next_command=command,
        chart=_chart(entries) if entries else None,
    )


def _entry(source: Source, one: Ranks) -> Entry:
    low, high = one.interval
    done = source.attempt(lambda: done_folds(source.workspace, one.name)) or {}
    weights = source.blend.weights if source.blend else {}
    total = sum(weights.values()) or 1.0
    member = next(
        (name for name, runs in (source.blend.runs.items() if source.blend else ()) if one.name in runs), None
    )
    return Entry(
        name=one.name,
        is_blend=False,
        folds=one.rows.n_folds,
        images=len(one.rows),
        top3_error=one.error(3),
        low=low,
        high=high,
        top1_error=one.error(1),
        log_loss=one.log_loss,
        seconds=sum(record.get("seconds", 0.0) for record in done.values()) or None,
        weight=weights[member] / total if member is not None else None,
    )


def _blend_entry(source: Source) -> Entry:
    blend = source.blend
    assert blend is not None
    kept = next((one for one in blend.scores if one["candidate"] == blend.candidate), None)
    is_top3 = (blend.metric, blend.k) == ("top-k-error", 3) and kept is not None
    interval = blend.promised_interval or ((kept["low"], kept["high"]) if kept else None)
    if is_top3 and interval:
        low, high = interval
    else:  # of a blend that was chosen by another metric only the error is stored, not each image's
        images = blend.images if source.folds is None else agreeing_images(_blend_rows(blend, source.folds).group)
        low, high = wilson_interval(blend.oof_top3_error, images)
    folds = len(blend.partial["folds"]) if blend.partial else source.folds.n_folds if source.folds else 0
    return Entry("blend", True, folds, blend.images, blend.oof_top3_error, low, high)


def _blend_rows(blend: Blend, folds: Folds) -> Rows:
    return rows_of(folds, blend.partial["folds"] if blend.partial else None)


def _gain(source: Source, entries: Sequence[Entry]) -> Gain | None:
    """What the blend bought; None where there is no blend, or its metric is not comparable to a member's errors."""
    blend = source.blend
    if blend is None or blend.gain is not None:
        return Gain(**blend.gain) if blend and blend.gain else None
    members = [one for one in entries if not one.is_blend and one.weight is not None]
    if not members or (blend.metric, blend.k) != ("top-k-error", 3):
        return None
    best = min(members, key=lambda one: one.top3_error)
    return Gain(best.name, blend.crossfit - best.top3_error)


def _submission(source: Source) -> Submission | None:
    path = newest_csv(source.workspace)
    if path is None:
        return None
    checked = check_submission(path, source.workspace)
    lineage = read_lineage(path)
    return Submission(
        path=f"submissions/{path.name}",
        rows=checked.rows,
        faults=checked.faults,
        promised=promised_error(path),
        guessed=len(lineage.get("unreadable_test_images", ())),
        is_early=is_early(path),
        is_of_blend=bool(source.blend) and lineage.get("weights") == dict(source.blend.weights if source.blend else {}),
    )


def _chart(entries: Sequence[Entry]) -> Ranges:
    best, entries = entries[0], entries[:MOST_LINES]
    return Ranges(
        key="cv",
        title="Top-3 error on images not trained on",
        alt=f"Top-3 errors with 95% intervals, {len(entries)} lines; the first, {best.name}, has {best.top3_error:.4f}",
        labels=tuple(entry.name for entry in entries),
        values=tuple(entry.top3_error for entry in entries),
        low=tuple(entry.low for entry in entries),
        high=tuple(entry.high for entry in entries),
        x_title="top-3 error, 95% interval",
        strong=(0,),
    )
