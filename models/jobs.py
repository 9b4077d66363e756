"""This file does jobs: a job is one fold of one run, from the pixel store to `oof.npz`, `test.npz` and `done.json`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from folds.assignment import Folds, load_folds
from folds.errors import UserError, first_few
from folds.pixels import PixelStore, open_store
from folds.track import Track, silently
from folds.workspace import Workspace, digest, write_bytes, write_json
from models.artefacts import test_rows, write_done, write_network, write_predictions
from models.backbones import Backbone, build_network, find_weights, resolve_backbone
from models.events import Event, FoldDone, FoldStarted
from models.inputs import choose_device, choose_precision
from models.runs import RunPlan, done_folds, refuse_other_settings, stored_settings
from models.settings import PredictSettings
from models.train import FoldTrainer
from models.views import check_views


@dataclass(frozen=True)
class Job:
    """A fold to train, with everything that was checked before the first one began."""

    plan: RunPlan
    backbone: Backbone
    weights: Path | None
    fold: int
    size: int
    seed: int
    settings_json: dict[str, Any]


def train_runs(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    seed: int,
    only_folds: Sequence[int] = (),
    track: Track = silently,
) -> Iterator[Event]:
    """Train every fold of every run that is not done, and yield what happens.

    Everything that can be refused is refused before the first step: folds, views, names, weights, settings.
    """
    folds, store = load_folds(workspace), open_store(workspace)
    check_views(predict.views)
    wanted = _check_folds(only_folds, folds.n_folds)
    jobs = [job for plan in plans for job in _plan_jobs(workspace, plan, folds, wanted, seed=seed)]
    for job in jobs:
        done = done_folds(workspace, job.plan.name).get(job.fold)
        if done:
            yield _done_before(job, done)
        else:
            yield from _train_fold(workspace, job, folds, store, predict, track=track)


def _done_before(job: Job, done: dict[str, Any]) -> FoldDone:
    views = tuple(done["views"])
    return FoldDone(job.plan.name, job.fold, done["oof_top3_error"], done["seconds"], trained=False, views=views)


def refuse_early(workspace: Workspace, plans: Sequence[RunPlan], predict: PredictSettings) -> None:
    """Refuse, before anything is prepared, what needs no folds for it: names, views, weights that are not here."""
    check_views(predict.views)
    for plan in plans:
        backbone = resolve_backbone(plan.backbone)
        _weights_name(plan)
        if not done_folds(workspace, plan.name):
            _find_start(plan, backbone)


def _check_folds(only: Sequence[int], n_folds: int) -> list[int]:
    outside = [fold for fold in only if not 0 <= fold < n_folds]
    if outside:
        raise UserError(
            f"there is no fold {first_few(outside)}: there are {n_folds}, 0 to {n_folds - 1}", hint="`--fold 0`"
        )
    return sorted(set(only)) or list(range(n_folds))


def _plan_jobs(workspace: Workspace, plan: RunPlan, folds: Folds, wanted: Sequence[int], *, seed: int) -> list[Job]:
    backbone = resolve_backbone(plan.backbone)
    size = plan.settings.image_size or backbone.size
    lacking = set(wanted) - set(done_folds(workspace, plan.name))
    weights = _find_start(plan, backbone) if lacking else None
    settings_json = stored_settings(
        plan, tag=backbone.tag, weights_digest=_weights_name(plan), seed=seed, folds_digest=folds.digest
    )
    refuse_other_settings(workspace, settings_json)
    if lacking:  # a trial: a wrong file or size is refused now, and not after hours of another run
        build_network(backbone, len(folds.classes), size=size, weights=weights)
    return [Job(plan, backbone, weights, fold, size, seed, settings_json) for fold in wanted]


def _find_start(plan: RunPlan, backbone: Backbone) -> Path | None:
    """The weights file that the plan's networks start from; None for a random start."""
    return plan.weights or (find_weights(backbone) if plan.settings.pretrained else None)


def _weights_name(plan: RunPlan) -> str:
    """The digest of a local file; `pretrained` stands for the tag's own, `random` for none."""
    if plan.weights is None:
        return "pretrained" if plan.settings.pretrained else "random"
    try:
        return digest(plan.weights.read_bytes())
    except OSError as err:
        raise UserError(
            f"the weights file {plan.weights} cannot be read: {err.strerror}", hint="`--weights FILE`"
        ) from err


def _train_fold(
    workspace: Workspace, job: Job, folds: Folds, store: PixelStore, predict: PredictSettings, *, track: Track
) -> Iterator[Event]:
    began = time.perf_counter()
    trainer = make_trainer(job, folds, store)
    folder = workspace.fold(job.plan.name, job.fold)
    write_json(folder / "settings.json", job.settings_json)
    yield FoldStarted(
        run=job.plan.name,
        tag=job.backbone.tag,
        fold=job.fold,
        n_train=len(trainer.train_rows),
        n_valid=len(trainer.valid_rows),
        image_size=job.size,
        store_size=store.size,
        device=trainer.device.type,
        precision=str(trainer.precision).removeprefix("torch."),
    )
    lines = ""
    for row in trainer.epochs(track=track):
        lines += json.dumps(dataclasses.asdict(row)) + "\n"
        write_bytes(folder / "log.jsonl", lines.encode())
        yield row
    write_network(folder, trainer.trained)
    oof, test = (
        trainer.predict(rows, predict.views, batch_size=predict.predict_batch, what=f"predict {name}", track=track)
        for name, rows in (("oof", trainer.valid_rows), ("test", test_rows(store)))
    )
    error = write_predictions(folder, folds, store, fold=job.fold, views=predict.views, oof=oof, test=test)
    seconds = time.perf_counter() - began
    write_done(
        folder,
        job.settings_json,
        fold=job.fold,
        n_folds=folds.n_folds,
        views=predict.views,
        oof_top3_error=error,
        seconds=seconds,
    )
    yield FoldDone(job.plan.name, job.fold, error, seconds, trained=True, views=predict.views)


def make_trainer(job: Job, folds: Folds, store: PixelStore) -> FoldTrainer:
    """The trainer of a job; its head's random start depends on (seed, fold) only."""
    device = choose_device(job.plan.settings.device)
    torch.manual_seed(int(np.random.SeedSequence([job.seed, job.fold]).generate_state(1)[0]))
    network = build_network(
        job.backbone, len(folds.classes), size=job.size, weights=job.weights, dropout=job.plan.settings.dropout
    )
    return FoldTrainer(
        network,
        folds,
        store,
        fold=job.fold,
        backbone=job.backbone,
        size=job.size,
        settings=job.plan.settings,
        seed=job.seed,
        device=device,
        precision=choose_precision(job.plan.settings.precision, device),
    )
