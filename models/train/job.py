"""Sets a job up: which fold of which run it is, and the trainer that does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from folds.base.progress import Track, silently
from folds.base.workspace import Workspace
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.backbones import Backbone, build_network
from models.device import choose_device
from models.input.sampling import sampling_shift
from models.precision import Way, run_precision, short_name
from models.probe.head_files import set_head, start_head
from models.recipes import FullSettings
from models.runs import RunPlan, chosen_precision
from models.sizes import train_size
from models.train.trainer import FoldTrainer
from models.watch.events import fold_name


@dataclass(frozen=True)
class Job:
    """A fold to train (None: all images), with everything that was checked before the first job began.

    weights_digest  of the very file that the network starts from, downloaded or local; empty for a random start
    """

    plan: RunPlan
    settings: FullSettings
    backbone: Backbone
    weights: Path | None
    fold: int | None
    seed: int
    settings_json: dict[str, Any]
    weights_digest: str = ""

    @property
    def name(self) -> str:
        return fold_name(self.plan.name, self.fold)

    def folder(self, workspace: Workspace) -> Path:
        name = self.plan.name
        return workspace.refit(name) if self.fold is None else workspace.fold(name, self.fold)


def make_trainer(
    workspace: Workspace, job: Job, folds: Folds, store: PixelStore, *, lr: float, track: Track = silently
) -> FoldTrainer:
    """The trainer of a job; what is random at its start depends on (seed, fold) only."""
    settings = job.settings
    device = choose_device(settings.device)
    fold = folds.n_folds if job.fold is None else job.fold
    torch.manual_seed(int(np.random.SeedSequence([job.seed, fold]).generate_state(1)[0]))
    network = build_network(
        job.backbone,
        len(folds.classes),
        size=train_size(settings, job.backbone),
        weights=job.weights,
        dropout=settings.dropout,
        drop_path=settings.drop_path,
    )
    precisions = _find_precisions(workspace, job, device)
    is_probed = _start_from_probe(
        workspace, job, network, folds, store, device=device, precision=precisions["forward"], track=track
    )
    is_chosen = settings.precision == "auto" and device.type == "cpu"
    return FoldTrainer(
        network,
        folds,
        store,
        fold=job.fold,
        backbone=job.backbone,
        settings=settings,
        lr=lr,
        seed=job.seed,
        device=device,
        precision=precisions["train"],
        is_probed=is_probed,
        chosen_precision={way: short_name(one) for way, one in precisions.items()} if is_chosen else {},
    )


def _find_precisions(workspace: Workspace, job: Job, device: torch.device) -> dict[Way, torch.dtype]:
    """In what the job trains, and in what it asks the frozen network for its head, which `probe` does alike."""
    before, size = chosen_precision(workspace, job.plan.name), train_size(job.settings, job.backbone)
    ways: tuple[Way, ...] = ("train", "forward") if _is_to_probe(job) else ("train",)
    found = {
        way: run_precision(job.settings.precision, device, job.backbone, size=size, way=way, before=before)
        for way in ways
    }
    return {"forward": found["train"], **found}


def _is_to_probe(job: Job) -> bool:
    return job.settings.head == "probe" and job.weights is not None


def _start_from_probe(
    workspace: Workspace,
    job: Job,
    network: nn.Module,
    folds: Folds,
    store: PixelStore,
    *,
    device: torch.device,
    precision: torch.dtype,
    track: Track,
) -> bool:
    """Put the head in that fits the frozen features of the fold's training part (LP-FT, Kumar et al. 2022).

    False where the settings want none, where there are no weights whose features could be worth anything, or where
    the head is not one linear layer. The probe knows the natural prior; the bias starts from what sampling makes of it.
    """
    settings = job.settings
    if not _is_to_probe(job) or job.weights is None:
        return False
    weight, bias = start_head(
        workspace,
        folds,
        store,
        backbone=job.backbone,
        weights=job.weights,
        size=train_size(settings, job.backbone),
        fold=job.fold,
        mirror=settings.mirror,
        device=device,
        precision=precision,
        track=track,
    )
    target = folds.target if job.fold is None else folds.target[folds.fold != job.fold]
    shift = sampling_shift(target, settings, n_classes=len(folds.classes))
    return set_head(network, weight, bias - torch.from_numpy(shift).float())
