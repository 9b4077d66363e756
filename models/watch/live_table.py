"""The table of all jobs on a terminal: how many are done, a bar for each that runs, and runs x folds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from folds.base.locks import holders
from folds.base.progress import T
from folds.base.terminal import LINE_SECONDS, Screen, duration
from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from models.jobs.plan import full_of, n_train_of, wanted_folds
from models.runs import RunPlan, done_record, sibling
from models.watch import events
from models.watch.events import Event, Happened, JobEvent, JobKey, JobProgress
from models.watch.tables import progress_line

LOOK_SECONDS = 3.0  # between two looks at what other processes hold
NAME, CELL = 12, 8  # columns of a run's name, at least, and of a fold, for a table with a cell for each fold
State = Literal["waiting", "running", "done", "failed", "held"]
STATES = ("done", "running", "waiting", "held", "failed")
STYLES = {"running": "bold", "failed": "red", "held": "yellow", "waiting": "dim"}


@dataclass
class JobState:
    """What is known of a job.

    epoch   epochs that are done, of `epochs`     inside   share of the epoch that runs, in [0, 1]
    error   OOF top-3 error, once done            seconds  that the whole job takes, as far as is known
    timed   seconds of each epoch that was seen   bar      of what it does right now
    """

    key: JobKey
    epochs: int
    state: State = "waiting"
    epoch: int = 0
    inside: float = 0.0
    error: float | None = None
    seconds: float | None = None
    timed: list[float] = field(default_factory=list)
    bar: tuple[TaskID, str] | None = None

    @property
    def share(self) -> float:
        """How much of the job is done, by its epochs, in [0, 1]."""
        return 1.0 if self.state == "done" else min((self.epoch + self.inside) / self.epochs, 1.0)

    @property
    def cell(self) -> str:
        if self.state == "done":
            return "done" if self.error is None else f"{self.error:.4f}"
        return {"waiting": ".", "running": f"{self.share:.0%}"}.get(self.state, self.state)

    def take(self, event: Event) -> None:
        """Learn what happened; some events change nothing here."""
        match event:
            case events.FoldStarted():
                self.state, self.inside = "running", 0.0
            case events.FoldResumed(epoch, epochs):
                self.state, self.epoch, self.epochs = "running", epoch, epochs
            case events.EpochRow():
                self.timed.append(event.seconds)
                self.state, self.epoch, self.inside = "running", event.epoch, 0.0
                self.seconds = sum(self.timed) / len(self.timed) * self.epochs
            case events.FoldMoved():
                self.state, self.inside = "waiting", 0.0
            case events.FoldHeld():
                self.state = "held"
            case events.FoldFailed():
                self.state = "failed"
            case events.FoldDone():
                self.state, self.error = "done", event.top3_error
                self.seconds = event.seconds if event.trained else None
            case events.ProbeFitted():
                self.state = "done"


class LiveTable:
    """Shows what happens to jobs: in a table on a terminal, elsewhere how far each is, in a line now and then.

    current  the job that an event was about last, while it runs
    """

    def __init__(self, screen: Screen, jobs: Iterable[JobState] = ()) -> None:
        self.jobs: dict[JobKey, JobState] = {job.key: job for job in jobs}
        self.current: JobKey | None = None
        self._screen = screen
        self._said: dict[JobKey, float] = {}
        self._lock = threading.RLock()  # another thread draws

    def take(self, happened: Happened) -> None:
        """Learn what happened to a job; one that was not planned joins at the end."""
        key = happened.key
        if isinstance(happened, JobEvent) and isinstance(happened.event, events.FoldFailed) and key not in self.jobs:
            return  # it failed before it began
        with self._lock:
            job = self.jobs.setdefault(key, JobState(key, epochs=1))
            if isinstance(happened, JobProgress):
                self._progress(job, happened)
            else:
                job.take(happened.event)
            if job.state != "running":
                self._remove_bar(job)
        self.current = key if job.state == "running" else None if self.current == key else self.current

    def hold(self, others: Iterable[JobKey]) -> None:
        """Mark the waiting jobs that other processes work on as held, and no others."""
        held = set(others)
        with self._lock:
            for key, job in self.jobs.items():
                if job.state in ("waiting", "held"):
                    job.state = "held" if key in held else "waiting"

    def track(self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        """A tracker for jobs in this process: it advances the job that runs, or the screen's own where none does."""
        if self.current is None or self._screen.bars is None:
            yield from self._screen.track(items, what=what, total=total, unit=unit, each=each)
            return
        key, began, done = self.current, time.monotonic(), 0
        for item in items:
            speed = done / (time.monotonic() - began) if done else None
            self.take(JobProgress(key, what, done, total, unit, speed))
            yield item
            done = min(done + each, total)

    def seconds_left(self) -> float | None:
        """What all jobs still take, as many at a time as run now; None before anything is known.

        Jobs that others hold are left out. Of a run that nothing is known of yet, a job takes the mean.
        """
        known: dict[str, list[float]] = {}
        for job in self.jobs.values():
            if job.seconds is not None:
                known.setdefault(job.key.run, []).append(job.seconds)
        if not known:
            return None
        means = {run: sum(seconds) / len(seconds) for run, seconds in known.items()}
        mean = sum(means.values()) / len(means)
        todo = [job for job in self.jobs.values() if job.state in ("waiting", "running")]
        left = [(job.seconds or means.get(job.key.run, mean)) * (1 - job.share) for job in todo]
        at_once = max(sum(job.state == "running" for job in todo), 1)
        return max(sum(left) / at_once, max(left)) if left else 0.0

    def draw(self, console: Console) -> RenderableType:
        """The counts with the time left, then runs x folds, in half of the terminal."""
        with self._lock:
            states = [job.state for job in self.jobs.values()]
            counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
            counts = counts.replace(" held", " held by another process")
            seconds = self.seconds_left()
            left = f"; about {duration(seconds)} left" if seconds else ""
            table = self._table(console.width, console.height // 2 - states.count("running") - 1)
            return Group(Text(f"{len(states)} jobs: {counts}{left}", style="bold"), *([table] if table else []))

    def _table(self, columns: int, lines: int) -> Table | None:
        """Runs x folds; a last line for the runs that do not fit. None where there is no room."""
        runs: dict[str, dict[int | None, JobState]] = {}
        for (run, fold), job in self.jobs.items():
            runs.setdefault(run, {})[fold] = job
        folds = list(dict.fromkeys(fold for _, fold in self.jobs))
        if lines < min(len(runs) + 1, 3) or columns < NAME + CELL * len(folds):
            return None
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        for fold in folds:
            table.add_column("all" if fold is None else f"fold {fold}", justify="right", no_wrap=True)
        shown = _chosen(runs, lines - 1)
        for name in shown:
            jobs = [runs[name].get(fold) for fold in folds]
            table.add_row(Text(name), *(Text(job.cell, STYLES.get(job.state, "")) if job else "" for job in jobs))
        if more := len(runs) - len(shown):
            table.add_row(f"and {more} more run{'s' * (more > 1)}")
        return table

    def _progress(self, job: JobState, now: JobProgress) -> None:
        if job.state in ("done", "failed"):
            return
        job.state = "running"
        if now.what.startswith("epoch") and now.total:
            job.inside = now.done / now.total
            if not job.timed and now.per_second:
                job.seconds = now.total / now.per_second * job.epochs
        bars = self._screen.bars
        if bars is None:
            if time.monotonic() - self._said.setdefault(job.key, time.monotonic()) > LINE_SECONDS:
                self._said[job.key] = time.monotonic()
                self._screen.complain(progress_line(now))
            return
        if job.bar is None or job.bar[1] != now.what:
            self._remove_bar(job)
            what = f"{job.key.name}{f' on {now.place}' if now.place else ''}  {now.what}"
            job.bar = bars.add_task(what, total=now.total, unit=now.unit), now.what
        bars.update(job.bar[0], completed=now.done)

    def _remove_bar(self, job: JobState) -> None:
        if self._screen.bars is not None and job.bar is not None:
            self._screen.bars.remove_task(job.bar[0])
        job.bar = None


@contextmanager
def showing_jobs(
    screen: Screen,
    workspace: Workspace,
    plans: Sequence[RunPlan],
    *,
    only_folds: Sequence[int | None],
    seed: int,
    looks: bool = True,
) -> Iterator[LiveTable]:
    """Show the folds of these runs while inside, those of `only_folds` or all.

    looks  whether waiting jobs may be held by other processes; on Ray those that hold them are our own
    """
    with screen.living() as is_live:
        if not is_live:
            yield LiveTable(screen)
            return
        table = LiveTable(screen, _planned(workspace, plans, only_folds, seed=seed))
        looked = 0.0

        def draw(console: Console) -> RenderableType:
            nonlocal looked
            if looks and time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                locks = holders(workspace.lock("any").parent)
                held = {what for what, holder in locks if not holder.is_this_process}
                table.hold(key for key in list(table.jobs) if str(key) in held)
            return table.draw(console)

        screen.table = draw
        try:
            yield table
        finally:
            screen.table = None


def _planned(
    workspace: Workspace, plans: Sequence[RunPlan], only_folds: Sequence[int | None], *, seed: int
) -> Iterator[JobState]:
    """The jobs of these runs, those that are done marked as done."""
    folds = load_folds(workspace)
    for plan in (sibling(plan, seed=seed, folds_seed=folds.seed) for plan in plans):
        for key in (JobKey(plan.name, fold) for fold in wanted_folds(only_folds, folds.n_folds)):
            job = JobState(key, full_of(plan, n_train_of(folds)).epochs)
            if record := done_record(workspace, key):
                job.state, job.error = "done", record["oof_top3_error"]
            yield job


def _chosen(runs: Mapping[str, Mapping[int | None, JobState]], lines: int) -> list[str]:
    """The runs to show, in their order: those where something happens first, then those to come, then those done."""
    if len(runs) <= lines:
        return list(runs)

    def rank(name: str) -> int:
        states = {job.state for job in runs[name].values()}
        return 0 if "running" in states else 1 if states & {"failed", "held"} else 2 if "waiting" in states else 3

    kept = set(sorted(runs, key=rank)[: max(lines - 1, 0)])
    return [name for name in runs if name in kept]
