"""What `prepare` (for these runs), `train`, `probe`, `lr-find` and `predict` do: what is to be shown."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from folds import commands
from folds.base.errors import Complaint, Next, UserError, first_few
from folds.base.locks import alone
from folds.base.progress import Track, silently
from folds.base.signals import TimeUpError, until
from folds.base.terminal import Screen
from folds.base.workspace import Workspace
from folds.engine import EngineSettings
from folds.settings import PrepareSettings
from models.input.sizes import needed_store_size
from models.jobs.plan import find_rates, refuse_runs, train_runs
from models.predict.again import predict_run
from models.probe.probe import plans_to_probe, probe_first, probe_runs
from models.runs import RunPlan, as_probe, done_folds, is_probe, runs
from models.settings import PredictSettings, TrackSettings
from models.watch.curves import tracking
from models.watch.events import FoldFailed, JobEvent, JobProgress
from models.watch.live_table import LiveTable, showing_jobs
from models.watch.tables import job_lines, predicted_lines, probe_lines


@dataclass
class Training:
    """The training of some runs. Iterate over it for what is to be shown; then `failed` and `is_cut` say how it ended.

    fold    folds to train, as text, and `all` for the refit; all folds and no refit if empty
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
    failed: list[FoldFailed] = field(default_factory=list)
    is_cut: bool = False

    def __iter__(self) -> Iterator[str | Complaint]:
        only_folds = [None if one == "all" else int(one) for one in self.fold]
        lines: list[str] = []  # of the trackers
        on_ray = self.engine.is_ray
        with (
            tracking(self.workspace, self.follow, say=lines.append) as trackers,
            showing_jobs(
                self.screen, self.workspace, self.plans, only_folds=only_folds, seed=self.seed, looks=not on_ray
            ) as table,
        ):
            track = _tracked(table.track, self.engine, self.deadline)
            events = train_runs(
                self.workspace,
                self.plans,
                self.predict,
                seed=self.seed,
                only_folds=only_folds,
                engine=self.engine,
                track=track,
            )
            try:
                with closing(events) as happened:
                    for one in happened:
                        table.take(one)
                        yield from job_lines(one)
                        if isinstance(one, JobEvent):
                            trackers.take(one)
                        yield from (lines.pop(0) for _ in list(lines))
                        if isinstance(one, JobEvent) and isinstance(one.event, FoldFailed):
                            self.failed.append(one.event)
                            yield Complaint(one.event.why, one.event.hint, one.event.trace)
            except TimeUpError as stop:
                self.is_cut = True
                yield "; ".join(["the time is up", *getattr(stop, "__notes__", ())])
        yield from lines

    @property
    def failures(self) -> str:
        return f"{first_few([one.name for one in self.failed])} failed"

    @property
    def way_out(self) -> str:
        """How to blend without the runs that failed."""
        failed = {one.run for one in self.failed}
        others = [plan.name for plan in self.plans if plan.name not in failed]
        if others:
            return f"`python run.py blend --members {','.join(others)}` blends the others"
        return "`python run.py blend --partial` takes the folds that are done"


@dataclass
class FirstProbes:
    """The probes that `all` makes before it trains, of what starts from weights. Iterated as `Training` is."""

    workspace: Workspace
    plans: Sequence[RunPlan]
    predict: PredictSettings
    engine: EngineSettings
    seed: int
    screen: Screen
    deadline: float | None = None
    is_cut: bool = False

    def __post_init__(self) -> None:
        self.chosen = plans_to_probe(self.plans)

    @property
    def names(self) -> list[str]:
        return [as_probe(plan).name for plan in self.chosen]

    def __iter__(self) -> Iterator[str | Complaint]:
        if not self.chosen:
            return
        refuse_runs(self.workspace, self.plans, seed=self.seed)
        table, track = LiveTable(self.screen), _tracked(self.screen.track, self.engine, self.deadline)
        events = probe_first(self.workspace, self.chosen, self.predict, engine=self.engine, track=track)
        try:
            with alone(self.workspace, "probe", say=self.screen.complain), closing(events) as happening:
                for one in happening:
                    table.take(one)
                    yield from job_lines(one, probe_lines)
                    if isinstance(one, JobEvent) and isinstance(one.event, FoldFailed):
                        why = f"{one.event.why}; training goes on without this probe"
                        yield Complaint(why, one.event.hint, one.event.trace)
        except TimeUpError:
            self.is_cut = True
            yield "the time is up"


