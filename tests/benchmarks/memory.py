"""Measures memory against the number of images: `python -m tests.benchmarks.memory`.

A fold is planned and an epoch of batches streamed from a sparse made-up store (zeros, no room on the disk) of 10,000
and of 1,000,000 rows, each in a process of its own. Resident memory that is a file's (the mapped store in the page
cache, which the system takes back when it needs it) is told apart from the process's own; that may grow by the arrays
with one entry per image, and by nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
from cyclopts import Parameter

from models.device import choose_device
from models.input.batches import gather_batches
from models.input.fold_data import FoldData
from models.recipes import full_settings
from models.settings import TrainSettings
from tests.benchmarks.measure import finish, show, synthetic_folds, synthetic_store

POLL_SECONDS = 0.002
CLASSES = 103


def main(
    *,
    rows: Annotated[tuple[int, ...], Parameter(help="sizes of the store", negative=())] = (10_000, 1_000_000),
    size: Annotated[int, Parameter(help="side of the store; small, since what was read stays in the page cache")] = 32,
    batch: int = 64,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    figures = {"size": size, "batch": batch, "rows": {str(n): in_own_process(n, size=size, batch=batch) for n in rows}}
    show_figures(figures)
    finish("memory", figures, keep=record)


def in_own_process(n: int, *, size: int, batch: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", str(n), str(size), str(batch)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(made.stdout.splitlines()[-1])


def one(n: int, size: int, batch: int) -> dict[str, float]:
    """Peaks (MB above what the imports left) and seconds of planning an epoch and of streaming it."""
    device = choose_device("auto")
    imported = own_mb()
    with tempfile.TemporaryDirectory() as temporary:
        store = synthetic_store(Path(temporary), n, size, sparse=True)
        folds = synthetic_folds(store, n_classes=CLASSES)
        settings = TrainSettings(batch_size=batch)
        opened = own_mb()
        (data, epoch), planning = watched(lambda: plan(folds, store, settings))
        planned = own_mb()
        batches = np.split(epoch.rows, data.epoch_steps)
        _, streaming = watched(lambda: stream(store.pixels, batches, device))
        status = memory()
    return {
        "imports_mb": imported,
        "index_mb": opened - imported,
        "index_arrays_mb": (nbytes(store) + nbytes(folds)) / 1e6,
        "plan_peak_mb": planning["peak_mb"] - opened,
        "plan_kept_mb": planned - opened,
        "plan_seconds": planning["seconds"],
        "stream_peak_mb": streaming["peak_mb"] - planned,
        "stream_seconds": streaming["seconds"],
        "peak_own_mb": max(planning["peak_mb"], streaming["peak_mb"]),
        "peak_with_files_mb": status["VmHWM"],
        "store_mb": store.pixels.nbytes / 1e6,
    }


def plan(folds: Any, store: Any, settings: TrainSettings) -> tuple[FoldData, Any]:
    full = full_settings(settings, tag="resnet50.a1_in1k", has_weights=True, n_train=len(folds.image_id))
    data = FoldData(folds, store, fold=0, settings=full, seed=0)
    return data, data.epoch(0)


def stream(pixels: np.ndarray, batches: list[np.ndarray], device: Any) -> None:
    for _ in gather_batches(pixels, batches, device):
        pass


def nbytes(holder: Any) -> int:
    """Bytes of a dataclass's arrays, without the mapped one."""
    values = [getattr(holder, field.name) for field in fields(holder)]
    return sum(v.nbytes for v in values if isinstance(v, np.ndarray) and not isinstance(v, np.memmap))


def watched(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result, the seconds, and the most memory of its own that the process had meanwhile."""
    start = time.perf_counter()
    with watching() as peak:
        result = work()
    return result, {"seconds": time.perf_counter() - start, "peak_mb": peak[0]}


@contextmanager
def watching() -> Iterator[list[float]]:
    peak, over = [own_mb()], threading.Event()

    def poll() -> None:
        while not over.wait(POLL_SECONDS):
            peak[0] = max(peak[0], own_mb())

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak[0] = max(peak[0], own_mb())


def own_mb() -> float:
    return memory()["RssAnon"]


def memory() -> dict[str, float]:
    """MB by the kernel's names: RssAnon is the process's own, RssFile mapped files, VmHWM the most of all together."""
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 / 1e6 for line in lines if line[-1] == "kB"}


def show_figures(figures: dict[str, Any]) -> None:
    names = {
        "store_mb": "store on disk, MB",
        "index_arrays_mb": "arrays of ids, sizes, folds, MB",
        "plan_peak_mb": "planning an epoch, peak above that, MB",
        "plan_kept_mb": "of which is kept, MB",
        "plan_seconds": "planning, s",
        "stream_peak_mb": "streaming the epoch, peak above that, MB",
        "stream_seconds": "streaming, s",
        "peak_own_mb": "peak of own memory, imports and all, MB",
        "peak_with_files_mb": "with pages of the store in the page cache, MB",
    }
    made = figures["rows"].values()
    rows = [(label, *(f"{one[name]:,.2f}" for one in made)) for name, label in names.items()]
    show(f"host memory, store of {figures['size']} pixels", ("rows", *(f"{int(n):,}" for n in figures["rows"])), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(*map(int, sys.argv[2:]))))
    else:
        cyclopts.run(main)
