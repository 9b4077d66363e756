"""Does the jobs of every run beside other processes: each fold once, and one that fails stops no other."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from folds.base.errors import CannotWriteError, UserError
from folds.base.locks import Holder, claim, pause
from folds.base.progress import Track
from folds.base.signals import TimeUpError
from folds.base.workspace import Workspace, sweep
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.runs import RunPlan, done_folds, done_refit
from models.settings import PredictSettings
from models.train.fold import CHECKPOINT, Job, do_job
from models.train.lr_find import peak_rate
from models.watch.events import Event, FoldDone, FoldFailed, FoldHeld

T = TypeVar("T")


@dataclass(frozen=True)
class RunJobs:
    """A run's jobs: folds in order, and its refit, or None where that was not asked for."""

    plan: RunPlan
    folds: tuple[Job, ...]
    refit: Job | None


@dataclass(frozen=True)
class Bench:
    """What every job needs: where it writes, folds and pixels, how it predicts, and who shows how far it is."""

    workspace: Workspace
    folds: Folds
    store: PixelStore
    predict: PredictSettings
    track: Track


def do_runs(bench: Bench, runs: Sequence[RunJobs]) -> Iterator[Event]:
    """Do what is not done and nobody else is at work on; then wait for what others are at work on.

    Yields FoldFailed for a job that fails, and goes on with the others. A run is ended (prior, refit) when its folds
    are. Raises CannotWriteError, TimeUpError and KeyboardInterrupt, which concern every job.
    """
    sweep(bench.workspace.features)
    left = {run.plan.name: list(run.folds) for run in runs}
    told: set[Holder] = set()
    while left:
        held: dict[Holder, Job] = {}
        before = sum(map(len, left.values()))
        for run in [run for run in runs if run.plan.name in left]:
            busy = yield from _attempt_all(bench, left[run.plan.name])
            left[run.plan.name] = [job for job, _ in busy]
            held |= {holder: job for job, holder in busy}
            if not busy:
                del left[run.plan.name]
                yield from end_run(bench, run, partial(_refit, bench))
        if left and sum(map(len, left.values())) == before:  # whatever is left is held by others
            for holder, job in held.items():
                if holder not in told:
                    yield FoldHeld(job.plan.name, job.fold, holder.sentence)
            told |= held.keys()
            pause(bench.track)


def _attempt_all(bench: Bench, jobs: Sequence[Job]) -> Generator[Event, None, list[tuple[Job, Holder]]]:
    """Attempt jobs in their order. Returns those that others are at work on, and who that is."""
    busy = []
    for job in jobs:
        holder = yield from attempt(bench, job)
        if holder:
            busy.append((job, holder))
    return busy


def end_run(bench: Bench, run: RunJobs, do_refit: Callable[[Job], Iterator[Event]]) -> Iterator[Event]:
    """Refit, once all folds are done, if that was asked for and no fold failed.

    A mistake in that is its own failure, and stops no other run.
    """
    try:
        if refit := _refit_due(bench, run):
            yield from do_refit(refit)
    except CannotWriteError:
        raise
    except UserError as err:
        yield FoldFailed(run.plan.name, run.plan.name, err.message, err.hint, trace=None)


def attempt(bench: Bench, job: Job) -> Generator[Event, None, Holder | None]:
    """Do a job, or tell that it is done. Returns who is at work on it, if somebody else is."""
    if done := done_record(bench, job):
        _tidy(bench, job)
        yield _done_before(job, done)
        return None
    with claim(bench.workspace.lock(f"{job.plan.name}.{'all' if job.fold is None else f'fold{job.fold}'}")) as holder:
        if holder:
            return holder
        if done := done_record(bench, job):  # meanwhile
            yield _done_before(job, done)
            return None
        try:
            yield from _do(bench, job)
        except (CannotWriteError, TimeUpError):
            raise
        except UserError as err:
            yield FoldFailed(job.plan.name, job.name, err.message, err.hint, trace=None)
        except Exception as err:
            yield FoldFailed(job.plan.name, job.name, f"{type(err).__name__}: {err}", None, traceback.format_exc())
    return None


def _do(bench: Bench, job: Job) -> Iterator[Event]:
    def find() -> float:
        """One rate for all folds: whoever comes first sweeps, and on the same fold."""
        first = job if job.fold is None else dataclasses.replace(job, fold=0)
        return peak_rate(bench.workspace, first, bench.folds, bench.store, track=bench.track)

    lr = (yield from when_free(bench, f"{job.plan.name}.lr-find", job, find)) if _is_to_find(job) else find()
    yield from do_job(bench.workspace, job, bench.folds, bench.store, bench.predict, lr=lr, track=bench.track)


def _is_to_find(job: Job) -> bool:
    return job.settings.lr == "find"


def _refit(bench: Bench, refit: Job) -> Iterator[Event]:
    while holder := (yield from attempt(bench, refit)):
        yield FoldHeld(refit.plan.name, None, holder.sentence)
        pause(bench.track)


def _refit_due(bench: Bench, run: RunJobs) -> Job | None:
    """The refit that was asked for, once all folds of its run are done."""
    done = done_folds(bench.workspace, run.plan.name)
    if run.refit is None or not done.keys() >= set(range(bench.folds.n_folds)):
        return None
    return run.refit


def when_free(bench: Bench, what: str, job: Job, do: Callable[[], T]) -> Generator[Event, None, T]:
    """Do something that one process does at a time, as soon as nobody else is at it."""
    told: Holder | None = None
    while True:
        with claim(bench.workspace.lock(what)) as holder:
            if holder is None:
                return do()
        if holder != told:
            yield FoldHeld(job.plan.name, job.fold, holder.sentence)
            told = holder
        pause(bench.track)


def done_record(bench: Bench, job: Job) -> dict[str, Any] | None:
    name = job.plan.name
    return done_refit(bench.workspace, name) if job.fold is None else done_folds(bench.workspace, name).get(job.fold)


def _tidy(bench: Bench, job: Job) -> None:
    """Remove what a process left that was killed right after the fold was done."""
    with suppress(OSError):  # a read-only folder is read all the same
        (job.folder(bench.workspace) / CHECKPOINT).unlink(missing_ok=True)


def _done_before(job: Job, done: dict[str, Any]) -> FoldDone:
    views = tuple(done["views"])
    return FoldDone(job.plan.name, job.fold, done["oof_top3_error"], done["seconds"], trained=False, views=views)
