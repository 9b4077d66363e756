"""A fold's state after each epoch in one safetensors file, so that a killed fold goes on from there.

What is random in an epoch is a function of (seed, fold, epoch), and the schedule one of the step: parameters, running
average, optimiser, loss scale, micro-batch and the rows of the log are all that an epoch hands to the next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from folds.base.errors import UserError
from folds.base.workspace import digest, write_bytes
from models.runs import log_line, read_log_line
from models.train.stepper import Stepper
from models.watch.events import EpochRow

VERSION = 1
NETWORK, AVERAGE, OPTIMISER = "network", "average", "optimiser"  # what the tensors' names begin with
NO_DIGEST = b"0" * 16  # where the digest will be, while it is computed
KEY = b'"digest":"'  # in the header; inside the state's JSON, which is text there, the quotes would be escaped


class RefusedError(Exception):
    """A checkpoint that must not be used; the text says why, as a clause."""


@dataclass
class Checkpoint:
    """The checkpoint of one fold. `of` is what it belongs to; one of anything else is refused."""

    path: Path
    of: Mapping[str, Any]
    last: float = field(default_factory=time.perf_counter)  # when the state was last on disk, or the job began

    def keep(self, stepper: Stepper, rows: Sequence[EpochRow], *, seconds: float) -> None:
        """Write the state after an epoch."""
        tensors, state = stepper_state(stepper)
        head = {"version": VERSION, "of": self.of, "seconds": seconds, "log": list(map(log_line, rows)), **state}
        data = bytearray(save(tensors, metadata={"digest": NO_DIGEST.decode(), "state": json.dumps(head)}))
        data[_digest_place(data)] = digest(memoryview(data)).encode()
        write_bytes(self.path, data)
        self.last = time.perf_counter()

    def resume(self, stepper: Stepper) -> tuple[list[EpochRow], float]:
        """Bring the stepper to the checkpoint's state: the rows of the epochs that are done, and the job's seconds.

        No rows where there is no checkpoint. Raises RefusedError, and the stepper is as it was, where the file is
        damaged or belongs to something else.
        """
        try:
            data = bytearray(self.path.read_bytes())
        except FileNotFoundError:
            return [], 0.0
        except OSError as err:
            raise RefusedError(f"cannot be read: {err.strerror}") from err
        tensors, head = _unpacked(data)
        if head.get("version") != VERSION or head.get("of") != json.loads(json.dumps(self.of)):
            raise RefusedError("belongs to another fold, run or store")
        if not _fits(stepper, tensors):
            raise RefusedError("holds other parameters than this network has")
        _load_state(stepper, tensors, head)
        self.last = time.perf_counter()
        return list(map(read_log_line, head["log"])), head["seconds"]

    def remove(self) -> None:
        """Remove the file, once the fold is done."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as err:
            raise UserError(f"cannot remove {self.path}: {err.strerror}", hint="remove it by hand") from err


def _unpacked(data: bytearray) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state, once the digest is that of the bytes."""
    try:
        place = _digest_place(data)
        written, data[place] = bytes(data[place]), NO_DIGEST
        if digest(memoryview(data)).encode() != written:
            raise RefusedError("is damaged: checksum mismatch")
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        return load(bytes(data)), json.loads(header["state"])
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as err:
        raise RefusedError("is damaged: it is cut off, or no checkpoint") from err


def _digest_place(data: bytearray) -> slice:
    """Where the digest is among the bytes. Raises ValueError where there is none."""
    at = data.index(KEY) + len(KEY)
    return slice(at, at + len(NO_DIGEST))


def stepper_state(stepper: Stepper) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of all tensors on the host, contiguous, by name; and what is JSON."""
    parts = {NETWORK: stepper.network.state_dict()}
    if stepper.average is not None:
        parts[AVERAGE] = stepper.average.module.state_dict()
    parts |= {f"{OPTIMISER}.{number}": moments for number, moments in stepper.optimiser.state_dict()["state"].items()}
    tensors = {
        f"{prefix}.{name}": value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for prefix, state in parts.items()
        for name, value in state.items()
    }
    return tensors, {"scaler": stepper.scaler.state_dict(), "micro_batch": stepper.micro_batch}


def _fits(stepper: Stepper, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have the names and shapes of this stepper's network, average and parameters."""
    expected, found = (
        {name: value.shape for name, value in one.items() if not name.startswith(OPTIMISER)}
        for one in (stepper_state(stepper)[0], tensors)
    )
    shapes = [parameter.shape for parameter in _parameters(stepper)]
    moments = [name.split(".", 2) for name in tensors if name.startswith(OPTIMISER)]
    return expected == found and all(
        int(number) < len(shapes) and tensors[f"{OPTIMISER}.{number}.{key}"].shape in (shapes[int(number)], ())
        for _, number, key in moments
    )


def _load_state(stepper: Stepper, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
    """Bring a stepper to a state that fits it; every tensor keeps its device and memory layout."""

    def part(prefix: str) -> dict[str, Tensor]:
        names = [name for name in tensors if name.startswith(f"{prefix}.")]
        return {name.removeprefix(f"{prefix}."): tensors[name] for name in names}

    stepper.network.load_state_dict(part(NETWORK))
    if stepper.average is not None:
        stepper.average.module.load_state_dict(part(AVERAGE))
    stepper.optimiser.state.clear()
    for number, parameter in enumerate(_parameters(stepper)):
        if moments := part(f"{OPTIMISER}.{number}"):
            state = stepper.optimiser.state[parameter] = {}
            for key, value in moments.items():
                state[key] = value.to(parameter.device)
                if value.shape == parameter.shape:  # in its memory layout too, as fused AdamW takes for granted
                    state[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
    if head["scaler"] and stepper.scaler.is_enabled():
        stepper.scaler.load_state_dict(head["scaler"])
    stepper.micro_batch = min(stepper.micro_batch, head["micro_batch"])  # memory was short before, or is less now


def _parameters(stepper: Stepper) -> list[Tensor]:
    """The parameters in the order of their numbers in the optimiser's state."""
    return [parameter for group in stepper.optimiser.param_groups for parameter in group["params"]]
