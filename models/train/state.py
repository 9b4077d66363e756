"""Turns all that an epoch hands to the next into named tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.train.stepper import Stepper

NETWORK, AVERAGE, OPTIMISER = "network", "average", "optimiser"  # what the tensors' names begin with


def stepper_state(stepper: Stepper) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of all tensors on the host, contiguous, by name; and what is JSON."""
    tensors = _copies(NETWORK, stepper.network.state_dict())
    if stepper.average is not None:
        tensors |= _copies(AVERAGE, stepper.average.module.state_dict())
    for number, moments in stepper.optimiser.state_dict()["state"].items():
        tensors |= _copies(f"{OPTIMISER}.{number}", moments)
    return tensors, {"scaler": stepper.scaler.state_dict(), "micro_batch": stepper.micro_batch}


def fits(stepper: Stepper, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have the names and shapes of this stepper's network, average and parameters."""
    now, _ = stepper_state(stepper)
    expected = {name: value.shape for name, value in now.items() if not name.startswith(OPTIMISER)}
    found = {name: value.shape for name, value in tensors.items() if not name.startswith(OPTIMISER)}
    shapes = [parameter.shape for parameter in _parameters(stepper)]
    moments = [name.split(".", 2) for name in tensors if name.startswith(OPTIMISER)]
    return expected == found and all(
        int(number) < len(shapes) and tensors[f"{OPTIMISER}.{number}.{key}"].shape in (shapes[int(number)], ())
        for _, number, key in moments
    )


def load_state(stepper: Stepper, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Bring a stepper to a state that fits it; every tensor keeps its device and memory layout."""
    stepper.network.load_state_dict(_part(tensors, NETWORK))
    if stepper.average is not None:
        stepper.average.module.load_state_dict(_part(tensors, AVERAGE))
    stepper.optimiser.state.clear()
    for number, parameter in enumerate(_parameters(stepper)):
        moments = _part(tensors, f"{OPTIMISER}.{number}")
        if moments:
            stepper.optimiser.state[parameter] = {key: _like(parameter, value) for key, value in moments.items()}
    if state["scaler"] and stepper.scaler.is_enabled():
        stepper.scaler.load_state_dict(state["scaler"])
    stepper.micro_batch = state["micro_batch"]


def _copies(prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in state.items()
    }


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    begin = f"{prefix}."
    return {name[len(begin) :]: value for name, value in tensors.items() if name.startswith(begin)}


def _parameters(stepper: Stepper) -> list[Tensor]:
    """The parameters in the order of their numbers in the optimiser's state."""
    return [parameter for group in stepper.optimiser.param_groups for parameter in group["params"]]


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment on the parameter's device and in its memory layout, as fused AdamW takes for granted."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
