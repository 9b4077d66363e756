"""What `submit`, `score`, `status` and `report` do, and `all`, which goes the whole way; each yields what is shown."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from ensemble.analysis.next_gain import gain_table, next_gains
from ensemble.analysis.test_set import copies_of_test_images
from ensemble.blend.blend_json import load_blend
from ensemble.blend.expected import expected_words
from ensemble.blend.tables import blend_summary
from ensemble.commands import blend as blend_members
from ensemble.members.open_run import list_runs
from ensemble.settings import BlendSettings, FileSettings
from folds.base.errors import CannotWriteError, Complaint, Next, UserError, counted, first_few
from folds.base.locks import alone, holders
from folds.base.terminal import Screen, duration
from folds.base.workspace import Workspace
from folds.commands import split
from folds.manifest.manifest import class_order, read_manifest, usable_rows
from folds.split.assign import changed_since, load_folds
from models.runs import RunPlan, runs
from submissions.check import check_submission, expected_top3, score_submission
from submissions.csv_form import read_layout
from submissions.settings import Every, InferSettings, PackSettings, ReportSettings, SubmitSettings, Wanted
from submissions.status import status_json, what_is_missing
from submissions.write import blend_files as blend_and_submit
from submissions.write import submission_summary, submit_early, write_submission

if TYPE_CHECKING:
    from models.commands import Training  # torch, which the other commands need not wait for


def submit(
    workspace: Workspace, settings: SubmitSettings, *, screen: Screen, blend: Path | None = None, run: str | None = None
) -> str:
    """Write and check the CSV of a blend, the last one if none is given, or of a single run."""
    if blend and run:
        raise UserError("`--blend` and `--run` exclude each other", hint="`python run.py submit --run NAME`")
    with alone(workspace, "submissions", say=screen.complain, is_to_write=workspace.folds_csv.is_file()):
        said = submission_summary(write_submission(workspace, settings, blend=blend, run=run))
    changed = changed_since(workspace, load_folds(workspace)) if workspace.manifest.is_file() else None
    return f"{said}\nwarning: {changed}; the CSV is that of the images and labels of the folds" if changed else said


def blend_files(files: FileSettings, blend: BlendSettings, *, seed: int, screen: Screen) -> list[RenderableType]:
    """Labels and predictions in, CSV out, without a work folder."""
    made, written = blend_and_submit(files, blend, seed=seed, track=screen.track)
    return [blend_summary(made), submission_summary(written)]


def foresee_form(workspace: Workspace) -> Iterator[str | Complaint]:
    """What `submit` will refuse or make up of the sample's form, as soon as there is a manifest; mostly nothing."""
    labels = class_order(usable_rows(read_manifest(workspace), split="train")["label"])
    try:
        warning = read_layout(workspace, image_id=(), labels=labels).warning()
    except UserError as err:  # no reason to stop: another sample can be given at any time
        yield Complaint(f"{err.message}; so `submit` will refuse it", err.hint)
    else:
        yield from [warning] if warning else []


def check(workspace: Workspace, file: Path) -> str:
    """Whether a CSV is valid."""
    return check_submission(file, read_layout(workspace)).sentence


def score(workspace: Workspace, file: Path, labels: Path) -> Iterator[str]:
    """The errors of a CSV on the true labels, and the error that was expected of its blend."""
    copies = copies_of_test_images(workspace)
    yield score_submission(file, labels, read_layout(workspace), copies=copies).sentence
    expected = expected_top3(file)
    if expected is not None:
        yield f"expected: {expected_words(expected)}"


def pack(
    workspace: Workspace, settings: PackSettings, plans: Sequence[RunPlan], *, device: str, screen: Screen
) -> Iterator[str]:
    """Write the blend with its networks as one file."""
    from submissions.offline.make_pack import make_pack

    made = make_pack(workspace, settings, plans, device=device, track=screen.track)
    members, runs = len(made.pack.smaller[0].members), made.pack.runs.values()
    networks, memories = sum(len(run.parts) for run in runs if not run.memory), sum(bool(run.memory) for run in runs)
    lookups = f" and {memories} {'memory' if memories == 1 else 'memories'} of neighbours" if memories else ""
    bodies = [body for run in runs for body in run.bodies if body.licence]
    licences = sorted({f"{body.backbone['tag']} ({body.licence})" for body in bodies})
    form = "float16" if made.pack.is_half else "float32"
    what = f"{networks} networks{lookups} of {members} member{'s' * (members != 1)}, in {form}"
    yield f"{made.path}: {made.bytes / 1e6:,.1f} MB, {what}"
    if made.part is None:
        yield f"expected top-3 error {made.pack.expected_top3_error:.4f}, as of the blend"
    else:
        yield (
            f"it fits into {settings.limit_mb:g} MB without the other members, and has an out-of-fold top-3 error of"
            f" {made.part.oof_top3_error:.4f}; the expected error of the blend does not hold for it"
        )
    if made.refused_half:
        yield f"float16 would change the out-of-fold error of {first_few(made.refused_half)}: not taken"
    if licences:
        yield f"starting weights and their licences: {', '.join(licences)}"
    yield f"`python run.py infer {shlex.quote(str(made.path))} PICTURES --out FILE` predicts with it, anywhere"


