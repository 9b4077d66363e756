"""Resamples batches: every crop, zoom and mirror is a box per image, done by two matrix products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.backbones import Backbone


def network_input(pixels: Tensor, boxes: np.ndarray, *, size: int, backbone: Backbone) -> Tensor:
    """The boxes of the pictures as a network wants them: (B, 3, size, size) float32, normalised, channels-last."""
    return normalise(resample(pixels, boxes, size=size, kernel=backbone.kernel), backbone)


def normalise(grey: Tensor, backbone: Backbone) -> Tensor:
    """Grey levels 0..255 (B, 3, h, w) to what the weights' mean and standard deviation make of them."""
    mean = torch.tensor(backbone.mean, device=grey.device).view(3, 1, 1) * 255.0
    std = torch.tensor(backbone.std, device=grey.device).view(3, 1, 1) * 255.0
    return (grey - mean) / std


def resample(
    pixels: Tensor, boxes: np.ndarray, *, size: int, kernel: str = "bilinear", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Cut a box out of each image and resize it to size x size with Pillow's antialiased filter.

    pixels  (B, S, S, 3) uint8 on the device, as the pixel store keeps them
    boxes   (B, 4) float32: left, top, right, bottom as shares of the picture; right < left mirrors
    kernel  "bilinear" or "bicubic"
    dtype   of the two products; bfloat16 is 2.8 times faster on a CPU that has it, and 2 grey levels away at most
    Returns (B, 3, size, size) float32 in grey levels 0..255, channels-last in memory. It equals Pillow's
    `resize(box=...)`, which looks beyond the box's edge as far as the filter reaches, but does not round in between.
    """
    batch, store_size = pixels.shape[:2]
    in_pixels = torch.from_numpy(boxes * np.float32(store_size)).to(pixels.device, non_blocking=True)
    left, top, right, bottom = in_pixels.unbind(1)
    rows = _filter_matrix(top, bottom, size=size, length=store_size, kernel=kernel).to(dtype)  # (B, size, S)
    columns = _filter_matrix(left, right, size=size, length=store_size, kernel=kernel).to(dtype)  # (B, size, S)
    image = pixels.to(dtype).view(batch, store_size, store_size * 3)
    image = torch.bmm(rows, image).view(batch, size, store_size, 3)  # height done
    image = image.transpose(2, 3).reshape(batch, size * 3, store_size)
    image = torch.bmm(image, columns.transpose(1, 2)).view(batch, size, 3, size)  # width done
    return image.permute(0, 2, 1, 3).float().contiguous(memory_format=torch.channels_last)


def _filter_matrix(start: Tensor, end: Tensor, *, size: int, length: int, kernel: str) -> Tensor:
    """(B, size, length): row i holds the weights of the store's pixels in output pixel i; each row sums to 1."""
    reach, curve = _KERNELS[kernel]
    step = ((end - start) / size)[:, None, None]  # (B, 1, 1) store pixels per output pixel, negative when mirrored
    output = torch.arange(size, dtype=start.dtype, device=start.device)[None, :, None]
    store = torch.arange(length, dtype=start.dtype, device=start.device)[None, None, :]
    centre = start[:, None, None] + (output + 0.5) * step  # (B, size, 1)
    width = step.abs().clamp(min=1.0)  # a filter narrower than a pixel would miss pixels
    weights = curve(((store + 0.5 - centre) / width).abs().clamp(max=reach))  # (B, size, length)
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, as in Pillow; x in [0, 2]."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x < 1.0, near, far)


_KERNELS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1.0, lambda x: 1.0 - x),
    "bicubic": (2.0, _cubic),
}
