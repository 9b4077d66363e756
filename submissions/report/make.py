"""Makes the report: gathers each section, writes `relabel.csv`, `report.json` and `index.html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folds.base.errors import UserError
from folds.base.workspace import Workspace, read_json, write_bytes, write_json
from submissions.report.oof import best_oof, run_ranks
from submissions.report.page import render
from submissions.report.relabel_csv import write_relabel_csv
from submissions.report.sections.blend import blend_section
from submissions.report.sections.data import data_section
from submissions.report.sections.mistakes import mistakes_section
from submissions.report.sections.scores import scores_section
from submissions.report.sections.test_set import test_set_section
from submissions.report.sections.training import training_section
from submissions.report.thumbnails import Thumbnails
from submissions.report.workfolder import WorkFolder, open_workfolder
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
    work = open_workfolder(workspace)
    report = gather_report(work, settings, planned, same_place=same_place)
    bare = render(report, Thumbnails(work, side=settings.thumbnail_pixels, most_bytes=0))
    room = max(0, MOST_BYTES - len(bare.encode()))
    thumbnails = Thumbnails(work, side=settings.thumbnail_pixels, most_bytes=room)
    page = render(report, thumbnails).encode()
    path = workspace.report / "index.html"
    write_bytes(path, page)
    charts: dict[str, Any] = {}
    write_json(_json_path(workspace), {"charts": charts, **_plain(report, charts)})
    relabel, mistakes = report["relabel"], report["mistakes"]
    return ReportResult(
        path=path,
        bytes=len(page),
        refused=thumbnails.refused,
        suspects=len(mistakes["suspects"]) if mistakes else 0,
        relabel=workspace.report / "relabel.csv" if relabel else None,
        is_relabel_kept=bool(relabel and relabel["is_kept"]),
        problems=tuple(report["problems"]),
        next_command=report["scores"]["next_command"],
    )


def gather_report(
    work: WorkFolder, settings: ReportSettings, planned: Sequence[str], *, same_place: str = ""
) -> dict[str, Any]:
    """Every section by its name, None where it has nothing to show; writes `relabel.csv`, which the page refers to."""
    ranks = run_ranks(work)
    oof = best_oof(work, ranks)
    mistakes = mistakes_section(work, oof, settings) if oof is not None else None
    data = data_section(work, settings)
    written = _last_digest(work.workspace)
    return {
        "work": work.workspace.root.resolve().name,
        "scores": scores_section(work, ranks, planned),
        "data": data,
        "training": training_section(work),
        "mistakes": mistakes,
        "relabel": write_relabel_csv(work, mistakes["suspects"], written=written) if mistakes else None,
        "blend": blend_section(work, oof),
        "test": test_set_section(work, oof, settings, copies=data["copies"]),
        "problems": work.problems,
        "same_place": same_place,
        "shown_suspects": settings.suspects,
    }


def _plain(value: Any, charts: dict[str, Any]) -> Any:
    """The value as JSON: NaN is null; a chart goes to `charts` without its picture, and its key stays."""
    if isinstance(value, Mapping):
        if "svg" not in value:
            return {key: _plain(one, charts) for key, one in value.items()}
        charts[value["key"]] = {key: one for key, one in value.items() if key != "svg"}
        return value["key"]
    if isinstance(value, tuple | list):
        return [_plain(one, charts) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _last_digest(workspace: Workspace) -> str | None:
    """The digest of the relabel.csv that the last report wrote, None where there is none."""
    try:
        relabel = read_json(_json_path(workspace), hint="")["relabel"]
        return str(relabel["digest"])
    except (UserError, KeyError, TypeError):
        return None


def _json_path(workspace: Workspace) -> Path:
    return workspace.report / "report.json"
