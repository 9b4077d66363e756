"""The command line of Foldblend: it parses arguments, calls the four rooms, and prints."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from ensemble.settings import AddSettings, BlendSettings, FileSettings
from folds.base.config import FLAT, Kit
from folds.base.config_file import to_toml
from folds.base.errors import UserError, visible
from folds.base.signals import Stopped, stoppable
from folds.base.workspace import Workspace
from folds.engine import EngineSettings
from folds.settings import COMMA_LIST, LimitSettings, PrepareSettings, SplitSettings, at_least
from models.recipes import FROM_FAMILY
from models.settings import FirstSettings, PredictSettings, TrackSettings, TrainSettings
from submissions.settings import ReportSettings, SubmitSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from folds.base.progress import Track
    from folds.base.terminal import Screen
    from models.runs import RunPlan
    from models.watch.events import FoldFailed, JobEvent, JobProgress

# GNU OpenMP reads it when torch is imported: how long threads spin before they sleep. A small net on two cores trains
# at 2,080 images/s with this or the default; beside two busy processes at 1,410 to 1,880, by default at 23 to 1,560.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

EXAMPLES = Path(__file__).parent / "examples"
KIT_TOML = Path("kit.toml")
GO_ON = "the same command goes on where it was stopped"


@dataclass(frozen=True)
class Top:
    work: Annotated[Path, Parameter(help="the work folder; everything is written below it")] = Path("work")
    seed: Annotated[int, at_least(0, at_most=2**32 - 1, help="of folds, training and blend")] = 0


Prepare = Annotated[PrepareSettings, FLAT, Parameter(group="prepare")]
Split = Annotated[SplitSettings, FLAT, Parameter(group="split")]
First = Annotated[FirstSettings, FLAT, Parameter(group="first")]
Train = Annotated[TrainSettings, FLAT, Parameter(group="train")]
Predict = Annotated[PredictSettings, FLAT, Parameter(group="predict")]
Follow = Annotated[TrackSettings, FLAT, Parameter(group="follow")]
Blend = Annotated[BlendSettings, FLAT, Parameter(group="blend")]
Submit = Annotated[SubmitSettings, FLAT, Parameter(group="submit")]
Report = Annotated[ReportSettings, FLAT, Parameter(group="report")]
Limit = Annotated[LimitSettings, FLAT, Parameter(group="limit")]
Engine = Annotated[EngineSettings, FLAT, Parameter(group="engine")]
TopFlags = Annotated[Top, FLAT, Parameter(group="everywhere")]
Config = Annotated[Path, Parameter(group="everywhere", help="settings file; read if it lies there")]


@dataclass(frozen=True)
class Every:
    """All settings: what `all` and `settings` take, and what kit.toml may say."""

    top: TopFlags = Top()
    prepare: Prepare = PrepareSettings()
    split: Split = SplitSettings()
    first: First = FirstSettings()
    train: Train = TrainSettings()
    predict: Predict = PredictSettings()
    follow: Follow = TrackSettings()
    blend: Blend = BlendSettings()
    submit: Submit = SubmitSettings()
    report: Report = ReportSettings()
    limit: Limit = LimitSettings()
    engine: Engine = EngineSettings()


KIT = Kit(Every, KIT_TOML)
app = App(
    name="run.py",
    help="Foldblend: from a folder of images to a checked top-3 CSV. Start with `python run.py demo`.",
    config=KIT,
    result_action="return_value",
    version_flags=(),
    suppress_keyboard_interrupt=False,
)
Data = Annotated[Path, Parameter(help="the competition's folder; it is never written to")]
Runs = Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="runs, by name")]


@app.command(name="all", sort_key=0)
def all_(data: Data, *, every: Annotated[Every, FLAT] = Every(), config: Config = KIT_TOML) -> str:
    """Prepare, split, probe, train every backbone x fold, blend, submit; goes on where it was stopped."""
    from models.jobs.plan import refuse_early
    from models.jobs.ray_cluster import refuse_without_ray
    from models.watch.curves import refuse_absent

    deadline = every.limit.deadline(time.monotonic())
    refuse_absent(every.follow)
    refuse_without_ray(every.engine)
    refuse_early(Workspace(every.top.work), plans(every.train), every.predict)
    with screen().living():
        return go_the_way(data, every, deadline=deadline)


def go_the_way(data: Path, every: Every, *, deadline: float | None) -> str:
    """All steps; returns the next command."""
    from ensemble.members.open_run import list_runs

    prepare_data(data, every.prepare, every.train, engine=every.engine, top=every.top)
    split_(split=every.split, top=every.top)
    is_cut = probe_backbones(every, deadline=deadline) if every.first.probe else False
    trained = (
        Trained((), is_cut=True)
        if is_cut
        else train_folds(
            every.train, every.predict, every.follow, engine=every.engine, top=every.top, deadline=deadline
        )
    )
    again = f"`python run.py all {shlex.quote(str(data))}` goes on"
    if trained.failed and not trained.is_cut:
        raise UserError(f"{trained.failures}: nothing was blended", hint=f"{trained.way_out(every.train)}; {again}")
    if trained.is_cut and not list_runs(Workspace(every.top.work)):
        raise UserError("the time was up before any fold was done", hint=again)
    blend = without_torn_probes(Workspace(every.top.work), every.blend)
    blend_(blend=replace(blend, partial=True) if trained.is_cut else blend, top=every.top)
    then = submit_(submit=every.submit, top=every.top)
    if trained.failed:
        raise UserError(f"{trained.failures}: the CSV was made without", hint=again)
    return following(f"all {shlex.quote(str(data))}") if trained.is_cut else then


def probe_backbones(every: Every, *, deadline: float | None) -> bool:
    """Probe what starts from weights, and submit that at once; returns whether the time was up before it was done."""
    from folds.base.progress import silently
    from folds.base.signals import TimeUpError, until
    from models.jobs.plan import refuse_runs
    from models.probe.first_probes import plans_to_probe, probe_first
    from models.runs import as_probe
    from models.watch.events import FoldFailed, JobEvent
    from models.watch.live_table import LiveTable
    from models.watch.tables import job_lines, probe_lines

    workspace, chosen = Workspace(every.top.work), plans_to_probe(plans(every.train))
    if not chosen:
        return False
    refuse_runs(workspace, plans(every.train), seed=every.top.seed)
    table = LiveTable(screen())
    tracked = silently if every.engine.is_ray else track()  # processes on Ray say how far they are themselves
    tracked = tracked if deadline is None else until(deadline, tracked)
    try:
        with (
            alone(workspace, "probe"),
            closing(probe_first(workspace, chosen, every.predict, engine=every.engine, track=tracked)) as happening,
        ):
            for one in happening:
                table.take(one)
                show(*job_lines(one, probe_lines))
                if isinstance(one, JobEvent) and isinstance(one.event, FoldFailed):
                    sys.stderr.write(one.event.trace or "")
                    refuse(f"{one.event.why}; training goes on without this probe", one.event.hint)
    except TimeUpError:
        show("the time is up")
        return True
    submit_probes(workspace, [as_probe(plan).name for plan in chosen], every)
    return False


def without_torn_probes(workspace: Workspace, blend: BlendSettings) -> BlendSettings:
    """The settings of a blend that leaves out probes which failed on the way; runs that are named stay."""
    from ensemble.members.open_run import list_runs
    from folds.split.assign import load_folds
    from models.runs import done_folds, is_probe

    names, n_folds = list_runs(workspace), load_folds(workspace).n_folds
    torn = [name for name in names if is_probe(workspace, name) and len(done_folds(workspace, name)) < n_folds]
    others = tuple(name for name in names if name not in torn)
    return replace(blend, members=others) if torn and others and blend.members is None else blend


def submit_probes(workspace: Workspace, probes: Sequence[str], every: Every) -> None:
    """Write the first CSV, from the probes alone; a mistake in that is told, and stops nothing."""
    from folds.base.errors import CannotWriteError
    from submissions.early import submit_early
    from submissions.tables import early_summary

    try:
        with alone(workspace, "ensemble"), alone(workspace, "submissions"):
            early = submit_early(workspace, probes, every.blend, every.submit, seed=every.top.seed, track=track())
    except CannotWriteError:
        raise
    except UserError as err:
        refuse(f"{err.message}; there is no submission of the probes", err.hint)
        return
    if early is not None:
        show(early_summary(early))


@app.command(name="prepare", sort_key=1)
def prepare_(
    data: Data,
    *,
    prepare: Prepare = PrepareSettings(),
    engine: Engine = EngineSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Scan and decode every file, find duplicates, write the manifest and the pixel store."""
    prepare_data(data, prepare, KIT.in_file().train, engine=engine, top=top)
    return following("split")


