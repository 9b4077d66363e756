"""Measures how the whole way grows: `python -m tests.benchmarks.scale [--rows 10000,100000,1000000]`.

Every step runs in a process of its own on the same made-up work folder (`tests.benchmarks.million`), once, with its
seconds by the clock (without imports) and of the processor, what it read from the disk and not from the page cache,
and the most memory that it ever held. The exponent is that of a power law: 1 is linear.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cyclopts
import numpy as np
from cyclopts import Parameter

from folds.base.workspace import Workspace
from folds.settings import COMMA_LIST
from tests.benchmarks.record import peak_mb
from tests.benchmarks.synthetic import World

FREE_GIB = 20  # of the disk, which are left to others
MEMORY_GIB = 24
STEPS = ("make_images", "split", "epoch_start", "make_members", "blend", "submit")


def main(
    *,
    rows: Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="numbers of training images")] = (
        "10000",
        "100000",
        "1000000",
    ),
    classes: int = 500,
    members: int = 12,
    test_share: Annotated[float, Parameter(help="test images for each training image")] = 0.25,
    folder: Annotated[Path | None, Parameter(help="where to make it all; a temporary folder by default")] = None,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    from tests.benchmarks.measure import finish

    made = {}
    for n in map(int, rows):
        world = World(n, round(test_share * n), classes)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made[str(n)] = measure(Path(temporary), world, members=members)
    figures = {"classes": classes, "members": members, "test_share": test_share, "rows": made}
    show_figures(figures)
    finish("scale", figures, keep=record)


def measure(folder: Path, world: World, *, members: int) -> dict[str, dict[str, float]]:
    """Every step in its order, each in a process of its own, and a line for each."""
    refuse_small_disk(folder, world, members=members)
    made = {}
    for step in STEPS:
        made[step] = in_own_process(step, folder, world, members=members)
        print(f"{world.n:,} {step}: {made[step]['seconds']:,.1f} s, {made[step]['peak_mb']:,.0f} MB", flush=True)
    return made


def refuse_small_disk(folder: Path, world: World, *, members: int) -> None:
    """Predictions in float32, and everything with a row per image."""
    needed = (world.n + world.n_test) * (members * world.n_classes * 4 + 1000) / 2**30
    free = shutil.disk_usage(folder).free / 2**30
    if needed + FREE_GIB > free:
        raise SystemExit(
            f"{world.n:,} images x {world.n_classes} classes x {members} members take {needed:.0f} GiB, and of"
            f" {free:.0f} free ones {FREE_GIB} are left to others: fewer `--members`, a smaller `--test-share`"
        )


def in_own_process(step: str, folder: Path, world: World, *, members: int) -> dict[str, float]:
    case = json.dumps([step, str(folder), world.n, world.n_test, world.n_classes, members])
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--one", case]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(made.stdout.splitlines()[-1])


def one(step: str, folder: str, n: int, n_test: int, n_classes: int, members: int) -> dict[str, float]:
    """One step with its seconds and its peak, MB, and what it says of itself."""
    work = in_steps(Workspace(Path(folder)), World(n, n_test, n_classes), members)[step]
    imported, start, cpu, read = peak_mb(), time.perf_counter(), time.process_time(), gb_from_disk()
    more = work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "gb_from_disk": gb_from_disk() - read,
        "peak_mb": peak_mb(),
        "imports_mb": imported,
        **(more or {}),
    }


def gb_from_disk() -> float:
    """What this process has read so far that was not in the page cache."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines())
    return int(lines["read_bytes"]) / 1e9


def in_steps(workspace: Workspace, world: World, members: int) -> Mapping[str, Callable[[], dict[str, float] | None]]:
    """Every step, with its imports done."""
    import optuna  # noqa: F401
    import torch

    from ensemble.blend.make_blend import make_blend
    from ensemble.settings import BlendSettings
    from folds.pixels.store import open_store
    from folds.settings import SplitSettings
    from folds.split.assign import load_folds, split
    from models.input.batches import gather_batches
    from models.recipes import full_settings
    from models.settings import TrainSettings
    from models.train.trainer import FoldData
    from submissions.settings import SubmitSettings
    from submissions.write import write_submission
    from tests.benchmarks.million import make_members, make_store

    def epoch_start() -> dict[str, float]:
        """From the files to the first batch of an epoch; `plan_seconds` are those of every later epoch."""
        start = time.perf_counter()
        folds, store = load_folds(workspace), open_store(workspace)
        opened = time.perf_counter()
        n, asked = len(folds.image_id), TrainSettings(sampling_power=0.5)
        settings = full_settings(asked, tag="resnet50.a1_in1k", has_weights=True, n_train=n)
        data = FoldData(folds, store, fold=0, settings=settings, seed=0)
        planned = time.perf_counter()
        rows = data.epoch(0).rows
        batches = [rows[at : at + data.batch_size] for at in range(0, len(rows), data.batch_size)]
        next(gather_batches(store.pixels, batches, torch.device("cpu")))
        return {
            "open_seconds": opened - start,
            "fold_seconds": planned - opened,
            "plan_seconds": time.perf_counter() - planned,
        }

    def blend() -> dict[str, float]:
        made = make_blend(workspace, BlendSettings(), seed=0)
        return {"crossfit": made.kept.crossfit, "undecided": made.undecided or 0.0}

    return {
        "make_images": lambda: make_store(workspace, world),
        "split": lambda: split(workspace, SplitSettings(), seed=0) and None,
        "epoch_start": epoch_start,
        "make_members": lambda: make_members(workspace, world, members=members),
        "blend": blend,
        "submit": lambda: {"rows": write_submission(workspace, SubmitSettings()).rows},
    }


def exponent(rows: Sequence[int], seconds: Sequence[float]) -> float:
    """The e for which seconds grow as rows^e, by least squares of the logarithms; NaN for a single size."""
    if len(rows) < 2:
        return math.nan
    return float(np.polyfit(np.log(rows), np.log(np.maximum(seconds, 1e-6)), 1)[0])


def show_figures(figures: Mapping[str, Any]) -> None:
    """Seconds at each size, the exponents of clock and processor, what the last size read from the disk, the peaks."""
    from tests.benchmarks.measure import console, show

    sizes = list(map(int, figures["rows"]))
    rows = []
    for step in STEPS:
        made = [figures["rows"][str(n)][step] for n in sizes]
        exponents = (exponent(sizes, [one[clock] for one in made]) for clock in ("seconds", "cpu_seconds"))
        cells = (f"{one['seconds']:,.2f}" for one in made)
        peaks = (f"{one['peak_mb']:,.0f}" for one in made)
        rows.append((step, *cells, *(f"{one:.2f}" for one in exponents), f"{made[-1]['gb_from_disk']:,.0f}", *peaks))
    headings = ("step", *(f"{n:,}, s" for n in sizes), "n^", "CPU n^", "disk, GB", *(f"{n:,}, MB" for n in sizes))
    title = f"{figures['classes']} classes, {figures['members']} members, {figures['test_share']} test images"
    show(title, headings, rows)
    peak = max(one["peak_mb"] for made in figures["rows"].values() for one in made.values())
    console.print(f"the most memory of a step: {peak / 1024:.1f} GiB, goal {MEMORY_GIB} GiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(*json.loads(sys.argv[2]))))
    else:
        cyclopts.run(main)
