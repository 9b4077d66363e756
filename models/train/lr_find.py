"""Finds a learning rate: a short training at rising rates, and where its loss falls fastest."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from models.train.trainer import FoldTrainer

LOWEST, HIGHEST = 1e-6, 1.0  # AdamW's useful rates lie well inside
STEPS = 100
MEMORY = 0.9  # of the running mean of the loss, over about ten steps
DIVERGED = 1.5  # times the lowest smoothed loss: from there on the sweep shows nothing
TRUSTED_STEPS = 10  # before so many, the running mean is of too few losses


@dataclass(frozen=True)
class Sweep:
    """A finished sweep. rates (n,) float64, losses (n,) smoothed, in nats; suggested is the rate to train with.

    steepest  where the smoothed loss falls fastest against the logarithm of the rate    lowest  where it is lowest
    """

    rates: np.ndarray
    losses: np.ndarray
    steepest: float
    lowest: float

    @property
    def suggested(self) -> float:
        """The geometric mean of the steepest rate and a tenth of the lowest: each alone is noisy."""
        return float(np.sqrt(self.steepest * self.lowest / 10))


def sweep(trainer: FoldTrainer, *, steps: int = STEPS, track: Track = silently) -> Sweep:
    """Train at rates from 1e-6 to 1, each step at a higher one; stop at divergence, restore the network.

    Raises UserError where no rate makes the loss fall. Source: Smith 2017 (LR range test), fastai's `lr_find`.
    """
    network = trainer.stepper.network
    before = copy.deepcopy(network.state_dict())
    try:
        losses = list(_losses(trainer, np.geomspace(LOWEST, HIGHEST, steps), track=track))
    finally:
        network.load_state_dict(before)
        trainer.stepper.optimiser.state.clear()
    return judge_sweep(np.geomspace(LOWEST, HIGHEST, steps)[: len(losses)], np.array(losses))


def judge_sweep(rates: np.ndarray, losses: np.ndarray) -> Sweep:
    """Smooth the losses and pick the rates. rates, losses (n,). Raises UserError where the loss never falls."""
    smooth = smoothed(losses)
    bottom = int(np.argmin(smooth))
    if bottom < 2 or smooth[bottom] >= smooth[0]:
        raise UserError(
            f"at no rate from {rates[0]:.0e} to {rates[-1]:.0e} does the loss fall",
            hint="leave out `--lr`",
        )
    slope = np.gradient(smooth[: bottom + 1], np.log(rates[: bottom + 1]))
    return Sweep(rates, smooth, float(rates[int(np.argmin(slope))]), float(rates[bottom]))


def smoothed(losses: np.ndarray) -> np.ndarray:
    """The running mean of the losses, corrected for its start as Adam's is. (n,) -> (n,)"""
    sums = np.array(
        list(itertools.accumulate(losses, lambda mean, loss: MEMORY * mean + (1 - MEMORY) * loss, initial=0.0))
    )
    return sums[1:] / (1 - MEMORY ** np.arange(1, len(losses) + 1))


def _losses(trainer: FoldTrainer, rates: np.ndarray, *, track: Track) -> Iterator[float]:
    stepper, running, lowest = trainer.stepper, 0.0, float("inf")
    stepper.train_mode()
    n_epochs = trainer.settings.epochs
    batches = itertools.chain.from_iterable(trainer.batches(epoch % n_epochs) for epoch in itertools.count())
    tracked = track(zip(rates, batches, strict=False), what="rates", total=len(rates), unit="steps")
    for i, (rate, (images, target)) in enumerate(tracked):
        loss = float(_step_at(rate, trainer, images, target))
        running = MEMORY * running + (1 - MEMORY) * loss
        mean = running / (1 - MEMORY ** (i + 1))
        if not np.isfinite(loss) or (i >= TRUSTED_STEPS and mean > DIVERGED * lowest):
            return
        lowest = min(lowest, mean)
        yield loss


def _step_at(rate: float, trainer: FoldTrainer, images: Tensor, target: Tensor) -> Tensor:
    stepper = trainer.stepper
    for group in stepper.optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
    loss = stepper.accumulate(images, target)
    stepper.move()
    return loss
