"""What is done for one job, by whichever process does it: is it done already, find its rate, train, predict, write."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import cache, partial
from pathlib import Path

import timm
import torch

from folds.base.errors import CannotWriteError, UserError
from folds.base.locks import Holder, claim, pause
from folds.base.progress import Track
from folds.base.workspace import Workspace, digest
from folds.engine import EngineSettings
from folds.pixels.cache import cached
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import find_weights
from models.input.sizes import train_size
from models.jobs.local import Executor, MachineError, Task
from models.runs import done_record
from models.settings import PredictSettings
from models.train.fold import CHECKPOINT, Job, do_job
from models.train.lr_find import peak_rate
from models.watch.events import FoldDone, FoldHeld, Happened, JobEvent


def do_jobs(
    executor: Executor, workspace: Workspace, jobs: Sequence[Job], predict: PredictSettings, engine: EngineSettings
) -> Iterator[Happened]:
    """Have the executor do the jobs that are not done, and yield what happens; the done ones come first."""
    workspace = Workspace(workspace.root.absolute())
    tasks = []
    for job in jobs:
        if done := _done_before(workspace, job):
            yield JobEvent(job.key, done)
            continue
        do = partial(_do_job, workspace, job, predict, engine.cache)
        cost = job_cost(job) if engine.is_ray else 0.0
        tasks.append(Task(job.key, job.key.name, do, workspace.lock(str(job.key)), job.settings.device, cost))
    yield from executor.run(tasks)


def job_cost(job: Job) -> float:
    """How long a job takes, in no unit: epochs x parameters x pixels, as if all layers were convolutions."""
    return job.settings.epochs * _parameters(job.backbone.tag) * train_size(job.settings, job.backbone) ** 2


@cache
def _parameters(tag: str) -> int:
    with torch.device("meta"):  # shapes alone
        network = timm.create_model(tag, pretrained=False)
    return sum(parameter.numel() for parameter in network.parameters())


def _do_job(
    workspace: Workspace, job: Job, predict: PredictSettings, cache_folder: Path | None, *, track: Track
) -> Iterator[JobEvent]:
    if done := _done_before(workspace, job):  # by another process, since the plan was made
        yield JobEvent(job.key, done)
        return
    folds, store, job = _open_inputs(workspace, job, cache_folder, track)
    lr = yield from _find_rate(workspace, job, folds, store, track)
    for event in do_job(workspace, job, folds, store, predict, lr=lr, track=track):
        yield JobEvent(job.key, event)


def _find_rate(
    workspace: Workspace, job: Job, folds: Folds, store: PixelStore, track: Track
) -> Generator[JobEvent, None, float]:
    """The run's peak rate: one process sweeps for all folds, and always on the same one; the others wait for it."""
    first = job if job.fold is None else dataclasses.replace(job, fold=0)
    announced: Holder | None = None
    while True:
        with (
            claim(workspace.lock(f"{job.plan.name}.lr-find")) if job.settings.lr == "find" else nullcontext() as holder
        ):
            if holder is None:
                return peak_rate(workspace, first, folds, store, track=track)
        if holder != announced:
            yield JobEvent(job.key, FoldHeld(job.key.name, holder.sentence))
            announced = holder
        pause(track)


def _open_inputs(
    workspace: Workspace, job: Job, cache_folder: Path | None, track: Track
) -> tuple[Folds, PixelStore, Job]:
    """Folds, pixels, and the job with its weights file on this machine. Raises MachineError."""
    try:
        folds = load_folds(workspace)
        if folds.digest != job.settings_json["folds_digest"]:
            raise UserError(f"{workspace.folds} has other folds here than where the command was typed")
        store = open_store(cached(workspace, cache_folder, track=track))
        return folds, store, dataclasses.replace(job, weights=_weights_here(job))
    except CannotWriteError:
        raise
    except UserError as err:
        raise MachineError(err.message, hint=err.hint) from err


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


def _done_before(workspace: Workspace, job: Job) -> FoldDone | None:
    """The event of a job that is done; a checkpoint of a process that was killed right after that is removed."""
    done = done_record(workspace, job.key)
    if not done:
        return None
    with suppress(OSError):  # a read-only folder is read all the same
        (job.key.folder(workspace) / CHECKPOINT).unlink(missing_ok=True)
    return FoldDone(done["oof_top3_error"], done["seconds"], trained=False, views=tuple(done["views"]))
