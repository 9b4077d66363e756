"""Holds what the benchmarks share: seconds taken by turns, made-up stores and pictures, the table, the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from folds.pixels.forms import CHANNELS, RawPixels
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from tests.synthetic import World

if TYPE_CHECKING:
    import torch  # only at work: it would count in the memory of the blend

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"
PACKAGES = ("numpy", "scipy", "pandas", "optuna", "scikit-learn", "pillow", "torch", "torchvision", "timm")
PIECE = 64  # rows written at a time
console = Console(width=140)


def by_turns(
    works: Mapping[str, Callable[[], Any]], *, repeats: int, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Seconds of each, taken in rounds, so that a busy neighbour disturbs all alike; a first round is not counted.

    What was left to the device is waited for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            wait_for(device)
            start = time.perf_counter()
            work()
            wait_for(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: taken[1:] for name, taken in seconds.items()}


def wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def in_own_process(benchmark: str, *words: str) -> dict[str, Any]:
    """What a benchmark answers to `--one` and these words: its last line, as JSON."""
    command = [sys.executable, "-m", f"tests.benchmarks.{benchmark}", "--one", *words]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parents[1])
    return json.loads(made.stdout.splitlines()[-1])


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "least": ordered[0], "most": ordered[-1]}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The spread of one's seconds over the other's of the same round."""
    return spread(a / b for a, b in zip(above, below, strict=True))


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
    """Folds of every row of a store: classes with a long tail, as in `World`, and fold = place modulo K."""
    n = len(store.image_id)
    target = World(n, 0, n_classes).targets(0)
    classes = tuple(f"c{number:03d}" for number in range(n_classes))
    return Folds(
        image_id=store.image_id,
        path=store.image_id,
        label=np.array(classes)[target],
        target=target,
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


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerator, versions, commit, date and how busy the machine is."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _output("grep", "-m1", "model name", "/proc/cpuinfo").partition(": ")[2] or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "accelerator": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").replace("\n", ", ") or None,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
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


def _output(*command: str) -> str:
    """What a command prints, empty where it is not there or fails."""
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _commit() -> str:
    head = _output("git", "rev-parse", "--short=10", "HEAD")
    return (head or "unknown") + ("+changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else "")
