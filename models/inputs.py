"""This file makes the network's input from store pixels and boxes, on the device, and chooses device and precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from folds.engine import EngineSettings
from folds.errors import UserError
from models.backbones import Backbone
from models.geometry import resample


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


def set_threads(engine: EngineSettings) -> None:
    """Let torch have the threads that are asked for: what it computes on a CPU depends on their number, bit by bit."""
    if engine.cpus_per_job:
        torch.set_num_threads(engine.cpus_per_job)


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for here, set up for inputs of fixed shapes."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use on this machine", hint="`--device cpu`")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True  # every step has the same shape: let cuDNN pick its fastest kernels once
    torch.backends.cuda.matmul.allow_tf32 = True  # of what stays float32: `resample` then is within two grey levels
    return torch.device("cuda")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that a name stands for; `auto` is bfloat16 where that is fast, else float16 on a GPU, else float32."""
    if name == "auto":
        name = "bf16" if _has_bf16(device) else "fp16" if device.type == "cuda" else "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def _has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is fast here, and not only possible: a CPU without the instructions emulates it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """The autocast context of a precision; none for float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
