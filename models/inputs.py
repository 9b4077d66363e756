"""This file makes the network's input from store pixels and boxes, on the device, and chooses device and precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from folds.errors import UserError
from models.backbones import Backbone
from models.geometry import resample


def network_input(pixels: Tensor, boxes: np.ndarray, *, size: int, backbone: Backbone) -> Tensor:
    """(B, 3, size, size) float32, normalised as the weights want it, channels-last.

    pixels  (B, S, S, 3) uint8 on the device
    boxes   (B, 4) float32: left, top, right, bottom as shares of the picture; right < left mirrors
    """
    on_device = torch.from_numpy(boxes * np.float32(pixels.shape[1])).to(pixels.device, non_blocking=True)
    grey = resample(pixels, on_device, size=size, kernel=backbone.kernel)
    mean = torch.tensor(backbone.mean, device=grey.device).view(3, 1, 1) * 255.0
    std = torch.tensor(backbone.std, device=grey.device).view(3, 1, 1) * 255.0
    return (grey - mean) / std


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use on this machine", hint="`--device cpu`")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 where asked for, or where `auto` finds hardware for it; else float32."""
    if name == "auto":
        return torch.bfloat16 if _has_bf16(device) else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is fast here, and not only possible: a CPU without the instructions emulates it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """The autocast context of a precision; none for float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
