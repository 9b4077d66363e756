"""Keeps a fold's state after an epoch, so that a killed fold goes on from there: one safetensors file.

What is random in an epoch is a function of (seed, fold, epoch), and the schedule one of the step: parameters, running
average, optimiser, loss scale, micro-batch and the rows of the log are all that an epoch hands to the next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from folds.base.errors import UserError
from folds.base.workspace import digest, write_bytes
from models.train.log import log_line, read_log_line
from models.train.state import fits, load_state, stepper_state
from models.train.stepper import Stepper
from models.watch.events import EpochRow

VERSION = 1
NO_DIGEST = b"0" * 16  # stands in the digest's place while that is computed
PLACE = b'"digest":"'  # in the header; inside the state's JSON, which is text there, the quotes would be escaped


@dataclass(frozen=True)
class Resumed:
    """What a checkpoint hands over: the rows of the epochs that are done, and the seconds that the job had taken."""

    rows: tuple[EpochRow, ...] = ()
    seconds: float = 0.0


class RefusedError(Exception):
    """A checkpoint that must not be used; the text says why, as a clause."""


@dataclass
class Checkpoints:
    """The checkpoint of one fold. `of` is what it belongs to; one of anything else is refused.

    share  of the time since the last one that writing it may take; 1 keeps every epoch
    """

    path: Path
    of: Mapping[str, Any]
    share: float
    cost: float = 0.0  # seconds that the last one took
    last: float = field(default_factory=time.perf_counter)

    def keep(self, stepper: Stepper, rows: list[EpochRow], *, seconds: float, is_last: bool) -> bool:
        """Write the state after an epoch, unless the last writing took too long to do it again so soon."""
        began = time.perf_counter()
        if not is_last and self.share < 1 and self.cost > self.share * (began - self.last):
            return False
        tensors, state = stepper_state(stepper)
        said = {"version": VERSION, "of": self.of, "seconds": seconds, "log": list(map(log_line, rows)), **state}
        write_bytes(self.path, _packed(tensors, json.dumps(said)))
        self.last = time.perf_counter()
        self.cost = self.last - began
        return True

    def resume(self, stepper: Stepper) -> Resumed | None:
        """Bring the stepper to the checkpoint's state; None where there is no checkpoint.

        Raises RefusedError, and the stepper is as it was, where the file is damaged or belongs to something else.
        """
        try:
            data = bytearray(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as err:
            raise RefusedError(f"cannot be read: {err.strerror}") from err
        tensors, said = _unpacked(data)
        if said.get("version") != VERSION or said.get("of") != json.loads(json.dumps(self.of)):
            raise RefusedError("belongs to another fold, run or store")
        if not fits(stepper, tensors):
            raise RefusedError("holds other parameters than this network has")
        load_state(stepper, tensors, said)
        self.last = time.perf_counter()
        return Resumed(tuple(map(read_log_line, said["log"])), said["seconds"])

    def remove(self) -> None:
        """Remove the file, once the fold is done."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as err:
            raise UserError(f"cannot remove {self.path}: {err.strerror}", hint="remove it by hand") from err


def _packed(tensors: Mapping[str, Tensor], said: str) -> bytearray:
    """Safetensors with the state as JSON among its metadata, and the digest of everything."""
    data = bytearray(save(dict(tensors), metadata={"digest": NO_DIGEST.decode(), "state": said}))
    place = _digest_place(data)
    data[place] = digest(memoryview(data)).encode()
    return data


def _unpacked(data: bytearray) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state, once the digest is that of the bytes."""
    try:
        place = _digest_place(data)
        written, data[place] = bytes(data[place]), NO_DIGEST
        if digest(memoryview(data)).encode() != written:
            raise RefusedError("is damaged, its bytes are not those that were written")
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        return load(bytes(data)), json.loads(header["state"])
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as err:
        raise RefusedError("is damaged, it is cut off or no checkpoint") from err


def _digest_place(data: bytearray) -> slice:
    """Where the digest stands. Raises ValueError where there is none."""
    at = data.index(PLACE) + len(PLACE)
    return slice(at, at + len(NO_DIGEST))
