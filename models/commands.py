"""What `prepare` (for these runs), `train`, `probe`, `lr-find` and `predict` do: what is to be shown."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from folds import commands
from folds.base.errors import Complaint, Next, UserError, first_few
from folds.base.locks import alone
from folds.base.progress import Track, silently
from folds.base.signals import TimeUpError, until
from folds.base.terminal import Screen
from folds.base.workspace import Workspace
from folds.settings import PrepareSettings
from folds.split.assign import SPLIT_HINT, changed_since, load_folds
from models.input.sizes import larger_views, needed_store_size, predict_size, train_size
from models.input.views import check_views
from models.jobs.local import Task, anywhere
from models.jobs.plan import find_rates, refuse_runs, train_runs
from models.jobs.ray import run_tasks
from models.predict.again import predict_run, views_to_predict
from models.probe.knn import knn_tasks, refuse_lookups
from models.probe.probe import plans_to_probe, probe_tasks, refuse_probes
from models.runs import PROBE, RunPlan, as_probe, begun_folds, done_folds, kind_of, knn_name, runs, sibling
from models.settings import EngineSettings, PredictSettings, TrackSettings
from models.watch.curves import tracking
from models.watch.events import FoldFailed, Happened, JobEvent, JobKey
from models.watch.live_table import LiveTable, showing_jobs
from models.watch.tables import job_lines


@dataclass
class Training:
    """The training of some runs. Iterate over it for what is to be shown; then `failed` and `is_cut` say how it ended.

    fold    folds to train, as text, and `all` for the refit; all folds and no refit if empty
    failed  what failed by name, and its run
    is_cut  the time was up before all was done
    """

    workspace: Workspace
    plans: Sequence[RunPlan]
    predict: PredictSettings
    follow: TrackSettings
    engine: EngineSettings
    seed: int
    screen: Screen
    fold: tuple[str, ...] = ()
    deadline: float | None = None
    failed: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False

    def __iter__(self) -> Iterator[str | Complaint]:
        only_folds = [None if one == "all" else int(one) for one in self.fold]
        lines: list[str] = []  # of the trackers
        where, on_ray = (self.workspace, self.plans), self.engine.is_ray
        with (
            tracking(self.workspace, self.follow, say=lines.append) as trackers,
            showing_jobs(self.screen, *where, only_folds=only_folds, seed=self.seed, looks=not on_ray) as table,
        ):
            track, engine = _tracked(table.track, self.engine, self.deadline), self.engine
            events = train_runs(*where, self.predict, seed=self.seed, only_folds=only_folds, engine=engine, track=track)
            try:
                for one, failure in _shown(events, table):
                    yield from job_lines(one)
                    if isinstance(one, JobEvent):
                        trackers.take(one)
                    yield from (lines.pop(0) for _ in list(lines))
                    if failure:
                        self.failed[failure.name] = one.key.run
                        yield Complaint(failure.why, failure.hint, failure.trace, is_error=True)
            except TimeUpError as stop:
                self.is_cut = True
                yield "; ".join(["the time is up", *getattr(stop, "__notes__", ())])
        yield from lines
        if not self.is_cut:
            folds_seed = load_folds(self.workspace).seed
            plans = [sibling(plan, seed=self.seed, folds_seed=folds_seed) for plan in self.plans]
            yield from larger_views(
                [plan for plan in plans if plan.name not in self.failed.values()],
                self.predict.plain_views,
                size_of=predict_size,
                command=lambda plan: f"predict --run {plan.name}",
            )

    def probe_first(self, *, with_knn: bool) -> Generator[str | Complaint, None, list[str]]:
        """What `all` makes before it trains, of what starts from weights: probes, and perhaps their nearest neighbours.

        Returns the names of these runs.
        """
        plans = plans_to_probe(self.plans)
        if not plans:
            return []
        refuse_runs(self.workspace, self.plans, seed=self.seed)
        where = self.workspace, plans, self.predict, self.engine
        devices = {as_probe(plan).name: plan.settings.device for plan in plans}
        try:
            with alone(self.workspace, "probe", say=self.screen.complain):
                yield from self._do(probe_tasks(*where), what="probe")
                if with_knn:
                    n_folds = load_folds(self.workspace).n_folds
                    whole = {one: devices[one] for one in devices if len(done_folds(self.workspace, one)) == n_folds}
                    yield from self._do(knn_tasks(*where, whole), what="lookup")
        except TimeUpError:
            self.is_cut = True
            yield "the time is up"
        return [*devices, *(knn_name(one) for one in devices if with_knn)]

    def _do(self, tasks: Sequence[Task], *, what: str) -> Iterator[str | Complaint]:
        events = run_tasks(tasks, self.engine, _tracked(self.screen.track, self.engine, self.deadline))
        for one, failure in _shown(events, LiveTable(self.screen)):
            yield from job_lines(one)
            if failure:
                yield Complaint(f"{failure.why}; training goes on without this {what}", failure.hint, failure.trace)

    @property
    def failures(self) -> str:
        return f"{first_few(list(self.failed))} failed"

    @property
    def way_out(self) -> str:
        """How to blend without the runs that failed."""
        others = [plan.name for plan in self.plans if plan.name not in self.failed.values()]
        if others:
            return f"`python run.py blend --members {','.join(others)}` blends the others"
        return "`python run.py blend --partial` takes the folds that are done"


def prepare(
    workspace: Workspace,
    data: Path,
    settings: PrepareSettings,
    plans: Sequence[RunPlan],
    *,
    views: Sequence[str],
    screen: Screen,
) -> RenderableType:
    """Make the manifest and the pixel store, as large as the runs and their views need it where its size is not set."""
    check_views(views)
    needed = settings.store_size or needed_store_size(plans, views)
    return commands.prepare(workspace, data, settings, needed_size=needed, screen=screen)


def train(training: Training) -> Iterator[str | Complaint | Next]:
    """Train what is not done, and predict. Raises UserError at the end where a fold failed."""
    wrong = [one for one in training.fold if not one.isdecimal() and one != "all"]
    if wrong:
        raise UserError(
            f"`--fold {','.join(training.fold)}` is no list of folds: `{wrong[0]}` is neither a number nor `all`",
            hint="`--fold 0,2`",
        )
    if changed := changed_since(training.workspace, load_folds(training.workspace)):
        yield Complaint(f"{changed}; training goes on with the old folds", SPLIT_HINT)
    yield from training
    if training.failed:
        raise UserError(training.failures, hint="`python run.py train` tries again what failed")
    yield Next("train" if training.is_cut else "blend")


def probe(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    settings: PredictSettings,
    *,
    engine: EngineSettings,
    flags: Sequence[str],
    screen: Screen,
) -> Iterator[str]:
    """Fit the heads of all folds to the features of frozen backbones. flags: as typed, without backbones and views"""
    with alone(workspace, "probe", say=screen.complain, is_to_write=workspace.folds_csv.is_file()):
        if not engine.is_ray:  # whose machines may have what this one lacks
            refuse_probes(workspace, plans, settings)
        for plan in plans:
            if not plan.has_weights:
                screen.complain(
                    f"warning: {plan.name} is probed with random weights, whose features hardly tell classes apart; "
                    "`--weights FILE` gives it others"
                )
        yield from _lines(probe_tasks(workspace, plans, settings, engine), engine, screen)

    def again(plan: RunPlan) -> str:
        is_table = not plan.is_named and plan.name != plan.backbone.replace("/", "-")
        which = [] if is_table else [f"--backbone {plan.backbone}"]
        return " ".join(["probe", *which, *([f"--run {plan.name}"] if is_table or plan.is_named else []), *flags])

    yield from larger_views(plans, settings.plain_views, size_of=train_size, command=again)


def lr_find(
    workspace: Workspace, plans: Sequence[RunPlan], *, fold: int, seed: int, flags: Sequence[str], screen: Screen
) -> Iterator[str | Next]:
    """Sweep the learning rate of each run, and suggest one. flags: of a `train` with the same settings."""
    rates, begun = [], []
    for run, sweep, plot in find_rates(workspace, plans, fold=fold, seed=seed, track=screen.track):
        marks = f"the loss falls fastest at {sweep.steepest:.1e} and is lowest at {sweep.lowest:.1e}"
        if sweep.is_probed:  # where it falls fastest is chance
            marks = f"the head is fitted already: a tenth of {sweep.lowest:.1e}, where the loss is lowest"
        rates.append(f"{sweep.suggested:.1e}")
        yield f"{run}: --lr {rates[-1]} ({marks}); see {plot}"
        begun += [run] if begun_folds(workspace, run) else []
    if begun:
        what = f"{first_few(begun)} {'was' if len(begun) == 1 else 'were'} begun, and another rate needs another name"
        yield f"{what}: `--run NEW-NAME`, or a table `[run.NEW-NAME]` in kit.toml"
    rate = f"--lr {rates[0] if len(rates) == 1 else 'find'}"
    yield Next("train" if begun else " ".join(["train", *flags, rate]))


def predict(
    workspace: Workspace,
    names: Sequence[str],
    settings: PredictSettings,
    *,
    device: str,
    engine: EngineSettings,
    screen: Screen,
) -> Iterator[str]:
    """Predict again from the checkpoints of these runs, of all that have networks where none is named."""
    names = names or [
        name for name in runs(workspace) if kind_of(workspace, name) is None and done_folds(workspace, name)
    ]
    if not names:
        raise UserError(f"{workspace.models} holds no run", hint="`python run.py train`")
    for name in names:  # all of them, before the first is predicted
        views_to_predict(workspace, name, settings)
    tasks = []
    for name in names:
        seconds = sum(done["seconds"] for done in done_folds(workspace, name).values())
        lock = workspace.lock(f"{name}.files") if (workspace.models / name).is_dir() else None
        where, cache = anywhere(workspace, engine), engine.cache_root
        do = partial(predict_run, where, name, settings, device_name=device, cache=cache)
        tasks.append(Task(JobKey(name, None), name, do, lock, device, seconds))
    yield from _lines(tasks, engine, screen)


def knn(
    workspace: Workspace,
    names: Sequence[str],
    plans: Sequence[RunPlan],
    settings: PredictSettings,
    *,
    device: str,
    engine: EngineSettings,
    screen: Screen,
) -> Iterator[str]:
    """Look all images up by the features of these runs, of all probes where none is named."""
    names = names or [
        name for name in runs(workspace) if kind_of(workspace, name) == PROBE and done_folds(workspace, name)
    ]
    if not names:
        raise UserError(f"{workspace.models} holds no probe", hint="`python run.py probe`")
    with alone(workspace, "probe", say=screen.complain, is_to_write=workspace.folds_csv.is_file()):
        if not engine.is_ray:  # whose machines may have what this one lacks
            refuse_lookups(workspace, names, plans, settings)
        tasks = knn_tasks(workspace, plans, settings, engine, dict.fromkeys(names, device))
        yield from _lines(tasks, engine, screen)


def _lines(tasks: Sequence[Task], engine: EngineSettings, screen: Screen) -> Iterator[str]:
    """Do the tasks, and yield what is to be shown. Raises the first mistake."""
    events = run_tasks(tasks, engine, _tracked(screen.track, engine))
    for one, failure in _shown(events, LiveTable(screen)):
        if failure and failure.trace:
            raise RuntimeError(failure.trace)
        if failure:
            raise UserError(failure.why, hint=failure.hint)
        yield from job_lines(one)


def _shown(events: Generator[Happened, None, None], table: LiveTable) -> Iterator[tuple[Happened, FoldFailed | None]]:
    """What happens, once the table knows it; and the failure where it is one."""
    with closing(events):
        for one in events:
            table.take(one)
            event = one.event if isinstance(one, JobEvent) else None
            yield one, event if isinstance(event, FoldFailed) else None


def _tracked(track: Track, engine: EngineSettings, deadline: float | None = None) -> Track:
    """The tracker of jobs: those on Ray report their progress themselves."""
    tracked: Track = silently if engine.is_ray else track
    return tracked if deadline is None else until(deadline, tracked)
