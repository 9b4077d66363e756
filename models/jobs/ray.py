"""Does the jobs of every run on Ray, each under the lock and by the code that one process alone has."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path

from folds.base.errors import UserError
from folds.base.locks import Holder
from folds.base.progress import Track
from folds.base.workspace import Workspace, digest, sweep
from folds.engine import EngineSettings
from folds.pixels.cache import cached
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.backbones import find_weights
from models.jobs.costs import Costs
from models.jobs.crew import Crew, Over
from models.jobs.hand import Errand
from models.jobs.local import Bench, RunJobs, attempt, done_record, end_run
from models.jobs.ray_cluster import on_ray
from models.settings import PredictSettings
from models.train.fold import Job
from models.watch.events import EpochRow, Event, FoldFailed, JobEvent, JobProgress, by_job, fold_name


def do_runs_on_ray(bench: Bench, runs: Sequence[RunJobs], engine: EngineSettings) -> Iterator[JobEvent | JobProgress]:
    """Do what is not done, the longest jobs first; what others are at work on is waited for.

    Yields FoldFailed for a job that fails, or whose process died too often, and goes on with the others. A run is ended
    (prior, refit) when its folds are. Raises what `do_runs` raises, with the notes of all jobs.
    """
    sweep(bench.workspace.features)
    costs = Costs({(job.plan.name, job.fold): job for run in runs for job in [*run.folds, run.refit] if job})
    costs.read_logs(bench.workspace)
    with on_ray(engine) as ray:
        crew = Crew(ray, engine, cost=lambda errand: costs.left(errand.run, errand.fold), track=bench.track)
        ways = [_Way(bench, crew, run, engine.cache) for run in runs]
        yield from by_job(event for way in ways for event in way.begin())
        for said in crew.events():
            if isinstance(said, Over):
                yield from by_job(event for way in ways for event in way.hear(said))
                continue
            if isinstance(said, JobEvent) and isinstance(said.event, EpochRow):
                costs.saw(said.run, said.fold, said.event)
            yield said


class _Way:
    """A run's way: its folds are sent, then its prior is chosen, then its refit is sent."""

    def __init__(self, bench: Bench, crew: Crew, run: RunJobs, cache: Path | None) -> None:
        self.bench, self.crew, self.run, self.cache = bench, crew, run, cache
        self.left: set[int | None] = set()

    def begin(self) -> Iterator[Event]:
        for job in self.run.folds:
            yield from self._send(job)
        if not self.left:
            yield from end_run(self.bench, self.run, self._send)

    def hear(self, over: Over) -> Iterator[Event]:
        """What follows from the end of an errand, if it is one of this run."""
        if over.errand.run != self.run.plan.name:
            return
        if over.error is not None:
            yield _failed(over.errand, over.error)
        self.left.discard(over.errand.fold)
        if not self.left and over.errand.fold is not None:
            yield from end_run(self.bench, self.run, self._send)

    def _send(self, job: Job) -> Iterator[Event]:
        if done_record(self.bench, job):
            yield from attempt(self.bench, job)  # which says so
            return
        workspace = Workspace(self.bench.workspace.root.absolute())
        do = partial(_do_there, workspace, job, self.bench.predict, self.cache)
        self.crew.send(Errand(job.plan.name, job.fold, job.settings.device, do))
        self.left.add(job.fold)


def _failed(errand: Errand, error: BaseException) -> FoldFailed:
    name = fold_name(errand.run, errand.fold)
    if isinstance(error, UserError):
        return FoldFailed(errand.run, name, error.message, error.hint, trace=None)
    return FoldFailed(errand.run, name, f"its process died again and again: {error}", None, trace=None)


def _do_there(
    workspace: Workspace, job: Job, predict: PredictSettings, cache: Path | None, track: Track
) -> Generator[Event, None, Holder | None]:
    """Do a job in a process on Ray; what is raised is the fault of the machine, and another may do better."""
    folds = load_folds(workspace)
    if folds.digest != job.settings_json["folds_digest"]:
        raise UserError(f"{workspace.folds} has other folds here than where the command was typed")
    store = open_store(cached(workspace, cache, track=track))
    bench = Bench(workspace, folds, store, predict, track)
    return (yield from attempt(bench, dataclasses.replace(job, weights=_weights_here(job))))


def _weights_here(job: Job) -> Path | None:
    """The file that the job starts from, on this machine; refuses another one than that of the driver."""
    if job.weights is None:
        return None
    path = job.weights if job.weights.is_file() or job.plan.weights else find_weights(job.backbone)
    if not path.is_file() or digest(path.read_bytes()) != job.weights_digest:
        raise UserError(
            f"{path} is absent here, or not the file that it is where the command was typed",
            hint="put it on storage that all machines see, and name it with `--weights FILE`",
        )
    return path
