"""This file trains one network on all folds but one: the epoch loop, and one row of figures for each epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from folds.assignment import Folds
from folds.errors import UserError
from folds.metrics import log_loss, topk_error
from folds.pixels import PixelStore
from folds.track import Track, silently
from models.augment import random_boxes
from models.backbones import Backbone
from models.batches import gather_batches
from models.events import EpochRow
from models.inputs import autocast, network_input
from models.optimiser import make_average, make_optimiser, make_schedule
from models.predict import predict_views
from models.sampling import draw_epoch, expected_repeats, sampling_correction
from models.settings import TrainSettings

CHECK_STEPS = 50  # the loss is looked at this often; each look waits for the device


class FoldTrainer:
    """Trains on every fold but `fold` and watches `fold`; afterwards `network` holds the averaged parameters."""

    def __init__(
        self,
        network: nn.Module,
        folds: Folds,
        store: PixelStore,
        *,
        fold: int,
        backbone: Backbone,
        size: int,
        settings: TrainSettings,
        seed: int,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self.settings, self.seed, self.fold = settings, seed, fold
        self.backbone, self.size, self.store = backbone, size, store
        self.device, self.precision = device, precision
        rows = store.rows(folds.image_id, split="train")
        valid = folds.fold == fold
        self.train_rows, self.train_target = rows[~valid], folds.target[~valid]
        self.valid_rows, self.valid_target = rows[valid], folds.target[valid]
        self.repeats = expected_repeats(self.train_target, power=settings.sampling_power, most=settings.max_repeats)
        self.correction = sampling_correction(self.train_target, settings, n_classes=len(folds.classes))
        self.batch_size = min(settings.batch_size, len(self.train_rows))
        self.epoch_steps = len(self.train_rows) // self.batch_size
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = make_optimiser(self.network, settings)
        self.schedule = make_schedule(self.optimiser, settings, epoch_steps=self.epoch_steps)
        self.average = make_average(self.network, settings, epoch_steps=self.epoch_steps)

    @property
    def trained(self) -> nn.Module:
        """The network to predict with: the running average, or the network itself where that is off."""
        return (self.network if self.average is None else self.average.module).eval()

    def epochs(self, *, track: Track = silently) -> Iterator[EpochRow]:
        """Train epoch after epoch, and yield a row after each."""
        for epoch in range(self.settings.epochs):
            began = time.perf_counter()
            train_loss = self._train_epoch(epoch, track)
            trained_seconds = time.perf_counter() - began
            probs = np.exp(self.predict(self.valid_rows, ("centre",))[:, 0])
            self._refuse_divergence(bool(np.isfinite(probs).all()), step=(epoch + 1) * self.epoch_steps - 1)
            yield EpochRow(
                epoch=epoch + 1,
                lr=self.optimiser.param_groups[0]["lr"],
                train_loss=train_loss,
                valid_loss=log_loss(probs, self.valid_target),
                valid_top1_error=topk_error(probs, self.valid_target, k=1),
                valid_top3_error=topk_error(probs, self.valid_target),
                images_per_second=self.epoch_steps * self.batch_size / trained_seconds,
                seconds=time.perf_counter() - began,
            )

    def predict(
        self,
        rows: np.ndarray,
        views: tuple[str, ...],
        *,
        batch_size: int = 128,
        what: str = "",
        track: Track = silently,
    ) -> np.ndarray:
        """(n, V, C) float32 log-probabilities of store rows under the views."""
        return predict_views(
            [self.trained],
            self.store,
            rows,
            backbone=self.backbone,
            size=self.size,
            views=views,
            batch_size=batch_size,
            device=self.device,
            precision=self.precision,
            corrections=[self.correction],
            what=what,
            track=track,
        )[0]

    def _train_epoch(self, epoch: int, track: Track) -> float:
        """One pass; returns the mean training loss in nats."""
        drawn, boxes = self._plan_epoch(epoch)
        batches = np.split(drawn, self.epoch_steps)
        target = torch.from_numpy(self.train_target[drawn]).to(self.device).split(self.batch_size)
        gathered = track(
            gather_batches(self.store.pixels, [self.train_rows[batch] for batch in batches], self.device),
            what=f"epoch {epoch + 1}/{self.settings.epochs}",
            total=len(drawn),
            each=self.batch_size,
        )
        self.network.train()
        loss_sum = torch.zeros((), device=self.device)
        for i, pixels in enumerate(gathered):
            step = epoch * self.epoch_steps + i
            seen = network_input(
                pixels, boxes[i * self.batch_size : (i + 1) * self.batch_size], size=self.size, backbone=self.backbone
            )
            loss_sum += self._step(step, seen, target[i])
            if (i + 1) % CHECK_STEPS == 0 or i + 1 == self.epoch_steps:
                self._refuse_divergence(bool(torch.isfinite(loss_sum)), step=step)
        return float(loss_sum) / self.epoch_steps

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What an epoch shows: positions in the training part (n,), and a box for each (n, 4)."""
        rng = np.random.default_rng([self.seed, self.fold, epoch])
        drawn = draw_epoch(self.repeats, rng)[: self.epoch_steps * self.batch_size]
        rows = self.train_rows[drawn]
        boxes = random_boxes(
            rng,
            width=self.store.width[rows],
            height=self.store.height[rows],
            crop_scale=self.settings.crop_scale,
            mirror=self.settings.mirror,
        )
        return drawn, boxes

    def _step(self, step: int, seen: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One optimiser step; returns the loss, still on the device."""
        self.schedule.step_update(step)
        with autocast(self.device, self.precision):
            logits = self.network(seen)
        loss = nn.functional.cross_entropy(logits.float(), target, label_smoothing=self.settings.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.network, step=step)
        return loss.detach()

    def _refuse_divergence(self, is_finite: bool, *, step: int) -> None:
        if not is_finite:
            rate = self.optimiser.param_groups[0]["lr"]
            raise UserError(
                f"the loss of fold {self.fold} is no longer finite at step {step + 1:,}, at a rate of {rate:.2g}",
                hint=f"`--lr {self.settings.lr / 3:.1g}`, or `--precision fp32`",
            )
