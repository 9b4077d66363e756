"""One job: a fold of a run, or its refit on all images, from the pixel store to `done.json`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from folds.base.progress import Track, silently
from folds.base.signals import TimeUpError
from folds.base.workspace import Workspace, sweep, write_bytes, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.backbones import build_network, one_head, set_head
from models.device import Way, choose_device, run_precision, short_name
from models.input.sampling import sampling_shift
from models.input.sizes import largest_size, run_views, train_size
from models.predict.again import FoldFiles, write_network
from models.probe.features import FrozenBody
from models.probe.heads import start_head
from models.runs import CHOSEN, chosen_precision, log_line, refuse_other_settings
from models.settings import PredictSettings
from models.train.checkpoint import Checkpoint, RefusedError
from models.train.trainer import FoldTrainer, Job
from models.train.verdict import against_probe, judge, remedy_for
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
    began, folder = time.perf_counter(), job.key.folder(workspace)
    views = run_views(predict, job.settings, job.backbone, job.weights is not None)
    sweep(folder)
    trainer = make_trainer(workspace, job, folds, store, lr=lr, track=track)
    identity = {"settings": job.settings_json, "fold": "all" if job.fold is None else job.fold, "lr": lr}
    files = FoldFiles(workspace, job.key, folds, store, views)
    checkpoint = Checkpoint(folder / CHECKPOINT, of={**identity, "images": files.pixels})
    is_chosen = job.settings.precision == "auto" and trainer.device.type == "cpu"
    chosen = {CHOSEN: {way: short_name(one) for way, one in trainer.precisions.items()}} if is_chosen else {}
    settings_json = job.settings_json | chosen
    refuse_other_settings(workspace, job.settings_json)  # another process may have begun the run since it was planned
    write_json(folder / "settings.json", settings_json)
    yield _started(trainer, views)
    rows, before = list[EpochRow](), 0.0
    try:
        rows, before = checkpoint.resume(trainer.stepper)
    except RefusedError as err:
        yield CheckpointRefused(checkpoint.path, str(err))
    if rows:
        yield FoldResumed(len(rows), job.settings.epochs)
    yield from _train(trainer, checkpoint, rows, seconds=before, track=track)
    write_network(folder, trainer.stepper.trained)
    model, size, oof = trainer.model, predict.predict_batch, None
    test = model.log_probs(store, store.test_rows, views, batch_size=size, what="predict test", track=track)
    if job.fold is not None:
        own = trainer.data.valid_rows
        oof = model.log_probs(store, own, views, batch_size=size, what="predict oof", track=track)
    error = files.write_predictions(oof, test)
    more: dict[str, Any] = {"lr": lr} | ({"weights_digest": job.weights_digest} if job.weights_digest else {})
    if job.fold is not None:
        verdict = _judged(workspace, trainer, folds, rows)
        more["verdict"] = {key: value for key, value in dataclasses.asdict(verdict).items() if value is not None}
        yield verdict
    seconds = before + time.perf_counter() - began
    files.write_done(settings_json, oof_top3_error=error, seconds=seconds, more=more)
    checkpoint.remove()
    yield FoldDone(error, seconds, trained=True, views=views)


def make_trainer(
    workspace: Workspace, job: Job, folds: Folds, store: PixelStore, *, lr: float, track: Track = silently
) -> FoldTrainer:
    """The trainer of a job; what is random at its start depends on (seed, fold) only."""
    settings, size, device = job.settings, train_size(job.settings, job.backbone), choose_device(job.settings.device)
    fold = folds.n_folds if job.fold is None else job.fold
    torch.manual_seed(int(np.random.SeedSequence([job.seed, fold]).generate_state(1)[0]))
    network = build_network(
        job.backbone,
        len(folds.classes),
        size=size,
        weights=job.weights,
        dropout=settings.dropout,
        drop_path=settings.drop_path,
        stages=settings.stages,
    )
    before = chosen_precision(workspace, job.plan.name)
    precisions = {
        way: run_precision(settings.precision, device, job.backbone, size=size, way=way, before=before)
        for way in get_args(Way)
    }
    is_probed = False
    # Linear probing, then fine-tuning (LP-FT, Kumar et al. 2022), but for random weights: their features do not tell
    # classes apart.
    if settings.head == "probe" and job.weights is not None:
        body = FrozenBody(job.backbone, job.weights, size, device, precisions["forward"])
        head = start_head(
            workspace, folds, store, body, fold=job.fold, mirror=settings.mirror, stages=settings.stages, track=track
        )
        # The probe was fitted under the natural prior; the bias starts from the prior that sampling makes.
        shift = sampling_shift(folds.target[folds.fold != job.fold], settings, n_classes=len(folds.classes))
        is_probed = set_head(network, head.weight, head.bias - torch.from_numpy(shift).float())
    return FoldTrainer(network, job, folds, store, lr=lr, device=device, precisions=precisions, is_probed=is_probed)


def _started(trainer: FoldTrainer, views: Sequence[str]) -> FoldStarted:
    largest = max(trainer.sizes[-1], largest_size(views, trainer.model.size))
    return FoldStarted(
        tag=trainer.job.backbone.tag,
        n_train=len(trainer.data.train_rows),
        n_valid=len(trainer.data.valid_rows),
        image_size=trainer.sizes[-1],
        largest_size=min(largest, trainer.store.longest_side),
        store_size=trainer.store.size,
        device=trainer.device.type,
        precision=str(trainer.precisions["train"]).removeprefix("torch."),
        lr=trainer.stepper.peak_lr,
        is_probed=trainer.is_probed,
    )


def _train(
    trainer: FoldTrainer, checkpoint: Checkpoint, rows: list[EpochRow], *, seconds: float, track: Track
) -> Iterator[Event]:
    """Train the epochs that are left, and add their rows; log and checkpoint follow each. seconds: taken before"""
    kept, began = len(rows), time.perf_counter()
    try:
        for event in trainer.epochs(first=len(rows), track=track):
            if isinstance(event, EpochRow):
                rows.append(event)
                write_bytes(checkpoint.path.with_name("log.jsonl"), "".join(map(log_line, rows)).encode())
                checkpoint.keep(trainer.stepper, rows, seconds=seconds + time.perf_counter() - began)
                kept = len(rows)
            yield event
    except (KeyboardInterrupt, TimeUpError) as stop:
        lost = round(time.perf_counter() - checkpoint.last)
        begin = f"{trainer.job.key.name} goes on after epoch {kept} of {trainer.job.settings.epochs}"
        stop.add_note(f"{begin}; {lost // 60}:{lost % 60:02d} of work are lost")
        raise


def _judged(workspace: Workspace, trainer: FoldTrainer, folds: Folds, rows: Sequence[EpochRow]) -> Verdict:
    """The verdict on a fold whose `oof.npz` is written."""
    job, network = trainer.job, trainer.stepper.network
    train_loss, train_top3_error = trainer.score_training()
    has_batch_norm = any(isinstance(one, _BatchNorm) for one in network.modules())
    takes_head, lr = one_head(network) is not None, trainer.stepper.peak_lr
    remedy = remedy_for(job.settings, lr=lr, has_batch_norm=has_batch_norm, takes_head=takes_head)
    known = np.bincount(trainer.data.train_target, minlength=len(folds.classes)) + 0.5  # no class has a share of 0
    return judge(
        rows,
        train_loss=train_loss,
        train_top3_error=train_top3_error,
        chance_loss=-float(np.log(known / known.sum())[folds.target[folds.fold == job.fold]].mean()),
        against_probe=against_probe(workspace, folds, job),
        remedy=remedy,
    )
