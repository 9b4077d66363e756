"""The board of all jobs: what each is doing, fed by events and progress, with nothing drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from folds.base.pace import Pace
from folds.base.progress import T, Track
from folds.base.workspace import Workspace
from models.runs import done_folds, done_refit
from models.watch.events import (
    EpochRow,
    FoldDone,
    FoldFailed,
    FoldHeld,
    FoldMoved,
    FoldResumed,
    FoldStarted,
    JobEvent,
    JobProgress,
    fold_name,
)

State = Literal["waiting", "running", "done", "failed", "held"]
JobKey = tuple[str, int | None]  # run and fold; None: the refit on all images


@dataclass(frozen=True)
class JobState:
    """One job as the board knows it.

    epoch     epochs that are done, of `epochs`          row      of the last one
    error     OOF top-3 error, once done                 seconds  that it took in all, once it was trained here
    progress  of what it does right now                  timed    seconds of the epochs that were seen, one each
    """

    run: str
    fold: int | None
    epochs: int
    state: State = "waiting"
    place: str = ""
    epoch: int = 0
    row: EpochRow | None = None
    error: float | None = None
    seconds: float | None = None
    progress: JobProgress | None = None
    timed: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return fold_name(self.run, self.fold)

    @property
    def share(self) -> float:
        """How much of the job is done, by its epochs, in [0, 1]."""
        if self.state == "done":
            return 1.0
        inside = self.progress.done / self.progress.total if self._is_in_epoch and self.progress else 0.0
        return min((self.epoch + inside) / self.epochs, 1.0)

    @property
    def expected_seconds(self) -> float | None:
        """What the whole job takes, by what was seen of it; None before anything was."""
        if self.seconds is not None:
            return self.seconds
        if self.timed:
            return sum(self.timed) / len(self.timed) * self.epochs
        if self._is_in_epoch and self.progress and self.progress.per_second:
            return self.progress.total / self.progress.per_second * self.epochs
        return None

    @property
    def _is_in_epoch(self) -> bool:
        return self.progress is not None and self.progress.total > 0 and self.progress.what.startswith("epoch")


@dataclass
class Board:
    """All jobs in their order. Whoever draws it may be another thread: a job's state is replaced whole.

    current  the job that was heard of last, while it runs
    """

    states: dict[JobKey, JobState] = field(default_factory=dict)
    current: JobKey | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def jobs(self) -> list[JobState]:
        return list(self.states.values())

    @property
    def running(self) -> list[JobState]:
        return [job for job in self.jobs if job.state == "running"]

    def take(self, happened: JobEvent | JobProgress) -> None:
        """Learn what happened to a job; one that was not planned joins at the end."""
        key = self._key(happened)
        if key is None:
            return
        with self._lock:
            before = self.states.get(key) or JobState(*key, epochs=1)
            now = _progressed(before, happened) if isinstance(happened, JobProgress) else _changed(before, happened)
            self.states[key] = replace(now, place=happened.place or now.place)
        if now.state == "running":
            self.current = key
        elif self.current == key:
            self.current = None

    def _key(self, happened: JobEvent | JobProgress) -> JobKey | None:
        """The job that something happened to; None for what concerns a whole run: its prior, a failure at its end."""
        event = happened.event if isinstance(happened, JobEvent) else None
        if isinstance(event, FoldFailed):
            return next((key for key, job in self.states.items() if job.name == event.name), None)
        return happened.run, happened.fold

    def hold(self, others: Iterable[JobKey]) -> None:
        """Which jobs other processes are at work on: of those that wait here, these are held, and no others."""
        held = set(others)
        with self._lock:
            for key, job in self.states.items():
                if job.state in ("waiting", "held"):
                    self.states[key] = replace(job, state="held" if key in held else "waiting")

    def seconds_left(self) -> float | None:
        """What all jobs that are not done still take, as many at a time as run now; None before anything is known.

        A job that others hold takes none of our time. Of a run that nothing is known of yet, a job takes the mean.
        """
        known: dict[str, list[float]] = {}
        for job in self.jobs:
            if job.expected_seconds is not None:
                known.setdefault(job.run, []).append(job.expected_seconds)
        if not known:
            return None
        means = {run: sum(seconds) / len(seconds) for run, seconds in known.items()}
        mean = sum(means.values()) / len(means)
        left = [
            (job.expected_seconds or means.get(job.run, mean)) * (1 - job.share)
            for job in self.jobs
            if job.state in ("waiting", "running")
        ]
        return max(sum(left) / max(len(self.running), 1), max(left)) if left else 0.0


def plan_board(
    workspace: Workspace, epochs: Mapping[str, int], *, n_folds: int, only_folds: Sequence[int | None] = ()
) -> Board:
    """The board of the folds of these runs (all and no refit if `only_folds` is empty), what is done marked as done.

    epochs  that a fold trains, by run
    """
    wanted = sorted({fold for fold in only_folds if fold is not None}) if only_folds else range(n_folds)
    jobs: list[JobState] = []
    for name, n_epochs in epochs.items():
        done: Mapping[int | None, Mapping[str, object]] = done_folds(workspace, name)  # type: ignore[assignment]
        for fold in [*wanted, *([None] if None in only_folds else [])]:
            record = done_refit(workspace, name) if fold is None else done.get(fold)
            job = JobState(name, fold, n_epochs)
            jobs.append(replace(job, state="done", error=record["oof_top3_error"]) if record else job)  # type: ignore[arg-type]
    return Board({(job.run, job.fold): job for job in jobs})


def board_track(board: Board, elsewhere: Track) -> Track:
    """A tracker for jobs that run one after another in this process: progress goes to the job that runs now.

    elsewhere  tracks what belongs to no job: sweeps, features, waiting
    """

    def track(items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        if board.current is None:
            yield from elsewhere(items, what=what, total=total, unit=unit, each=each)
            return
        (run, fold), pace = board.current, Pace(what, total, unit)
        for item in items:
            board.take(JobProgress(run, fold, what, pace.done, total, unit, pace.per_second))
            yield item
            pace.advance(each)

    return track


def _progressed(job: JobState, progress: JobProgress) -> JobState:
    return job if job.state in ("done", "failed") else replace(job, state="running", progress=progress)


def _next_epoch(job: JobState, row: EpochRow) -> JobProgress | None:
    """The next epoch with nothing done, at the speed of the last one; None behind the last epoch of all."""
    if job.progress is None or row.epoch >= job.epochs:
        return None
    what = f"epoch {row.epoch + 1}/{job.epochs}"
    return replace(job.progress, what=what, done=0, per_second=row.images_per_second)


def _changed(job: JobState, happened: JobEvent) -> JobState:
    event = happened.event
    if isinstance(event, FoldStarted):
        return replace(job, state="running", progress=None)
    if isinstance(event, FoldResumed):
        return replace(job, state="running", epoch=event.epoch, epochs=event.epochs)
    if isinstance(event, EpochRow):
        timed = (*job.timed, event.seconds)
        return replace(
            job, state="running", epoch=event.epoch, row=event, timed=timed, progress=_next_epoch(job, event)
        )
    if isinstance(event, FoldMoved):
        return replace(job, state="waiting", progress=None)
    if isinstance(event, FoldHeld):
        return replace(job, state="held")
    if isinstance(event, FoldFailed):
        return replace(job, state="failed", progress=None)
    if isinstance(event, FoldDone):
        seconds = event.seconds if event.trained else None
        return replace(job, state="done", error=event.top3_error, seconds=seconds, progress=None)
    return job
