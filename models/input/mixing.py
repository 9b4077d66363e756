"""Mixup, CutMix and random erasing on whole batches, all three timm's own, and the loss of mixed targets."""

from __future__ import annotations

import random

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from models.recipes import FullSettings

MIX_SHARE = 0.8  # of the epochs: the last ones see whole images, as prediction does


class Mixer:
    """Erases parts of images and mixes images in pairs, as the settings ask; mixing stops before the last epochs."""

    def __init__(self, settings: FullSettings, *, n_classes: int, device: torch.device) -> None:
        self.last_epoch = MIX_SHARE * settings.epochs
        self.mixup, self.erase = None, None
        if _mixes(settings):
            self.mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                label_smoothing=settings.label_smoothing,
                num_classes=n_classes,
            )
        if settings.erase:
            self.erase = RandomErasing(settings.erase, mode="pixel", device=str(device))

    def __call__(self, images: Tensor, target: Tensor, *, epoch: int) -> tuple[Tensor, Tensor]:
        """images (B, 3, h, w), changed in place; target (B,) int -> (B, C) float shares where images were mixed."""
        if self.erase is not None:
            images = self.erase(images)
        if self.mixup is None or epoch >= self.last_epoch:
            return images, target
        return self.mixup(images, target)


def batch_size_for(settings: FullSettings, n_images: int) -> int:
    """Images per optimiser step: no more than there are, and an even number where they are mixed in pairs."""
    size = min(settings.batch_size, n_images)
    return size - size % 2 if _mixes(settings) else size


def training_loss(logits: Tensor, target: Tensor, settings: FullSettings) -> Tensor:
    """The mean cross-entropy in nats. logits (B, C); target (B,) int, or (B, C) shares, which the mixer smoothed."""
    smoothing = settings.label_smoothing if target.ndim == 1 else 0.0
    return nn.functional.cross_entropy(logits.float(), target, label_smoothing=smoothing)


def seed_everything(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's own generators: timm's mixing, dropout and stochastic depth draw from them."""
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))  # noqa: NPY002  timm's Mixup draws from the global generator
    torch.manual_seed(int(seeds[2]))


def _mixes(settings: FullSettings) -> bool:
    return bool(settings.mixup or settings.cutmix)
