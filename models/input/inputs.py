"""Makes the network's input from store pixels and boxes, on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.backbones import Backbone
from models.input.resample import resample


def network_input(pixels: Tensor, boxes: np.ndarray, *, size: int, backbone: Backbone) -> Tensor:
    """(B, 3, size, size) float32, normalised as the weights want it, channels-last.

    pixels  (B, S, S, 3) uint8 on the device
    boxes   (B, 4) float32: left, top, right, bottom as shares of the picture; right < left mirrors
    """
    return normalise(cut(pixels, boxes, size=size, backbone=backbone), backbone)


def cut(
    pixels: Tensor, boxes: np.ndarray, *, size: int, backbone: Backbone, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The boxes of the pictures as (B, 3, size, size) float32 in grey levels, with the weights' own filter."""
    on_device = torch.from_numpy(boxes * np.float32(pixels.shape[1])).to(pixels.device, non_blocking=True)
    return resample(pixels, on_device, size=size, kernel=backbone.kernel, dtype=dtype)


def normalise(grey: Tensor, backbone: Backbone) -> Tensor:
    """Grey levels 0..255 (B, 3, h, w) to what the weights' mean and standard deviation make of them."""
    mean = torch.tensor(backbone.mean, device=grey.device).view(3, 1, 1) * 255.0
    std = torch.tensor(backbone.std, device=grey.device).view(3, 1, 1) * 255.0
    return (grey - mean) / std
