"""This file sets up what moves the parameters: AdamW with a faster head, warm-up and cosine, running average."""

from __future__ import annotations

import torch
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from models.backbones import head_parameters
from models.settings import TrainSettings

LOWEST_SHARE = 0.01  # of the peak rate, at the end of the cosine


def make_optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over four groups: body and head, with weight decay (matrices and kernels) and without (biases, norms).

    timm's schedulers multiply a group's rate by its `lr_scale`.
    """
    head = head_parameters(network)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((name in head, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr_scale": settings.head_lr_scale if is_head else 1.0,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (is_head, decays), parameters in groups.items()
        ],
        lr=settings.lr,
        fused=True,  # on a CPU too: 15 ms instead of 79 for resnet18
    )


def make_schedule(optimiser: torch.optim.Optimizer, settings: TrainSettings, *, epoch_steps: int) -> CosineLRScheduler:
    """Warm-up and one cosine over all steps; call `step_update(step)` before each step."""
    steps = settings.epochs * epoch_steps
    warmup = min(round(settings.warmup_epochs * epoch_steps), steps // 2)
    return CosineLRScheduler(
        optimiser,
        t_initial=steps - warmup,
        lr_min=settings.lr * LOWEST_SHARE,
        warmup_t=warmup,
        warmup_lr_init=settings.lr * LOWEST_SHARE,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def make_average(network: nn.Module, settings: TrainSettings, *, epoch_steps: int) -> ModelEmaV3 | None:
    """The running average of parameters and buffers, whose window fits the number of steps; None if it is off."""
    window = settings.ema_share * settings.epochs * epoch_steps
    return ModelEmaV3(network, decay=1 - 1 / window, use_warmup=True) if window > 1 else None
