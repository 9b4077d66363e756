"""Makes the report: it gathers each section, writes `relabel.csv`, `report.json` and `index.html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from folds.base.errors import UserError
from folds.base.workspace import Workspace, read_json, write_bytes, write_json
from submissions.report.album import Album
from submissions.report.blending import gather_blending
from submissions.report.charts import Chart
from submissions.report.data import gather_data
from submissions.report.guesses import best_guesses, run_ranks
from submissions.report.mistakes import gather_mistakes
from submissions.report.page import Report, render
from submissions.report.relabel_csv import write_relabel_csv
from submissions.report.source import Source, open_source
from submissions.report.standing import gather_standing
from submissions.report.testing import gather_testing
from submissions.report.training import gather_training
from submissions.settings import ReportSettings

MOST_BYTES = 15_000_000  # of the page: what a mail or a phone takes


@dataclass(frozen=True)
class ReportResult:
    """What was written. refused: pictures that the page had no room for; relabel: where suspected labels lie."""

    path: Path
    bytes: int
    refused: int
    suspects: int
    relabel: Path | None
    is_relabel_kept: bool
    problems: tuple[str, ...]
    next_command: str


def make_report(
    workspace: Workspace, settings: ReportSettings, planned: Sequence[str], *, same_place: str = ""
) -> ReportResult:
    """Write `work/report/`. planned: the runs that the settings ask for; same_place: flags of the next command.

    Raises UserError where not even `prepare` is done; whatever else is missing or damaged is named on the page.
    """
    source = open_source(workspace)
    report = gather_report(source, settings, planned, same_place=same_place)
    path, json_path = workspace.report / "index.html", _json(workspace)
    album, page = _fitting(source, report, settings)
    write_bytes(path, page)
    write_json(json_path, report_json(report))
    relabel = report.relabel
    return ReportResult(
        path=path,
        bytes=len(page),
        refused=album.refused,
        suspects=len(report.mistakes.suspects) if report.mistakes else 0,
        relabel=workspace.report / "relabel.csv" if relabel else None,
        is_relabel_kept=bool(relabel and relabel.is_kept),
        problems=report.problems,
        next_command=report.standing.next_command,
    )


def gather_report(source: Source, settings: ReportSettings, planned: Sequence[str], *, same_place: str = "") -> Report:
    """Every section, and `relabel.csv` on the way: the page says whether it was written."""
    ranks = run_ranks(source)
    guesses = best_guesses(source, ranks)
    mistakes = gather_mistakes(source, guesses, settings) if guesses is not None else None
    data = gather_data(source, settings)
    written = _last_digest(source.workspace)
    standing = gather_standing(source, ranks, planned)
    return Report(
        work=source.workspace.root.resolve().name,
        standing=standing,
        data=data,
        training=gather_training(source),
        mistakes=mistakes,
        relabel=write_relabel_csv(source, mistakes.suspects, written=written) if mistakes else None,
        blending=gather_blending(source, guesses),
        testing=gather_testing(source, guesses, settings, copies=data.copies),
        problems=tuple(source.problems),
        same_place=same_place,
        shown_suspects=settings.suspects,
    )


def report_json(report: Report) -> dict[str, Any]:
    """Every number of the page. Charts stand under `charts` by their key, and sections name them so."""
    charts: dict[str, Any] = {}
    plain = {one.name: _plain(getattr(report, one.name), charts) for one in fields(report)}
    return {"charts": charts, **plain}


def _plain(value: Any, charts: dict[str, Any]) -> Any:
    """The value in JSON's types; NaN is null."""
    if isinstance(value, Chart):
        own = {one.name: _plain(getattr(value, one.name), charts) for one in fields(value)}
        charts[value.key] = {"kind": type(value).__name__.lower(), **own}
        return value.key
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name), charts) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one, charts) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one, charts) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fitting(source: Source, report: Report, settings: ReportSettings) -> tuple[Album, bytes]:
    """The page with as many pictures as fit beside its words and charts."""
    drawn: dict[str, str] = {}
    bare = render(report, Album(source, side=settings.thumbnail_pixels, most_bytes=0), drawn)
    room = max(0, MOST_BYTES - len(bare.encode()))
    album = Album(source, side=settings.thumbnail_pixels, most_bytes=room)
    return album, render(report, album, drawn).encode()


def _last_digest(workspace: Workspace) -> str | None:
    """The digest of the relabel.csv that the last report wrote, None where there is none."""
    try:
        said = read_json(_json(workspace), hint="")
    except UserError:
        return None
    relabel = said.get("relabel") if isinstance(said, dict) else None
    return relabel.get("digest") if isinstance(relabel, dict) else None


def _json(workspace: Workspace) -> Path:
    return workspace.report / "report.json"
