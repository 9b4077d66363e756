"""What `--precision auto` is on a CPU: float32 or bfloat16, measured once for each machine, network and size."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from folds.base.errors import CannotWriteError
from folds.base.workspace import write_bytes
from models.backbones import Backbone, build_network
from models.device import PRECISIONS, autocast, choose_precision, has_bf16

Way = Literal["train", "forward"]  # forward and backward pass, or the forward pass alone
IMAGES, STEPS = 16, 2  # of each measurement, after one step that warms up
CLEARLY = 0.85  # of float32's time is what bfloat16 may take to be chosen: less than that is within the noise


def run_precision(
    name: str, device: torch.device, backbone: Backbone, *, size: int, way: Way, before: Mapping[str, str]
) -> torch.dtype:
    """The precision of a run: as set; else on a CPU what the run was begun with, or what is measured to be faster.

    before  what the run's settings.json records, by way: `fp32` or `bf16`
    """
    if name != "auto" or device.type != "cpu":
        return choose_precision(name, device)
    if way in before:
        return choose_precision(before[way], device)
    if not has_bf16(device):
        return torch.float32
    return choose_precision(_kept_choice(backbone, size=size, way=way), device)


def short_name(precision: torch.dtype) -> str:
    """What `--precision` calls a type."""
    return next(name for name, one in PRECISIONS.items() if one == precision)


def faster(seconds: Mapping[str, float]) -> str:
    """`bf16` where its seconds are clearly fewer than those of `fp32`, else `fp32`."""
    return "bf16" if seconds["bf16"] < CLEARLY * seconds["fp32"] else "fp32"


def _kept_choice(backbone: Backbone, *, size: int, way: Way) -> str:
    """The choice that this machine made before, else a new one, which is kept if that is possible."""
    threads, version = torch.get_num_threads(), torch.__version__
    key = f"{_cpu()}; {threads} threads; torch {version}; {backbone.tag}; {size} px; {way}"
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foldblend" / "precision.json"
    if (kept := _read(path).get(key)) in ("fp32", "bf16"):
        return str(kept)
    choice = faster(_measure(backbone, size=size, way=way))
    known = _read(path)
    if known.get(key) in ("fp32", "bf16"):  # another process has measured meanwhile
        return str(known[key])
    with suppress(CannotWriteError):
        write_bytes(path, (json.dumps({**known, key: choice}, indent=2, sort_keys=True) + "\n").encode())
    return choice


def _read(path: Path) -> dict[str, Any]:
    """What is kept; empty where the file is absent or damaged: then it is measured again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _cpu() -> str:
    """The CPU's model name; Python knows it on some systems only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def _measure(backbone: Backbone, *, size: int, way: Way) -> dict[str, float]:
    """Seconds of a step in each precision, the shortest of some that alternate; no random number is drawn by it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(backbone, 16, size=size).to(memory_format=torch.channels_last)
        images = torch.randn(IMAGES, 3, size, size).contiguous(memory_format=torch.channels_last)
        network.train(way == "train")
        taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
        for _ in range(1 + STEPS):
            for name, seconds in taken.items():
                began = time.perf_counter()
                with torch.set_grad_enabled(way == "train"):
                    with autocast(images.device, PRECISIONS[name]):
                        answer = network(images)
                    if way == "train":
                        answer.float().square().mean().backward()
                        network.zero_grad(set_to_none=True)
                seconds.append(time.perf_counter() - began)
    return {name: min(seconds[1:]) for name, seconds in taken.items()}
