"""Holds what the benchmarks share: costs taken by turns, made-up stores and pictures, the table, the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from folds.pixels.forms import CHANNELS, RawPixels
from folds.pixels.store import PixelStore
from folds.split.assign import Folds

if TYPE_CHECKING:
    import torch  # only at work: it would count in the memory of the blend

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"
PACKAGES = ("numpy", "scipy", "pandas", "optuna", "scikit-learn", "pillow", "torch", "torchvision", "timm")
PIECE = 64  # rows written at a time
console = Console(width=140)


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock, and of all processors: this process with its threads, and its children that have ended."""

    wall: float
    cpu: float


def cost_of(work: Callable[[], Any], device: torch.device | None = None) -> Cost:
    """What one call costs; what it left the device to do is waited for."""
    wait_for(device)
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    wait_for(device)
    return Cost(time.perf_counter() - wall, cpu_seconds() - cpu)


def by_turns(
    works: Mapping[str, Callable[[], Any]], *, repeats: int, device: torch.device | None = None
) -> dict[str, list[Cost]]:
    """Costs of each, taken in rounds, so that a busy neighbour disturbs all alike; a first round is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            cost = cost_of(work, device)
            if turn:
                costs[name].append(cost)
    return costs


def wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "least": ordered[0], "most": ordered[-1]}


def ratios(above: Sequence[Cost], below: Sequence[Cost], *, clock: str = "wall") -> dict[str, float]:
    """The spread of one cost over the other's of the same round."""
    return spread(getattr(a, clock) / getattr(b, clock) for a, b in zip(above, below, strict=True))


def synthetic_store(folder: Path, n: int, size: int, *, sparse: bool = False, seed: int = 0) -> PixelStore:
    """A store of n made-up rows. Sparse: zeros that take no room on the disk, for stores larger than it."""
    path, rng = folder / f"pixels-{size}-{n}.u8", np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.truncate(n * size * size * CHANNELS)
        for start in range(0, 0 if sparse else n, PIECE):
            file.write(rng.bytes(min(PIECE, n - start) * size * size * CHANNELS))
    return PixelStore(
        pixels=RawPixels(path, n, size),
        image_id=np.array([f"{row:07d}" for row in range(n)]),
        split=np.full(n, "train"),
        width=rng.integers(200, 800, n),
        height=rng.integers(200, 800, n),
        size=size,
    )


def synthetic_folds(store: PixelStore, *, n_classes: int, n_folds: int = 5) -> Folds:
    """Folds of every row of a store: classes with a long tail (frequency ~ rank^-0.7), fold = place modulo K."""
    n, share = len(store.image_id), np.arange(1, n_classes + 1) ** -0.7
    target = np.random.default_rng(n).choice(n_classes, size=n, p=share / share.sum())
    target[: min(n, n_classes)] = np.arange(n_classes)[:n]  # no class is empty
    classes = tuple(f"c{number:03d}" for number in range(n_classes))
    return Folds(
        image_id=store.image_id,
        path=store.image_id,
        label=np.array(classes)[target],
        target=target.astype(np.int64),
        fold=np.arange(n) % n_folds,
        group=np.arange(n),
        classes=classes,
        n_folds=n_folds,
        seed=0,
        digest="made-up",
    )


def make_pictures(folder: Path, n: int, *, width: int = 500, height: int = 375, seed: int = 0) -> None:
    """`TrainVal/<0..3>/*.jpg`: soft blotches with some noise, quality 90, about as many bytes as a photograph has."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        blotches = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        noise = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
        path = folder / "TrainVal" / str(number % 4) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((blotches + noise).clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)


def show(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table: names to the left, figures to the right."""
    table = Table(title=title)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def ranged(figures: Mapping[str, float], *, scale: float = 1.0, form: str = ",.1f") -> str:
    """`median (least to most)`."""
    median, least, most = (format(figures[key] * scale, form) for key in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def finish(benchmark: str, figures: Mapping[str, Any], *, keep: bool, seed: int | None = None) -> None:
    """Print the machine's line, and append figures and machine to results.jsonl where they are to be kept."""
    facts = machine()
    console.print(machine_line(facts), soft_wrap=True)
    if keep:
        line = {"benchmark": benchmark, "seed": seed, **facts, "figures": dict(figures)}
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores, memory, accelerator, versions, commit, date and how busy the machine is."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "accelerator": _accelerator(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name)) is not None},
    }


def machine_line(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    accelerator = f", {facts['accelerator']}" if facts["accelerator"] else ""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB{accelerator}, load {facts['load']};"
        f" Python {facts['python']}, {versions}; commit {facts['commit']}, {facts['date']}"
    )


def peak_mb() -> float:
    """The most memory that this process ever held; `getrusage` would tell that of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1000


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """What a command prints, empty where it is not there or fails."""
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _commit() -> str:
    head = _output("git", "rev-parse", "--short=10", "HEAD")
    return (head or "unknown") + ("+changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _accelerator() -> str | None:
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").replace("\n", ", ") or None