def infer(file: Path, pictures: Path, settings: InferSettings, *, screen: Screen) -> Iterator[str]:
    """Predict a folder of pictures with a pack."""
    from submissions.offline.infer import describe
    from submissions.offline.infer import infer as predict

    made = predict(file, pictures, settings, say=screen.complain, track=screen.track)
    yield f"{made.path}: {made.rows:,} rows, valid, in {duration(made.seconds)}"
    late = "that the time did not suffice for"
    for ids, one, many in (
        (made.guessed, "unreadable picture", "unreadable pictures"),
        (made.unseen, f"picture {late}", f"pictures {late}"),
    ):
        if ids:
            yield f"{counted(len(ids), one, many)} got the most frequent classes: {first_few(ids)}"
    if made.unseen:
        yield "the same command goes on with them"
    if made.part is not made.whole:
        yield f"predicted by {describe(made.part, made.whole)}"


def status(workspace: Workspace, wanted: Wanted) -> Iterator[RenderableType | Next]:
    """Runs x folds, what is missing, who holds what; and the next command."""
    from models.watch.tables import status_table

    missing, command = what_is_missing(workspace, wanted)
    n_folds = load_folds(workspace).n_folds if workspace.folds_csv.is_file() else None
    yield status_table(workspace, list(wanted.runs), n_folds=n_folds)
    gains = next_gains(workspace)
    if gains:
        yield gain_table(gains)
    yield from missing
    yield from (f"{what}: held by {holder.sentence}" for what, holder in holders(workspace.lock("any").parent))
    yield Next(command)


def status_for_scripts(workspace: Workspace, wanted: Wanted, *, same_place: str) -> str:
    """The same as one JSON object. same_place: the flags by which the next command finds this work folder."""
    return json.dumps(status_json(workspace, wanted, same_place=same_place), indent=2) + "\n"


def runs_there(workspace: Workspace) -> list[str]:
    """The runs of a work folder, and those that `all` has probed and not trained yet."""
    there = set(runs(workspace))
    with suppress(UserError):  # there is no blend of probes
        early = load_blend(workspace.early_blend).runs.values() if there else ()
        there.update(name.removesuffix("-probe") for member in early for name in member)
    return sorted(there)


def report(
    workspace: Workspace, settings: ReportSettings, wanted: Wanted, *, screen: Screen, same_place: str
) -> Iterator[str | Next]:
    """Write the page. same_place: the flags by which the page's commands find this work folder."""
    from submissions.report.make import make_report, report_summary

    relative = Workspace(Path(os.path.relpath(workspace.root)))  # a page is passed on: no absolute path may stand in it
    with alone(workspace, "report", say=screen.complain, is_to_write=workspace.manifest.is_file()):
        made = make_report(relative, settings, wanted, same_place=same_place)
    yield report_summary(made)
    yield Next(made.next_command)


def whole_way(
    data: Path, every: Every, plans: Sequence[RunPlan], *, screen: Screen
) -> Iterator[RenderableType | Complaint | Next]:
    """What `all` does: prepare, split, probe, train, blend, submit. Raises UserError where a fold failed."""
    from models.commands import Training
    from models.commands import prepare as prepare_for
    from models.jobs.plan import refuse_early
    from models.jobs.ray_cluster import refuse_without_ray
    from models.runs import torn_probes
    from models.watch.curves import refuse_absent

    workspace, seed, blend, deadline = every.top.workspace, every.top.seed, every.blend, every.limit.deadline()
    refuse_absent(every.follow)
    refuse_without_ray(every.engine)
    refuse_early(workspace, plans, every.predict)
    with screen.living():
        yield prepare_for(workspace, data, every.prepare, plans, views=every.predict.plain_views, screen=screen)
        yield from foresee_form(workspace)
        yield split(workspace, every.split, seed=seed, screen=screen)
        training = Training(
            workspace, plans, every.predict, every.follow, every.engine, seed, screen, deadline=deadline
        )
        if every.first.probe:
            probes = yield from training.probe_first(with_knn=every.first.knn)
            if probes and not training.is_cut:
                yield from _submit_early(training, probes, blend, every.submit)
        if not training.is_cut:
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
        yield from blend_members(workspace, blend, seed=seed, screen=screen)
        yield submit(workspace, every.submit, screen=screen)
    if training.failed:
        raise UserError(f"{training.failures}: the CSV was made without them", hint=again)
    yield Next(f"all {shlex.quote(str(data))}" if training.is_cut else "report")


def demo(folder: Path, *, seed: int) -> Iterator[tuple[list[str], list[str]]]:
    """The words of each command of the demo, and what is to be shown before it."""
    from folds.demo import make_demo

    data, kept_aside = make_demo(folder, seed=seed)
    work, csv = folder / "work", folder / "work" / "submissions" / "blend.csv"
    config = os.path.relpath(Path(__file__).parents[1] / "examples" / "demo.toml")
    options = ["--config", config, "--work", str(work), "--seed", str(seed)]
    yield ["all", str(data), *options], [f"a small competition of handwritten digits lies in {data}"]
    yield ["score", str(csv), "--labels", str(kept_aside), "--work", str(work)], []


def _submit_early(
    training: Training, probes: list[str], blend: BlendSettings, settings: SubmitSettings
) -> Iterator[str | Complaint]:
    """The first CSV, from the probes alone; a mistake there does not stop the training."""
    workspace, say = training.workspace, training.screen.complain
    try:
        with alone(workspace, "ensemble", say=say), alone(workspace, "submissions", say=say):
            early = submit_early(training, probes, blend, settings)
    except CannotWriteError:
        raise
    except UserError as err:
        yield Complaint(f"{err.message}; so the probes make no first submission", err.hint)
        return
    if early is not None:
        yield early