def prepare_data(
    data: Path, prepare: PrepareSettings, train: TrainSettings, *, engine: EngineSettings, top: Top
) -> None:
    """`prepare`, with a store as large as the runs need it where its size is not set."""
    from folds.manifest import prepare as room
    from folds.manifest.tables import prepare_tables

    workspace, size = Workspace(top.work), prepare.store_size or needed_size(train)
    with alone(workspace, "folds", is_to_write=room.is_apart(workspace, data)):
        made = room.prepare(workspace, data, prepare, needed_size=size, engine=engine, track=track())
    show(prepare_tables(made))


def needed_size(train: TrainSettings) -> int:
    from models.sizes import needed_store_size

    return needed_store_size(plans(train))


@app.command(name="split", sort_key=2)
def split_(*, split: Split = SplitSettings(), top: TopFlags = Top(), config: Config = KIT_TOML) -> str:
    """Assign every training image to a fold, once."""
    from folds.manifest.tables import split_tables
    from folds.split import assign as assignment

    workspace = Workspace(top.work)
    with alone(workspace, "folds", is_to_write=workspace.manifest.is_file()):
        folds = assignment.split(workspace, split, seed=top.seed)
    show(split_tables(folds))
    return following("train")


@app.command(name="train", sort_key=3)
def train_(
    *,
    train: Train = TrainSettings(),
    predict: Predict = PredictSettings(),
    follow: Follow = TrackSettings(),
    fold: Annotated[
        tuple[str, ...], COMMA_LIST, Parameter(help="folds to train: 0,2; `all` trains once more, on all images")
    ] = (),
    run: Runs = (),
    limit: Limit = LimitSettings(),
    engine: Engine = EngineSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Train every fold of every run that is not done, and predict out-of-fold and test images."""
    wrong = [one for one in fold if not one.isdecimal() and one != "all"]
    if wrong:
        raise UserError(
            f"`--fold {','.join(fold)}` is no list of folds: `{wrong[0]}` is neither a number nor `all`",
            hint="`--fold 0,2`",
        )
    deadline = limit.deadline(time.monotonic())
    trained = train_folds(train, predict, follow, fold=fold, run=run, engine=engine, top=top, deadline=deadline)
    if trained.failed:
        raise UserError(trained.failures, hint="`python run.py train` tries again what failed")
    return following("train" if trained.is_cut else "blend")


@dataclass(frozen=True)
class Trained:
    """How training ended: which folds failed, and whether the time was up before all were done."""

    failed: tuple[FoldFailed, ...]
    is_cut: bool

    @property
    def failures(self) -> str:
        from folds.base.errors import first_few

        return f"{first_few([one.name for one in self.failed])} failed"

    def way_out(self, train: TrainSettings) -> str:
        """How to blend without the runs that failed."""
        failed = {one.run for one in self.failed}
        others = [plan.name for plan in plans(train) if plan.name not in failed]
        if others:
            return f"`python run.py blend --members {','.join(others)}` blends the others"
        return "`python run.py blend --partial` takes the folds that are done"


def train_folds(
    train: TrainSettings,
    predict: PredictSettings,
    follow: TrackSettings,
    *,
    fold: tuple[str, ...] = (),
    run: tuple[str, ...] = (),
    engine: EngineSettings,
    top: Top,
    deadline: float | None,
) -> Trained:
    """Train what is not done and show what happens, until all is done or the time is up."""
    from folds.base.progress import silently
    from folds.base.signals import TimeUpError, until
    from models.jobs.plan import train_runs
    from models.watch.curves import tracking
    from models.watch.events import FoldFailed, JobEvent, by_job
    from models.watch.live_table import showing_jobs
    from models.watch.tables import job_lines

    failed: list[FoldFailed] = []
    workspace, runs = Workspace(top.work), plans(train, names=run)
    only_folds = [None if one == "all" else int(one) for one in fold]
    with (
        tracking(workspace, follow, say=show) as trackers,
        showing_jobs(screen(), workspace, runs, only_folds=only_folds, seed=top.seed, looks=not engine.is_ray) as table,
    ):
        tracked = silently if engine.is_ray else table.track  # jobs on Ray say how far they are themselves
        tracked = tracked if deadline is None else until(deadline, tracked)
        events = train_runs(
            workspace, runs, predict, seed=top.seed, only_folds=only_folds, engine=engine, track=tracked
        )
        try:
            with closing(by_job(events)) as happened:
                for one in happened:
                    table.take(one)
                    show(*job_lines(one))
                    if isinstance(one, JobEvent):
                        trackers.take(one)
                    if isinstance(one, JobEvent) and isinstance(one.event, FoldFailed):
                        failed.append(one.event)
                        sys.stderr.write(one.event.trace or "")
                        refuse(one.event.why, one.event.hint)
        except TimeUpError as stop:
            show("; ".join(["the time is up", *getattr(stop, "__notes__", ())]))
            return Trained(tuple(failed), is_cut=True)
    return Trained(tuple(failed), is_cut=False)


@app.command(name="probe", sort_key=3)
def probe_(
    *,
    train: Train = TrainSettings(),
    predict: Predict = PredictSettings(),
    run: Runs = (),
    engine: Engine = EngineSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Fit the heads of all folds to a frozen backbone's features: a full run after one pass, called NAME-probe."""
    from models.probe.probe import probe_runs
    from models.watch.tables import probe_lines

    workspace, chosen = Workspace(top.work), plans(train, names=run)
    with alone(workspace, "probe", is_to_write=workspace.folds_csv.is_file()):
        if engine.is_ray:
            from models.jobs.ray_runs import probe_on_ray

            show_elsewhere(workspace, probe_on_ray(workspace, chosen, predict, engine=engine), probe_lines)
            return following("blend")
        for event in probe_runs(workspace, chosen, predict, engine=engine, track=track()):
            show(*probe_lines(event))
    return following("blend")


def show_elsewhere(
    workspace: Workspace, happening: Generator[JobEvent | JobProgress, None, None], lines_of: Callable[[Any], list[str]]
) -> None:
    """Show what jobs on Ray say, in lines."""
    from models.watch.live_table import LiveTable
    from models.watch.tables import job_lines

    table = LiveTable(screen())
    with closing(happening):
        for one in happening:
            table.take(one)
            show(*job_lines(one, lines_of))


@app.command(name="lr-find", sort_key=3)
def lr_find_(
    *,
    train: Train = TrainSettings(),
    fold: Annotated[int, at_least(0, help="the fold to keep out")] = 0,
    run: Runs = (),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Sweep the learning rate of each run on one fold's training part, and suggest one; nothing else is kept."""
    from models.jobs.plan import find_rates

    chosen = plans(train, names=run)
    rate = "find"
    for found in find_rates(Workspace(top.work), chosen, fold=fold, seed=top.seed, track=track()):
        marks = f"loss falls fastest at {found.sweep.steepest:.1e}, is lowest at {found.sweep.lowest:.1e}"
        show(f"{found.run}: --lr {found.sweep.suggested:.1e} ({marks}); see {found.picture}")
        rate = f"{found.sweep.suggested:.1e}" if len(chosen) == 1 else "find"
    flags = [text for name, text in KIT.typed.items() if name not in ("fold", "lr", "work", "config")]
    return following(" ".join(["train", *flags, f"--lr {rate}"]))


@app.command(name="predict", sort_key=4)
def predict_(
    *,
    run: Runs = (),
    predict: Predict = PredictSettings(),
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="where to predict")] = "auto",
    engine: Engine = EngineSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Predict out-of-fold and test images again from the checkpoints, without training."""
    from models.predict.again import predict_run
    from models.runs import is_probe, runs
    from models.watch.tables import predicted_lines

    workspace = Workspace(top.work)
    names = run or tuple(name for name in runs(workspace) if not is_probe(workspace, name))
    if not names:
        raise UserError(f"{workspace.models} holds no run", hint="`python run.py train`")
    if engine.is_ray:
        from models.jobs.ray_runs import predict_on_ray

        happening = predict_on_ray(workspace, names, predict, device_name=device, engine=engine)
        show_elsewhere(workspace, happening, partial(predicted_lines, views=predict.views))
        return following("blend")
    for name in names:
        with alone(workspace, f"{name}.files", is_to_write=(workspace.models / name).is_dir()):
            for done in predict_run(workspace, name, predict, device_name=device, engine=engine, track=track()):
                show(*predicted_lines(done, predict.views))
    return following("blend")


@app.command(name="views", sort_key=4)
def views_(*, run: Runs = (), top: TopFlags = Top(), config: Config = KIT_TOML) -> str:
    """What each view of test-time augmentation adds out of fold, and what it costs; proposes the set that pays."""
    from ensemble.analysis.view_tables import view_summary
    from ensemble.analysis.views import report_views

    reports = list(report_views(Workspace(top.work), run, track=track()))
    show(*map(view_summary, reports))
    last = reports[-1]
    return following(f"blend --member-views {','.join(last.proposed.views)}" if last.is_worth_it else "blend")


@app.command(name="add", sort_key=5)
def add_(
    name: Annotated[str, Parameter(help="what the member is to be called")],
    *,
    add: Annotated[AddSettings, FLAT] = AddSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Take in predictions that other tools made, once they are checked, as one more member."""
    from ensemble.members.add_member import add_member

    workspace = Workspace(top.work)
    with alone(workspace, "ensemble", is_to_write=workspace.folds_csv.is_file()):
        added = add_member(workspace, name, add)
    show(f"{added.name}: {added.images:,} out-of-fold and {added.test_images:,} test images, wrote {added.folder}")
    show(*(f"note: {warning}" for warning in added.warnings))
    return following("blend")


@app.command(name="blend", sort_key=6)
def blend_(
    *,
    blend: Blend = BlendSettings(),
    files: Annotated[FileSettings, FLAT, Parameter(group="files")] = FileSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str | None:
    """Find the members' weights on their out-of-fold predictions, and say how much of the gain is real."""
    from ensemble.blend.make_blend import make_blend
    from ensemble.blend.tables import blend_summary

    if files != FileSettings():
        blend_files_(files, blend, seed=top.seed)
        return None
    workspace = Workspace(top.work)
    with alone(workspace, "ensemble", is_to_write=workspace.folds_csv.is_file()):
        made = make_blend(workspace, blend, seed=top.seed, track=track())
    show(blend_summary(made), f"wrote {made.path}")
    return following("submit")


def blend_files_(files: FileSettings, blend: BlendSettings, *, seed: int) -> None:
    """Labels and predictions in, CSV out, without a work folder."""
    from ensemble.blend.tables import blend_summary
    from submissions.from_files import blend_files
    from submissions.tables import submission_summary

    made, written = blend_files(files, blend, seed=seed, track=track())
    show(blend_summary(made), submission_summary(written))


@app.command(name="submit", sort_key=7)
def submit_(
    *,
    blend: Annotated[Path | None, Parameter(help="a blend.json; the last one if not given")] = None,
    run: Annotated[str | None, Parameter(help="a single run instead of a blend")] = None,
    submit: Submit = SubmitSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Write the CSV with three labels per test image, and check it."""
    from submissions.submission import write_submission
    from submissions.tables import submission_summary

    if blend and run:
        raise UserError("`--blend` and `--run` exclude each other", hint="`python run.py submit --run NAME`")
    workspace = Workspace(top.work)
    with alone(workspace, "submissions", is_to_write=workspace.folds_csv.is_file()):
        result = write_submission(workspace, submit, blend=blend, run=run)
    show(submission_summary(result))
    return following("report")


@app.command(name="check", sort_key=8)
def check_(file: Path, *, top: TopFlags = Top(), config: Config = KIT_TOML) -> None:
    """Hold any CSV against what the organiser's checker wants."""
    from submissions.check import check_submission

    result = check_submission(file, Workspace(top.work))
    result.refuse_faults()
    show(result.sentence)


@app.command(name="score", sort_key=9)
def score_(
    file: Path,
    *,
    labels: Annotated[Path, Parameter(help="CSV with the true labels: an id and a label column")],
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> None:
    """The top-1 and top-3 error of a CSV whose true labels you have."""
    from submissions.layout import read_layout
    from submissions.score import copies_of_test_images, promised_error, score_submission

    workspace = Workspace(top.work)
    copies = copies_of_test_images(workspace)
    show(score_submission(file, labels, read_layout(workspace), copies=copies).sentence)
    promised = promised_error(file)
    if promised is not None:
        show(f"the blend had promised a top-3 error of {promised:.4f}")


@app.command(name="status", sort_key=10)
def status_(
    *,
    json: Annotated[bool, Parameter(negative=(), help="print it as one JSON object, for scripts")] = False,
    train: Train = TrainSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str | None:
    """Runs x folds with their score, what is missing, and the next command."""
    from folds.base.locks import holders
    from folds.split.assign import load_folds
    from models.watch.tables import status_table
    from submissions.status import status_json, what_is_missing

    workspace = Workspace(top.work)
    planned = planned_runs(workspace, train)
    if json:
        show_json(status_json(workspace, planned, following=following))
        return None
    missing, command = what_is_missing(workspace, planned)
    n_folds = load_folds(workspace).n_folds if workspace.folds_csv.is_file() else None
    show(status_table(workspace, planned, n_folds=n_folds), *missing)
    show(*(f"{what}: held by {holder.sentence}" for what, holder in holders(workspace.lock("any").parent)))
    return following(command)


@app.command(name="report", sort_key=10)
def report_(
    *,
    report: Report = ReportSettings(),
    train: Train = TrainSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Write work/report/index.html: scores, data, training, mistakes, blend and test set on one page."""
    from submissions.report.report import make_report
    from submissions.tables import report_summary

    workspace = Workspace(Path(os.path.relpath(top.work)))  # a page is passed on: no absolute path may stand in it
    with alone(workspace, "report", is_to_write=workspace.manifest.is_file()):
        made = make_report(workspace, report, planned_runs(workspace, train), same_place=KIT.relative_place)
    show(report_summary(made, same_place=KIT.same_place))
    return following(made.next_command)


@app.command(name="explain", sort_key=10)
def explain_(
    image_id: Annotated[str, Parameter(help="of a training or a test image, as in work/folds/manifest.csv")],
    *,
    run: Annotated[str | None, Parameter(help="the run to look into; the first in weight if not given")] = None,
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> None:
    """What every member and the blend say of one image, and where a network looks, as a picture in work/report."""
    from ensemble.analysis.explain import explain_image
    from ensemble.analysis.explain_picture import draw_explained
    from ensemble.analysis.explain_tables import explained_summary
    from models.predict.gradcam import first_maps

    workspace = Workspace(top.work)
    said = explain_image(workspace, image_id, run=run)
    labels = {name: said.labels_of(name) for name in ([run] if run else said.runs_by_weight())}
    maps, why = first_maps(workspace, labels, image_id, fold=said.fold or 0)
    show(explained_summary(said, why), f"wrote {draw_explained(workspace, said, maps, why)}")


@app.command(name="compare", sort_key=10)
def compare_(
    run_a: Annotated[str, Parameter(help="a run or an added member")],
    run_b: Annotated[str, Parameter(help="what it is held against")],
    *,
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> None:
    """Which of two runs is better out of fold, on the same images: paired differences, and the images that changed."""
    from ensemble.analysis.compare import compare_runs
    from ensemble.analysis.compare_tables import comparison_summary

    show(comparison_summary(compare_runs(Workspace(top.work), run_a, run_b)))


@app.command(name="settings", sort_key=11)
def settings_(*, every: Annotated[Every, FLAT] = Every(), config: Config = KIT_TOML) -> None:
    """Print all settings as commented TOML, and where each value comes from."""
    values = [(one.name, getattr(every, one.name)) for one in fields(Every)]
    origin = {one.name: KIT.origin(one.name) for _, settings in values for one in fields(settings)}
    elsewhere = dict.fromkeys(FROM_FAMILY, "the backbone's family")
    remarks = family_remarks(every.train, top=every.top)
    sys.stdout.write(to_toml(values, origin=origin, runs=KIT.toml.runs, elsewhere=elsewhere, remarks=remarks))


def family_remarks(train: TrainSettings, *, top: Top) -> list[str]:
    """A line for each run that the settings ask for: its family, and what that gives to settings that lack it."""
    from models.jobs.plan import family_remark

    try:
        planned = plans(train)
    except UserError as err:  # settings may be half written: whoever trains with them is refused
        return [err.message]
    return [family_remark(Workspace(top.work), plan) for plan in planned]


@app.command(name="demo", sort_key=12)
def demo_(*, top: TopFlags = Top(), config: Config = KIT_TOML) -> str:
    """The whole way on data that it makes, on a CPU, without a download; then the score on labels kept aside."""
    from folds.demo import make_demo

    data, kept_aside = make_demo(top.work / "demo", seed=top.seed)
    show(f"a small competition of handwritten digits lies in {data}")
    work = top.work / "demo" / "work"
    for line in (
        ("all", data, "--config", os.path.relpath(EXAMPLES / "demo.toml"), "--work", work, "--seed", top.seed),
        ("score", work / "submissions" / "blend.csv", "--labels", kept_aside, "--work", work),
    ):
        words = [str(word) for word in line]
        show(f"> python run.py {' '.join(words)}")
        app(words, exit_on_error=False, print_error=False)
    return "python run.py all DATA"


def planned_runs(workspace: Workspace, train: TrainSettings) -> list[str]:
    """The runs that the user asks for by name; where nobody asked, those that are there."""
    from models.runs import PROBE, runs
    from submissions.early import early_probes

    is_asked_for = KIT.toml.runs or KIT.origin("backbone") != "default"
    there = runs(workspace)
    if is_asked_for or not there:
        return [plan.name for plan in plans(train)]
    return sorted({*there, *(name.removesuffix(f"-{PROBE}") for name in early_probes(workspace))})


def plans(train: TrainSettings, *, names: Sequence[str] = ()) -> list[RunPlan]:
    from models.runs import plan_runs

    return plan_runs(train, KIT.run_settings(train), names=names)


@contextmanager
def alone(workspace: Workspace, what: str, *, is_to_write: bool = True) -> Iterator[None]:
    """Be the only process that writes this part of a work folder: whoever comes second says who is at it, and waits.

    is_to_write  False where there is nothing to work on: the error to come needs no lock, and leaves no folder behind
    """
    from folds.base.locks import POLL_SECONDS, claim
    from folds.base.workspace import sweep

    told = None
    while True:
        with claim(workspace.lock(what)) if is_to_write else nullcontext() as holder:
            if holder is None:
                sweep(workspace.root / what)
                yield
                return
        if holder != told:
            sys.stderr.write(f"{workspace.root} ({what}): held by {holder.sentence}; waiting for it\n")
            told = holder
        time.sleep(POLL_SECONDS)


@cache
def screen() -> Screen:
    from folds.base.terminal import Screen

    return Screen()


def track() -> Track:
    return screen().track


def show(*parts: RenderableType) -> None:
    """Print results."""
    screen().show(*parts)


def show_json(value: object) -> None:
    """Print a value for scripts, and nothing around it."""
    from json import dumps

    sys.stdout.write(dumps(value, indent=2) + "\n")


def following(command: str) -> str:
    """The next command to type, with what it needs to find the same work folder and settings again."""
    return f"python run.py {command}{KIT.same_place}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 2 a mistake that the user can mend, 130 Ctrl-C, 143 SIGTERM."""
    try:
        with stoppable(last_words):
            then = app(arguments, exit_on_error=False, print_error=False)
    except UserError as err:
        return refuse(err.message, err.hint)
    except CycloptsError as err:
        message, _, near = str(err).partition(" Did you mean ")
        message = message.rstrip(".").replace(". Must", ": it must").replace(". Choose", ": choose")
        return refuse(message, f"did you mean {near.split('?')[0]}?" if near else "`python run.py --help`")
    except Stopped as stop:
        return say_stopped(stop)
    if isinstance(then, str):
        show(f"next: {then}")
    return 0


def say_stopped(stop: Stopped) -> int:
    """Say that a signal stopped the command, what that costs, and how to go on; returns the exit code."""
    screen().close()
    refuse("; ".join([stop.sentence, *getattr(stop, "__notes__", ())]), GO_ON)
    return stop.exit_code


def last_words(stop: Stopped) -> str:
    """What is left to say where the process has to be ended by force; the cursor may still be hidden."""
    cursor = "\x1b[?25h\n" if sys.__stderr__ is not None and sys.__stderr__.isatty() else ""
    return f"{cursor}error: {stop.sentence}\nhint: {GO_ON}\n"


def refuse(message: str, hint: str | None) -> int:
    """Say what is wrong and what to type, with the flags that find the same work folder; returns 2."""
    import re

    hint = re.sub(r"python run\.py (?!settings)\w+", lambda found: f"{found[0]}{KIT.same_place}", hint or "")
    screen().complain(f"error: {visible(message)}", style="red")
    if hint:
        screen().complain(f"hint: {visible(hint)}")
    return 2


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may not fit the terminal
    code = main()
    if code > 128:  # torch's threads may be inside a call, and the end of the interpreter under them can abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
