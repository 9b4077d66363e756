"""Shows what each view of test-time augmentation adds to a run, as `ensemble.analysis.views` measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.analysis.views import ViewReport, report_views
from folds.base.errors import UserError
from submissions.report.charts import Ranges
from submissions.report.source import Source

MOST_RUNS = 12  # whose views are measured: each is read once more


@dataclass(frozen=True)
class ViewGain:
    """A view's top-3 error alone, and the error of the others' mean less the one of all views', 95% interval."""

    view: str
    alone: float
    adds: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RunViews:
    """The views of one run, the set that is proposed, and whether that does as well as all."""

    run: str
    views: tuple[ViewGain, ...]
    proposed: tuple[str, ...]
    is_worth_it: bool


def view_gains(source: Source) -> list[RunViews]:
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


def view_chart(runs: Sequence[RunViews]) -> Ranges | None:
    """All views of all runs; None where no run has two."""
    if not runs:
        return None
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
