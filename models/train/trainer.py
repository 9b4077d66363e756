"""Trains one network on all folds but one, or on all: the epoch loop, and a row of figures for each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from folds.base.errors import UserError
from folds.base.metrics import log_loss, topk_error
from folds.base.progress import Track, silently
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.backbones import Backbone
from models.device import Way, fused, return_memory
from models.input.augment import Draws, Mixer, batch_size_for, draw, seed_everything, training_input
from models.input.batches import gather_batches
from models.input.sampling import draw_epoch, expected_repeats, prior_correction
from models.input.sizes import epoch_sizes, predict_size, train_size
from models.predict.model import Model
from models.recipes import FullSettings
from models.runs import RunPlan
from models.train.stepper import Stepper
from models.watch.events import EpochRow, JobKey, MemoryShort

CHECK_STEPS = 50  # the loss is looked at this often; each look waits for the device
VIEW = ("centre",)  # under which each epoch is scored


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
    def key(self) -> JobKey:
        return JobKey(self.plan.name, self.fold)


class FoldData:
    """The training part of a fold, and the fold itself; with fold None everything trains and nothing is kept out."""

    def __init__(self, folds: Folds, store: PixelStore, *, fold: int | None, settings: FullSettings, seed: int) -> None:
        self.store, self.settings = store, settings
        rows = store.rows(folds.image_id, split="train")
        valid = folds.fold == fold
        self.train_rows, self.train_target = rows[~valid], folds.target[~valid]
        self.valid_rows, self.valid_target = rows[valid], folds.target[valid]
        self.seeds = [seed, folds.n_folds if fold is None else fold]
        self.repeats = expected_repeats(self.train_target, power=settings.sampling_power)
        self.batch_size = batch_size_for(settings, len(self.train_rows))
        self.epoch_steps = len(self.train_rows) // self.batch_size

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray, Draws]:
        """What an epoch shows, a function of seed, fold and number: rows of the store (n,), targets (n,); draws.

        n is a multiple of the batch.
        """
        rng = np.random.default_rng([*self.seeds, number])
        drawn = draw_epoch(self.repeats, rng)[: self.epoch_steps * self.batch_size]
        rows = self.train_rows[drawn]
        draws = draw(rng, self.settings, width=self.store.width[rows], height=self.store.height[rows])
        return rows, self.train_target[drawn], draws


class FoldTrainer:
    """Trains on every fold but the job's and scores `fold`; afterwards `model` is what predicts."""

    def __init__(
        self,
        network: nn.Module,
        job: Job,
        folds: Folds,
        store: PixelStore,
        *,
        lr: float,
        device: torch.device,
        precisions: Mapping[Way, torch.dtype],
        is_probed: bool = False,
    ) -> None:
        self.is_probed = is_probed  # whether the network's head comes fitted to its frozen features
        self.job, self.store, self.device, self.precisions = job, store, device, precisions
        self.settings = settings = job.settings
        n_classes = len(folds.classes)
        self.data = FoldData(folds, store, fold=job.fold, settings=settings, seed=job.seed)
        self.sizes = epoch_sizes(settings, size=train_size(settings, job.backbone))
        self.shift = prior_correction(self.data.train_target, settings, n_classes=n_classes)
        self.mixer = Mixer(settings, n_classes=n_classes, device=device)
        steps, batch, precision = self.data.epoch_steps, self.data.batch_size, precisions["train"]
        self.stepper = Stepper(
            network, settings, lr=lr, epoch_steps=steps, batch_size=batch, device=device, precision=precision
        )

    @property
    def model(self) -> Model:
        """The network as it is now, in evaluation mode, and how it predicts."""
        backbone, precision = self.job.backbone, self.precisions["forward"]
        size = predict_size(self.settings, backbone)
        return Model(self.stepper.trained, backbone, size, self.device, precision, self.shift)

    def epochs(self, *, first: int = 0, track: Track = silently) -> Iterator[EpochRow | MemoryShort]:
        """Train epoch after epoch, from the first that is not done, and yield a row after each."""
        for epoch in range(first, self.settings.epochs):
            began, fitted = time.perf_counter(), self.stepper.micro_batch
            train_loss = self._train_epoch(epoch, track)
            trained_seconds = time.perf_counter() - began
            if self.stepper.micro_batch < fitted:
                yield MemoryShort(self.stepper.micro_batch, self.data.batch_size)
            return_memory(self.device)
            valid_loss, valid_top1_error, valid_top3_error = self._valid_figures(epoch)
            return_memory(self.device)
            yield EpochRow(
                epoch=epoch + 1,
                lr=self.stepper.lr,
                image_size=self.sizes[epoch],
                train_loss=train_loss,
                valid_loss=valid_loss,
                valid_top1_error=valid_top1_error,
                valid_top3_error=valid_top3_error,
                images_per_second=self.data.epoch_steps * self.data.batch_size / trained_seconds,
                seconds=time.perf_counter() - began,
            )

    def score_training(self) -> tuple[float, float]:
        """Loss (nats) and top-3 error of training images, as many as the fold has, predicted as the fold's own are."""
        rng = np.random.default_rng([*self.data.seeds, self.settings.epochs + 1])
        chosen = np.sort(rng.permutation(len(self.data.train_rows))[: len(self.data.valid_rows)])
        probs = np.exp(self.model.log_probs(self.store, self.data.train_rows[chosen], VIEW)[:, 0])
        return log_loss(probs, self.data.train_target[chosen]), topk_error(probs, self.data.train_target[chosen])

    def batches(self, epoch: int, *, track: Track = silently) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch's augmented images (B, 3, size, size) and targets, (B,) int or (B, C) shares, on the device."""
        seed_everything(*self.data.seeds, epoch)
        (rows, target, draws), batch = self.data.epoch(epoch), self.data.batch_size
        starts, what = range(0, len(rows), batch), f"epoch {epoch + 1}/{self.settings.epochs}"
        gathered = gather_batches(self.store.pixels, [rows[i : i + batch] for i in starts], self.device)
        tracked = track(gathered, what=what, total=len(rows), each=batch)
        targets = torch.from_numpy(target).to(self.device).split(batch)
        size, backbone, precision = self.sizes[epoch], self.job.backbone, self.precisions["train"]
        for i, pixels, wanted in zip(starts, tracked, targets, strict=True):
            own = draws[i : i + batch]
            images = training_input(pixels, own, size=size, backbone=backbone, precision=precision)
            yield self.mixer(images, wanted, epoch=epoch)

    def _train_epoch(self, epoch: int, track: Track) -> float:
        """One pass; returns the mean training loss in nats."""
        loss_sum = torch.zeros((), device=self.device)
        with fused(self.stepper.network, size=self.sizes[epoch], device=self.device, learns=True):
            self.stepper.train_mode()
            for i, (images, target) in enumerate(self.batches(epoch, track=track)):
                step = epoch * self.data.epoch_steps + i
                loss_sum += self.stepper.step(step, images, target)
                if (i + 1) % CHECK_STEPS == 0 or i + 1 == self.data.epoch_steps:
                    self._refuse_divergence(bool(torch.isfinite(loss_sum)), step=step)
        return float(loss_sum) / self.data.epoch_steps

    def _valid_figures(self, epoch: int) -> tuple[float, float, float]:
        """Loss, top-1 and top-3 error of the images that are kept out; NaN where there are none."""
        target = self.data.valid_target
        if not len(target):
            return (float("nan"),) * 3
        probs = np.exp(self.model.log_probs(self.store, self.data.valid_rows, VIEW)[:, 0])
        self._refuse_divergence(bool(np.isfinite(probs).all()), step=(epoch + 1) * self.data.epoch_steps - 1)
        return log_loss(probs, target), topk_error(probs, target, k=1), topk_error(probs, target)

    def _refuse_divergence(self, is_finite: bool, *, step: int) -> None:
        if not is_finite:
            where = "the refit on all images" if self.job.fold is None else f"fold {self.job.fold}"
            raise UserError(
                f"the loss of {where} is no longer finite at step {step + 1:,}, at a rate of {self.stepper.lr:.2g}",
                hint=f"`--lr {self.stepper.peak_lr / 3:.1g}`, or `--precision fp32`",
            )
