"""The optimiser, its schedule and averages, and one step: micro-batches that fit into memory, clipping."""

from __future__ import annotations

import copy
import math

import torch
from timm.models import group_parameters
from timm.optim import auto_group_layers, param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from folds.base.errors import UserError
from models.backbones import head_parameters
from models.device import autocast, is_out_of_memory
from models.input.augment import training_loss
from models.recipes import FullSettings

LOWEST_SHARE = 0.01  # of the peak rate, at the end of each cosine
SMALLEST_MICRO_BATCH = 2  # batch norm cannot train on one image
# On a CPU, where no statistics are of the whole batch. tf_efficientnet_lite0 at 224 pixels, a batch of 64, one thread
# of an AMD EPYC: 12.1, 12.7 and 12.5 images a processor second in parts of 64, 32 and 16, at most 7.0, 4.1 and 2.4 GB.
CPU_MICRO_BATCH = 16


class Stepper:
    """A network, its optimiser, schedule and average. `micro_batch` is halved, for good, where memory is short."""

    def __init__(
        self,
        network: nn.Module,
        settings: FullSettings,
        *,
        lr: float,
        epoch_steps: int,
        batch_size: int,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self.settings, self.device, self.precision = settings, device, precision
        self.peak_lr = lr
        is_split = device.type == "cpu" and settings.batch_norm == "frozen"
        self.micro_batch = min(settings.micro_batch or (CPU_MICRO_BATCH if is_split else batch_size), batch_size)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze_layers(self.network, settings.frozen_share)
        self.optimiser = make_optimiser(self.network, settings, lr=lr)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.schedule = make_schedule(self.optimiser, settings, epoch_steps=epoch_steps)
        window = settings.ema_share * settings.epochs * epoch_steps  # of the average, in steps
        self.average = ModelEmaV3(self.network, decay=1 - 1 / window, use_warmup=True) if window > 1 else None
        self.start = copy.deepcopy(self.network.state_dict()) if settings.start_share else {}
        if settings.compile:
            self.network.compile(dynamic=False)  # in place: names in checkpoints stay as they are

    @property
    def lr(self) -> float:
        """The rate that the schedule has set, before the groups' own scales."""
        group = self.optimiser.param_groups[0]
        return float(group["lr"] / group.get("lr_scale", 1.0))

    @property
    def trained(self) -> nn.Module:
        """The network to predict with: the running average, or the network itself where that is off.

        With `start_share` a copy, so much of the way back to the weights before training (Wortsman et al. 2022).
        """
        network = self.network if self.average is None else self.average.module
        if not self.start:
            return network.eval()
        network = copy.deepcopy(network)
        for name, value in network.state_dict().items():
            if value.is_floating_point():  # and no count of batches
                value.lerp_(self.start[name], self.settings.start_share)
        return network.eval()

    def train_mode(self) -> None:
        """Training mode; the statistics of batch norm stay as they are where the settings or frozen layers say so."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                trains = all(parameter.requires_grad for parameter in module.parameters())
                module.train(trains and self.settings.batch_norm == "train")

    def step(self, number: int, images: Tensor, target: Tensor) -> Tensor:
        """One optimiser step at the schedule's rate; returns the loss (nats), still on the device.

        images  (B, 3, size, size)    target  (B,) int, or (B, C) shares
        """
        self.schedule.step_update(number)
        loss = self.accumulate(images, target)
        self.move()
        if self.average is not None:
            self.average.update(self.network, step=number)
        return loss

    def move(self) -> None:
        """Follow the gradient that `accumulate` left, clipped; float16 steps whose gradient overflows are left out."""
        self.scaler.unscale_(self.optimiser)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def accumulate(self, images: Tensor, target: Tensor) -> Tensor:
        """Leave the gradient of the batch's mean loss, whatever the micro-batch; returns that loss."""
        while True:
            try:
                return self._backward(images, target)
            except RuntimeError as err:
                if not is_out_of_memory(err):
                    raise
            self.optimiser.zero_grad(set_to_none=True)  # outside of `except`, which keeps the tensors alive
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.micro_batch // 2 < SMALLEST_MICRO_BATCH:
                raise UserError(
                    f"out of memory with {self.micro_batch} images of {images.shape[-1]} pixels at a time",
                    hint="a smaller `--image-size` or `--backbone`, or free the device's memory",
                )
            self.micro_batch = min(self.micro_batch, len(images)) // 2

    def _backward(self, images: Tensor, target: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        parts = math.ceil(len(images) / self.micro_batch)
        total = torch.zeros((), device=self.device)
        for seen, wanted in zip(images.tensor_split(parts), target.tensor_split(parts), strict=True):
            with autocast(self.device, self.precision):
                logits = self.network(seen)
            loss = training_loss(logits, wanted, self.settings) * (len(seen) / len(images))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total


def freeze_layers(network: nn.Module, share: float) -> None:
    """Keep the weights of this share of the layers, from the input on: no gradient is computed for them.

    The layers are those of timm's map, as for `layer_decay`; the last of it, which has the head, always trains.
    """
    if hasattr(network, "group_matcher"):
        layers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    else:  # few networks of timm's have none, such as CAFormer
        layers = auto_group_layers(network)
    last = max(layers.values())
    for name, parameter in network.named_parameters():
        if layers.get(name, last) < share * last:
            parameter.requires_grad_(False)


def make_optimiser(network: nn.Module, settings: FullSettings, *, lr: float) -> torch.optim.Optimizer:
    """AdamW whose groups have their own `lr_scale`, by which timm's schedulers multiply the rate.

    timm's map of layers gives the body's scales (BEiT, Bao et al. 2021), `head_lr_scale` the head's; weight decay is
    for matrices and kernels, not for biases and norms.
    """
    heads = head_parameters(network)
    head = {id(parameter) for name, parameter in network.named_parameters() if name in heads}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for layer in param_groups_layer_decay(network, settings.weight_decay, layer_decay=settings.layer_decay):
        for parameter in layer["params"]:
            scale = settings.head_lr_scale if id(parameter) in head else layer["lr_scale"]
            groups.setdefault((scale, layer["weight_decay"]), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "lr_scale": scale, "weight_decay": decay} for (scale, decay), group in groups.items()],
        lr=lr,
        fused=True,  # on a CPU too: 15 ms instead of 79 for resnet18
    )


def make_schedule(optimiser: torch.optim.Optimizer, settings: FullSettings, *, epoch_steps: int) -> CosineLRScheduler:
    """Warm-up, then `cycles` cosines over all steps (Loshchilov and Hutter 2017); call `step_update(step)` before each.

    Each cosine is `cycle_mult` times as long as the one before; one cycle is the plain cosine.
    """
    steps, peak = settings.epochs * epoch_steps, optimiser.param_groups[0]["lr"]
    warmup = min(round(settings.warmup_epochs * epoch_steps), steps // 2)
    lengths = sum(settings.cycle_mult**cycle for cycle in range(settings.cycles))  # in units of the first cycle's
    return CosineLRScheduler(
        optimiser,
        t_initial=(steps - warmup) / lengths,  # timm's arithmetic takes fractions
        cycle_mul=settings.cycle_mult,
        cycle_limit=settings.cycles,
        lr_min=peak * LOWEST_SHARE,
        warmup_t=warmup,
        warmup_lr_init=peak * LOWEST_SHARE,
        warmup_prefix=True,
        t_in_epochs=False,
    )
