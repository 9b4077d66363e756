"""What `submit`, `score`, `status` and `report` do, and `all`, which goes the whole way; each yields what is shown."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from ensemble.blend.expected import expected_words
from ensemble.blend.tables import blend_summary
from ensemble.commands import blend as blend_members
from ensemble.members.open_run import list_runs
from ensemble.settings import BlendSettings, FileSettings
from folds.base.errors import CannotWriteError, Complaint, UserError
from folds.base.locks import alone, holders
from folds.base.terminal import Screen
from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from models.runs import runs
from submissions.blend_files import blend_files as blend_and_submit
from submissions.check import check_submission
from submissions.csv_form import read_layout
from submissions.early import early_probes, submit_early
from submissions.lineage import expected_top3
from submissions.score import copies_of_test_images, score_submission
from submissions.settings import ReportSettings, SubmitSettings
from submissions.status import status_json, what_is_missing
from submissions.tables import early_summary, report_summary, submission_summary
from submissions.write import write_submission

if TYPE_CHECKING:
    from models.commands import FirstProbes, Training


def submit(
    workspace: Workspace,
    settings: SubmitSettings,
    *,
    screen: Screen,
    blend: Path | None = None,
    run: str | None = None,
) -> str:
    """Write and check the CSV of a blend, the last one if none is given, or of a single run."""
    if blend and run:
        raise UserError("`--blend` and `--run` exclude each other", hint="`python run.py submit --run NAME`")
    with alone(workspace, "submissions", say=screen.complain, is_to_write=workspace.folds_csv.is_file()):
        return submission_summary(write_submission(workspace, settings, blend=blend, run=run))


def blend_files(files: FileSettings, blend: BlendSettings, *, seed: int, screen: Screen) -> list[RenderableType]:
    """Labels and predictions in, CSV out, without a work folder."""
    made, written = blend_and_submit(files, blend, seed=seed, track=screen.track)
    return [blend_summary(made), submission_summary(written)]


def check(workspace: Workspace, file: Path) -> str:
    """Whether a CSV is valid."""
    result = check_submission(file, workspace)
    result.refuse_faults()
    return result.sentence


def score(workspace: Workspace, file: Path, labels: Path) -> Iterator[str]:
    """The errors of a CSV on the true labels, and the error that was expected of its blend."""
    copies = copies_of_test_images(workspace)
    yield score_submission(file, labels, read_layout(workspace), copies=copies).sentence
    expected = expected_top3(file)
    if expected is not None:
        yield f"expected: {expected_words(expected)}"


def status(workspace: Workspace, planned: Sequence[str]) -> tuple[list[RenderableType], str]:
    """Runs x folds, what is missing, who holds what; and the next command."""
    from models.watch.tables import status_table

    missing, command = what_is_missing(workspace, planned)
    n_folds = load_folds(workspace).n_folds if workspace.folds_csv.is_file() else None
    held = [f"{what}: held by {holder.sentence}" for what, holder in holders(workspace.lock("any").parent)]
    return [status_table(workspace, list(planned), n_folds=n_folds), *missing, *held], command


def status_for_scripts(workspace: Workspace, planned: Sequence[str], following: Callable[[str], str]) -> dict[str, Any]:
    return status_json(workspace, planned, following=following)


def runs_there(workspace: Workspace) -> list[str]:
    """The runs of a work folder, and those that `all` has probed and not trained yet."""
    there = runs(workspace)
    return sorted({*there, *(name.removesuffix("-probe") for name in early_probes(workspace))}) if there else []


def report(
    workspace: Workspace,
    settings: ReportSettings,
    planned: Sequence[str],
    *,
    screen: Screen,
    same_place: str,
    relative_place: str,
) -> tuple[str, str]:
    """Write the page; returns what is to be shown and the next command. same_place: flags of the work folder."""
    from submissions.report.make import make_report

    with alone(workspace, "report", say=screen.complain, is_to_write=workspace.manifest.is_file()):
        made = make_report(workspace, settings, list(planned), same_place=relative_place)
    return report_summary(made, same_place=same_place), made.next_command


def whole_way(
    workspace: Workspace,
    data: Path,
    *,
    probes: FirstProbes | None,
    training: Training,
    blend: BlendSettings,
    settings: SubmitSettings,
) -> Iterator[RenderableType | Complaint]:
    """What `all` does once there are folds: probe, train, blend, submit. Raises UserError where a fold failed."""
    from models.commands import torn_probes

    if probes is not None:
        yield from probes
        if not probes.is_cut and probes.chosen:
            yield from _submit_early(workspace, probes, blend, settings)
    if probes is not None and probes.is_cut:
        training.is_cut = True
    else:
        yield from training
    again = f"`python run.py all {shlex.quote(str(data))}` goes on"
    if training.failed and not training.is_cut:
        raise UserError(f"{training.failures}: nothing was blended", hint=f"{training.way_out}; {again}")
    if training.is_cut and not list_runs(workspace):
        raise UserError("the time was up before any fold was done", hint=again)
    torn = torn_probes(workspace, n_folds=load_folds(workspace).n_folds)
    others = tuple(name for name in list_runs(workspace) if name not in torn)
    if torn and others and blend.members is None:
        blend = replace(blend, members=others)
    if training.is_cut:
        blend = replace(blend, partial=True)
    yield from blend_members(workspace, blend, seed=training.seed, screen=training.screen)
    yield submit(workspace, settings, screen=training.screen)
    if training.failed:
        raise UserError(f"{training.failures}: the CSV was made without", hint=again)


def _submit_early(
    workspace: Workspace, probes: FirstProbes, blend: BlendSettings, settings: SubmitSettings
) -> Iterator[str | Complaint]:
    """The first CSV, from the probes alone; a mistake there does not stop the training."""
    screen = probes.screen
    try:
        with (
            alone(workspace, "ensemble", say=screen.complain),
            alone(workspace, "submissions", say=screen.complain),
        ):
            early = submit_early(workspace, probes.names, blend, settings, seed=probes.seed, track=screen.track)
    except CannotWriteError:
        raise
    except UserError as err:
        yield Complaint(f"{err.message}; there is no submission of the probes", err.hint)
        return
    if early is not None:
        yield early_summary(early)
