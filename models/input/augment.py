"""Augmentation: what is drawn for each training image, what is done to a batch on the device, and the mixed targets.

Mixup, CutMix and random erasing are timm's own.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from models.backbones import Backbone
from models.input.resample import normalise, resample
from models.recipes import FullSettings
from models.settings import TrainSettings

ASPECT_LOW, ASPECT_HIGH = 3 / 4, 4 / 3  # the crop's width / height, in true pixels; RandomResizedCrop's own limits
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue; ITU-R BT.601, as Pillow's "L"
MIX_SHARE = 0.8  # of the epochs with Mixup or CutMix: the last ones see whole images, as prediction does


@dataclass(frozen=True)
class Draws:
    """What was drawn at random for the n images of an epoch, on the host, so that the device does not matter.

    boxes   (n, 4) float32, shares of width and height; right < left mirrors
    angle   (n,) float32, radians, or None where nothing is turned
    colour  (n, 3) float32 factors of brightness, contrast and saturation, or None where they stay
    """

    boxes: np.ndarray
    angle: np.ndarray | None
    colour: np.ndarray | None

    def __getitem__(self, which: slice) -> Draws:
        angle, colour = (None if values is None else values[which] for values in (self.angle, self.colour))
        return Draws(self.boxes[which], angle, colour)


def draw(rng: np.random.Generator, settings: TrainSettings, *, width: np.ndarray, height: np.ndarray) -> Draws:
    """Draw for images of these true sizes, (n,) pixels each."""
    boxes = random_boxes(rng, width=width, height=height, crop_scale=settings.crop_scale, mirror=settings.mirror)
    most, share, n = math.radians(settings.rotate), settings.colour_jitter, len(width)
    angle = rng.uniform(-most, most, n).astype(np.float32) if most else None
    colour = rng.uniform(1 - share, 1 + share, (n, 3)).astype(np.float32) if share else None
    return Draws(boxes, angle, colour)


def random_boxes(
    rng: np.random.Generator, *, width: np.ndarray, height: np.ndarray, crop_scale: float, mirror: bool
) -> np.ndarray:
    """One random crop per draw, in the picture's true aspect ratio. (n, 4) float32, shares of width and height.

    width, height  (n,) true size in pixels
    crop_scale     smallest area of a crop, as a share of the picture's
    Right < left mirrors. Source: RandomResizedCrop (Szegedy et al. 2015), with the crop shortened to the picture's
    edge, where the original draws again up to ten times.
    """
    n = len(width)
    area, aspect, across, down, coin = rng.random((5, n))
    area = (crop_scale + (1 - crop_scale) * area) * width * height
    aspect = np.exp(np.log(ASPECT_LOW) + (np.log(ASPECT_HIGH) - np.log(ASPECT_LOW)) * aspect)
    crop_width = np.minimum(np.sqrt(area * aspect) / width, 1.0)
    crop_height = np.minimum(np.sqrt(area / aspect) / height, 1.0)
    left, top = (1 - crop_width) * across, (1 - crop_height) * down
    boxes = np.stack([left, top, left + crop_width, top + crop_height], axis=1)
    flipped = (coin < 0.5) & mirror
    boxes[flipped] = boxes[flipped][:, [2, 1, 0, 3]]
    return boxes.astype(np.float32)


def training_input(
    pixels: Tensor, draws: Draws, *, size: int, backbone: Backbone, precision: torch.dtype = torch.float32
) -> Tensor:
    """A training batch: boxes, colours, turns, then the weights' mean and deviation. (B, 3, size, size) float32.

    pixels  (B, S, S, 3) uint8 on the device     precision  of the resampling, that of training
    """
    grey = resample(pixels, draws.boxes, size=size, kernel=backbone.kernel, dtype=precision)
    if draws.colour is not None:
        grey = jitter(grey, torch.from_numpy(draws.colour).to(grey.device, non_blocking=True))
    if draws.angle is not None:
        grey = turn(grey, torch.from_numpy(draws.angle).to(grey.device, non_blocking=True))
    return normalise(grey, backbone)


def jitter(grey: Tensor, factors: Tensor) -> Tensor:
    """Change each image's brightness, contrast and saturation. grey (B, 3, h, w) in 0..255, factors (B, 3); 1 keeps."""
    bright, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(1))
    weights = torch.tensor(LUMINANCE, device=grey.device).view(1, 3, 1, 1)
    light = (grey * weights).sum(dim=1, keepdim=True)  # (B, 1, h, w)
    level = light.mean(dim=(2, 3), keepdim=True)
    # Saturation leaves the light as it is, so that contrast and brightness can follow in one affine step.
    scale = bright * contrast
    coloured = torch.lerp(light.expand_as(grey), grey, saturation.expand_as(grey))
    return (coloured * scale + level * (bright - scale)).clamp_(0.0, 255.0)


def turn(grey: Tensor, angle: Tensor) -> Tensor:
    """Turn each image about its centre, mirrored at the edges. grey (B, 3, h, w), square; angle (B,) radians."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cos, -sin, zero], dim=1), torch.stack([sin, cos, zero], dim=1)], dim=1)
    grid = nn.functional.affine_grid(matrix, list(grey.shape), align_corners=False)
    turned = nn.functional.grid_sample(grey, grid, padding_mode="reflection", align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)


class Mixer:
    """Erases parts of images and mixes images in pairs, as the settings ask; mixing stops before the last epochs."""

    def __init__(self, settings: FullSettings, *, n_classes: int, device: torch.device) -> None:
        self.last_epoch = max(1, min(MIX_SHARE * settings.epochs, settings.epochs - 1))
        self.mixup, self.erase = None, None
        if settings.mixup or settings.cutmix:
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
    return size - size % 2 if settings.mixup or settings.cutmix else size


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
