"""Shows what views bring: each alone, the greedy path through them, and the set that pays."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensemble.analysis.views import ViewReport, Views
from folds.base.paired import Difference
from models.input.views import known_views


def view_summary(report: ViewReport) -> Group:
    """Everything that `views` says of a run, for a rich console."""
    return Group(worth_table(report), path_table(report), *(Text(sentence) for sentence in view_sentences(report)))


def worth_table(report: ViewReport) -> Table:
    """One row per view: its error alone, and how much more the other views err without it."""
    title = f"{report.name}: views, top-3 error on {report.images:,} out-of-fold images"
    table = _table(title, "view", "alone", "adds to the others", "95% interval", "forward passes")
    for one in report.worth:
        table.add_row(one.view, f"{one.alone:.4f}", *_gain_cells(one.adds), "1")
    return table


def path_table(report: ViewReport) -> Table:
    """One row per step: the view that helps most with those above it, the proposed set marked at its last view."""
    table = _table(f"{report.name}: one view after the other, the proposed ones down to *", "", "view", "error")
    for heading in ("gain", "95% interval", "forward passes"):
        table.add_column(heading, justify="right")
    for step in report.path:
        mark = "*" if step is report.proposed else ""
        view = ("+ " if step.gain else "") + step.views[-1]
        table.add_row(mark, view, f"{step.error:.4f}", *_gain_cells(step.gain), str(len(step.views)))
    return table


def view_sentences(report: ViewReport) -> list[str]:
    """What is proposed, how honest that is, which commands use it, and which views were not looked at."""
    sentences = [_proposal(report), _honesty(report)]
    views, runs = ",".join(report.proposed.views), ",".join(report.runs)
    if report.is_worth_it:
        sentences.append(
            f"to use them: `python run.py blend --member-views {views}`;"
            f" to predict nothing else: `python run.py predict --run {runs} --views {views}`"
        )
    elif len(report.proposed.views) < len(report.views):
        sentences.append(
            f"a set chosen like this errs more than all {len(report.views)} views on images that it was not chosen by:"
            f" keep all, unless {_passes(report.views)} are too many: `python run.py blend --member-views {views}`"
        )
    lacking = [view for view in known_views() if view not in report.views]
    if lacking and len(report.runs) == 1:
        more = ",".join([*report.views, *lacking])
        sentences.append(
            f"not predicted: {', '.join(lacking)}; to look at them: `python run.py predict --run {report.name}"
            f" --views {more}`"
        )
    return sentences


def _proposal(report: ViewReport) -> str:
    proposed, best = report.proposed, report.best
    said = f"proposed: {', '.join(proposed.views)}, top-3 error {proposed.error:.4f} with {_passes(proposed.views)}"
    if proposed is best:
        return f"{said}, the best set on this path"
    return (
        f"{said}; the best set on this path, {', '.join(best.views)}, has {best.error:.4f} with {_passes(best.views)}:"
        f" {report.behind.mean:.4f} +- {report.behind.standard_error:.4f} less"
    )


def _honesty(report: ViewReport) -> str:
    apart = report.honest_against_all
    alike = sum(set(one) == set(report.proposed.views) for one in report.proposed_without)
    return (
        f"chosen without each fold and scored on it: top-3 error {report.honest:.4f}, {apart.mean:+.4f}"
        f" ({apart.low:+.4f} to {apart.high:+.4f}) against all {len(report.views)} views;"
        f" {alike} of {len(report.proposed_without)} times the same set was chosen"
    )


def _passes(views: Views) -> str:
    return f"{len(views)} forward pass{'es' if len(views) > 1 else ''} an image"


def _gain_cells(gain: Difference | None) -> tuple[str, str]:
    return ("-", "-") if gain is None else (f"{gain.mean:+.4f}", f"{gain.low:+.4f} to {gain.high:+.4f}")


def _table(title: str, first: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "view" else "right")
    return table
