"""Does one job: a fold of a run, or its refit on all images, from the pixel store to `done.json`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from folds.base.progress import Track
from folds.base.signals import TimeUpError
from folds.base.workspace import Workspace, sweep, write_bytes, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.predict.results import (
    FILES,
    REFIT_FILES,
    test_rows,
    write_done,
    write_network,
    write_predictions,
    write_test,
)
from models.runs import CHOSEN
from models.settings import PredictSettings
from models.train.checkpoint import Checkpoints, RefusedError, Resumed
from models.train.job import Job, make_trainer
from models.train.log import log_line
from models.train.own_probe import against_probe
from models.train.trainer import FoldTrainer
from models.train.verdict import judge, remedy_for
from models.watch.events import CheckpointRefused, EpochRow, Event, FoldDone, FoldResumed, FoldStarted, Verdict

CHECKPOINT = "checkpoint.safetensors"  # in the fold's folder, until the fold is done


def do_job(
    workspace: Workspace,
    job: Job,
    folds: Folds,
    store: PixelStore,
    predict: PredictSettings,
    *,
    lr: float,
    track: Track,
) -> Iterator[Event]:
    """Train, predict, write, and yield what happens; `done.json` comes last."""
    began, folder = time.perf_counter(), job.folder(workspace)
    sweep(folder)
    trainer = make_trainer(workspace, job, folds, store, lr=lr, track=track)
    job = _with_precision(job, trainer)
    write_json(folder / "settings.json", job.settings_json)
    yield _started(job, trainer)
    checkpoints = Checkpoints(folder / CHECKPOINT, of=_identity(job, store, lr=lr), share=job.settings.checkpoint_share)
    before = yield from _resumed(job, trainer, checkpoints)
    rows = yield from _train(job, trainer, checkpoints, before, track=track)
    write_network(folder, trainer.trained)
    more: dict[str, Any] = {"lr": lr} | ({"weights_digest": job.weights_digest} if job.weights_digest else {})
    error = _predict(folder, job, trainer, folds, predict, track=track)
    if job.fold is not None:
        verdict = _judged(workspace, job, trainer, folds, rows)
        more["verdict"] = {
            key: value
            for key, value in dataclasses.asdict(verdict).items()
            if key not in ("run", "fold") and value is not None
        }
        yield verdict
    more["prior_restored"] = job.settings.restore_prior != "no"
    seconds = before.seconds + time.perf_counter() - began
    write_done(
        folder,
        job.settings_json,
        fold="all" if job.fold is None else job.fold,
        n_folds=folds.n_folds,
        views=predict.views,
        oof_top3_error=error,
        seconds=seconds,
        more=more,
        files=REFIT_FILES if job.fold is None else FILES,
    )
    checkpoints.remove()
    yield FoldDone(job.plan.name, job.fold, error, seconds, trained=True, views=predict.views)


def _resumed(job: Job, trainer: FoldTrainer, checkpoints: Checkpoints) -> Generator[Event, None, Resumed]:
    """Bring the trainer to where an earlier process was stopped; one line says so, or why that cannot be."""
    try:
        before = checkpoints.resume(trainer.stepper)
    except RefusedError as err:
        yield CheckpointRefused(checkpoints.path, str(err))
        return Resumed()
    if before is None:
        return Resumed()
    yield FoldResumed(job.plan.name, job.fold, len(before.rows), job.settings.epochs)
    return before


def _train(
    job: Job, trainer: FoldTrainer, checkpoints: Checkpoints, before: Resumed, *, track: Track
) -> Generator[Event, None, list[EpochRow]]:
    """Train the epochs that are left; log and checkpoint follow each. Returns the rows of all epochs."""
    rows, kept, began = list(before.rows), len(before.rows), time.perf_counter()
    try:
        for event in trainer.epochs(first=len(rows), track=track):
            if isinstance(event, EpochRow):
                rows.append(event)
                write_bytes(checkpoints.path.with_name("log.jsonl"), "".join(map(log_line, rows)).encode())
                seconds = before.seconds + time.perf_counter() - began
                if checkpoints.keep(trainer.stepper, rows, seconds=seconds, is_last=len(rows) == trainer.n_epochs):
                    kept = len(rows)
            yield event
    except (KeyboardInterrupt, TimeUpError) as stop:
        lost = round(time.perf_counter() - checkpoints.last)
        place = f"{job.name} goes on after epoch {kept} of {trainer.n_epochs}"
        stop.add_note(f"{place}; {lost // 60}:{lost % 60:02d} of work are lost")
        raise
    return rows


def _with_precision(job: Job, trainer: FoldTrainer) -> Job:
    """The job whose settings.json says what `--precision auto` was, so that whatever follows keeps it."""
    chosen = {CHOSEN: trainer.chosen_precision} if trainer.chosen_precision else {}
    return dataclasses.replace(job, settings_json={**job.settings_json, **chosen})


def _identity(job: Job, store: PixelStore, *, lr: float) -> dict[str, Any]:
    """What a checkpoint belongs to: a fold of a run with its settings, and pixels of one size and form."""
    fold = "all" if job.fold is None else job.fold
    settings = {key: value for key, value in job.settings_json.items() if key != CHOSEN}
    return {"settings": settings, "fold": fold, "lr": lr, "images": store.identity}


def _started(job: Job, trainer: FoldTrainer) -> FoldStarted:
    return FoldStarted(
        run=job.plan.name,
        tag=job.backbone.tag,
        fold=job.fold,
        n_train=len(trainer.data.train_rows),
        n_valid=len(trainer.data.valid_rows),
        image_size=trainer.sizes[-1],
        store_size=trainer.store.size,
        device=trainer.device.type,
        precision=str(trainer.precision).removeprefix("torch."),
        lr=trainer.stepper.peak_lr,
        is_probed=trainer.is_probed,
    )


def _judged(workspace: Workspace, job: Job, trainer: FoldTrainer, folds: Folds, rows: Sequence[EpochRow]) -> Verdict:
    """What is to be said of a fold whose `oof.npz` is written."""
    assert job.fold is not None, "a refit keeps nothing out that could be judged"
    train_loss, train_top3_error = trainer.score_training()
    against = against_probe(
        workspace,
        job.plan.name,
        folds,
        fold=job.fold,
        backbone=job.backbone.tag,
        weights_digest=job.weights_digest,
        image_size=trainer.sizes[-1],
    )
    network = trainer.trained
    head = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    remedy = remedy_for(
        trainer.settings,
        lr=trainer.stepper.peak_lr,
        has_batch_norm=any(isinstance(one, _BatchNorm) for one in network.modules()),
        takes_head=isinstance(head, nn.Linear),
    )
    return judge(
        job.plan.name,
        job.fold,
        rows,
        train_loss=train_loss,
        train_top3_error=train_top3_error,
        against_probe=against,
        remedy=remedy,
    )


def _predict(
    folder: Path, job: Job, trainer: FoldTrainer, folds: Folds, predict: PredictSettings, *, track: Track
) -> float | None:
    """Predict and write; returns the OOF top-3 error, None for a refit."""
    views, size, store = predict.views, predict.predict_batch, trainer.store
    test = trainer.predict(test_rows(store), views, batch_size=size, what="predict test", track=track)
    if job.fold is None:
        write_test(folder, folds, store, views=views, test=test)
        return None
    oof = trainer.predict(trainer.data.valid_rows, views, batch_size=size, what="predict oof", track=track)
    return write_predictions(folder, folds, store, fold=job.fold, views=views, oof=oof, test=test)