def prepare(
    workspace: Workspace, data: Path, settings: PrepareSettings, plans: Sequence[RunPlan], *, screen: Screen
) -> RenderableType:
    """Make the manifest and the pixel store, as large as the runs need it where its size is not set."""
    needed = settings.store_size or needed_store_size(plans)
    return commands.prepare(workspace, data, settings, needed_size=needed, screen=screen)


def train(training: Training) -> Iterator[str | Complaint | Next]:
    """Train what is not done, and predict. Raises UserError at the end where a fold failed."""
    yield from training
    if training.failed:
        raise UserError(training.failures, hint="`python run.py train` tries again what failed")
    yield Next("train" if training.is_cut else "blend")


def check_folds(fold: Sequence[str]) -> None:
    """Refuse what `--fold` cannot be."""
    wrong = [one for one in fold if not one.isdecimal() and one != "all"]
    if wrong:
        raise UserError(
            f"`--fold {','.join(fold)}` is no list of folds: `{wrong[0]}` is neither a number nor `all`",
            hint="`--fold 0,2`",
        )


def torn_probes(workspace: Workspace, *, n_folds: int) -> list[str]:
    """The probes that lack a fold, because they failed on the way."""
    return [
        name for name in runs(workspace) if is_probe(workspace, name) and len(done_folds(workspace, name)) < n_folds
    ]


def probe(
    workspace: Workspace, plans: Sequence[RunPlan], settings: PredictSettings, *, engine: EngineSettings, screen: Screen
) -> Iterator[str]:
    """Fit the heads of all folds to the features of frozen backbones."""
    with alone(workspace, "probe", say=screen.complain, is_to_write=workspace.folds_csv.is_file()):
        if engine.is_ray:
            from models.jobs.ray_runs import probe_on_ray

            yield from _on_ray(probe_on_ray(workspace, plans, settings, engine=engine), probe_lines, screen)
            return
        for event in probe_runs(workspace, plans, settings, engine=engine, track=screen.track):
            yield from probe_lines(event)


def lr_find(
    workspace: Workspace, plans: Sequence[RunPlan], *, fold: int, seed: int, flags: Sequence[str], screen: Screen
) -> Iterator[str | Next]:
    """Sweep the learning rate of each run, and suggest one. flags: of a `train` with the same settings."""
    rates = []
    for found in find_rates(workspace, plans, fold=fold, seed=seed, track=screen.track):
        marks = f"loss falls fastest at {found.sweep.steepest:.1e}, is lowest at {found.sweep.lowest:.1e}"
        rates.append(f"{found.sweep.suggested:.1e}")
        yield f"{found.run}: --lr {rates[-1]} ({marks}); see {found.picture}"
    yield Next(" ".join(["train", *flags, f"--lr {rates[0] if len(rates) == 1 else 'find'}"]))


def predict(
    workspace: Workspace,
    names: Sequence[str],
    settings: PredictSettings,
    *,
    device: str,
    engine: EngineSettings,
    screen: Screen,
) -> Iterator[str]:
    """Predict again from the checkpoints of these runs, of all but probes where none is named."""
    names = names or [name for name in runs(workspace) if not is_probe(workspace, name)]
    if not names:
        raise UserError(f"{workspace.models} holds no run", hint="`python run.py train`")
    if engine.is_ray:
        from models.jobs.ray_runs import predict_on_ray

        happening = predict_on_ray(workspace, tuple(names), settings, device_name=device, engine=engine)
        yield from _on_ray(happening, partial(predicted_lines, views=settings.views), screen)
        return
    for name in names:
        is_to_write = (workspace.models / name).is_dir()
        with alone(workspace, f"{name}.files", say=screen.complain, is_to_write=is_to_write):
            for done in predict_run(workspace, name, settings, device_name=device, engine=engine, track=screen.track):
                yield from predicted_lines(done, settings.views)


def _on_ray(
    happening: Generator[JobEvent | JobProgress, None, None], lines_of: Callable[[Any], list[str]], screen: Screen
) -> Iterator[str]:
    table = LiveTable(screen)
    with closing(happening):
        for one in happening:
            table.take(one)
            yield from job_lines(one, lines_of)


def _tracked(track: Track, engine: EngineSettings, deadline: float | None) -> Track:
    """The tracker of jobs: those on Ray report their progress themselves."""
    tracked: Track = silently if engine.is_ray else track
    return tracked if deadline is None else until(deadline, tracked)
