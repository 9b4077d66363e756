"""Mixes and erases: Mixup, CutMix and RandomErasing on whole batches, all three timm's own."""

from __future__ import annotations

import random

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from models.recipes import FullSettings


class Mixer:
    """Erases parts of images and mixes them pairwise, as the settings ask; mixing stops before the last epochs."""

    def __init__(self, settings: FullSettings, *, n_classes: int, device: torch.device) -> None:
        self.last_epoch = settings.mix_share * settings.epochs
        self.mixup = (
            Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                label_smoothing=settings.label_smoothing,
                num_classes=n_classes,
            )
            if settings.mixup or settings.cutmix
            else None
        )
        self.erase = RandomErasing(settings.erase, mode="pixel", device=str(device)) if settings.erase else None

    def __call__(self, images: Tensor, target: Tensor, *, epoch: int) -> tuple[Tensor, Tensor]:
        """images (B, 3, h, w), changed in place; target (B,) int -> (B, C) float shares where images were mixed."""
        if self.erase is not None:
            images = self.erase(images)
        if self.mixup is None or epoch >= self.last_epoch:
            return images, target
        return self.mixup(images, target)


def seed_everything(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's own generators: timm's mixing, dropout and stochastic depth draw from them."""
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))  # noqa: NPY002  timm's Mixup draws from the global generator
    torch.manual_seed(int(seeds[2]))
