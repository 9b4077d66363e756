"""Measures how the whole way grows: `python -m tests.benchmarks.scale [--rows 10000,100000,1000000]`.

Every step runs in a process of its own on the same made-up work folder, once, with its seconds by the clock (without
imports) and of the processor, what it read from the disk and not from the page cache, and the most memory that it ever
held. The exponent is that of a power law: 1 is linear. In the folder, what is read by its name or its shape is real
(manifest, folds, predictions, all checks and digests); the pixels are zeros that take no room on the disk. One training
image in fifty has a near duplicate. The test predictions of a run's folds are one file under five names.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import pandas as pd
from cyclopts import Parameter

from folds.base.workspace import Workspace
from folds.manifest.manifest import COLUMNS, USABLE, write_manifest
from folds.pixels.forms import CHANNELS
from folds.pixels.store import store_path, write_head
from folds.settings import COMMA_LIST
from folds.split.assign import load_folds
from tests.benchmarks.measure import console, finish, in_own_process, peak_mb, show
from tests.synthetic import World, member_log_probs, write_member

ROWS = ("10000", "100000", "1000000")
FREE_GIB = 20  # of the disk, which are left to others
MEMORY_GIB = 24
STEPS = ("make_images", "split", "epoch_start", "make_members", "blend", "submit")


def main(
    *,
    rows: Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="numbers of training images")] = ROWS,
    classes: int = 500,
    members: int = 12,
    test_share: Annotated[float, Parameter(help="test images for each training image")] = 0.25,
    folder: Annotated[Path | None, Parameter(help="where to make it all; a temporary folder by default")] = None,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
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
        case = json.dumps([step, str(folder), world.n, world.n_test, world.n_classes, members])
        made[step] = in_own_process("scale", case)
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

    def epoch_start() -> dict[str, float]:
        """From the files to the first batch of an epoch; `plan_seconds` are those of every later epoch."""
        start = time.perf_counter()
        folds, store = load_folds(workspace), open_store(workspace)
        opened = time.perf_counter()
        n, asked = len(folds.image_id), TrainSettings(sampling_power=0.5)
        settings = full_settings(asked, tag="resnet50.a1_in1k", has_weights=True, n_train=n)
        data = FoldData(folds, store, fold=0, settings=settings, seed=0)
        planned = time.perf_counter()
        rows = data.epoch(0)[0]
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


SIZE = 288
IMAGES_PER_COPY = 50


def make_store(workspace: Workspace, world: World) -> None:
    """The manifest of all images, and a store of zeros that fits it, as `prepare` leaves them."""
    table = pd.concat([_rows(world, part) for part in (0, 1)], ignore_index=True)
    table["group"] = _groups(world)
    table = table[list(COLUMNS)]
    write_manifest(workspace, table)
    with open(store_path(workspace, SIZE, "raw"), "wb") as file:
        file.truncate(len(table) * SIZE * SIZE * CHANNELS)
    write_head(workspace, table, size=SIZE, form="raw", more={})


def _rows(world: World, part: int) -> pd.DataFrame:
    """The training (0) or test (1) images, sorted by id."""
    n, rng = (world.n, world.n_test)[part], np.random.default_rng([world.seed, 6, part])
    labels = np.array([f"c{number:03d}" for number in range(world.n_classes)])[world.targets(part)]
    names = [f"{number:07d}" for number in range(n)]
    ids = [f"{label}/{name}.jpg" for label, name in zip(labels, names, strict=True)] if part == 0 else names
    table = pd.DataFrame(
        {
            "image_id": ids,
            "path": [f"TrainVal/{one}" for one in ids] if part == 0 else [f"Public/{one}.jpg" for one in ids],
            "split": ("train", "test")[part],
            "label": labels if part == 0 else "",
            "status": USABLE,
            "reasons": "",
            "format": "JPEG",
            "mode": "RGB",
            "width": rng.integers(200, 1000, n),
            "height": rng.integers(200, 1000, n),
            "bytes": rng.integers(10_000, 200_000, n),
            "digest": [f"{one:016x}" for one in rng.integers(0, 2**63, n).tolist()],
        }
    )
    return table.sort_values("image_id", ignore_index=True)


def _groups(world: World) -> np.ndarray:
    """Every image is its own group, but for a fiftieth of the training images, each with a copy."""
    group = np.arange(world.n + world.n_test)
    twins = np.random.default_rng([world.seed, 7]).permutation(world.n)[: 2 * (world.n // IMAGES_PER_COPY)]
    group[twins[::2]] = group[twins[1::2]]
    return np.unique(group, return_inverse=True)[1]


def make_members(workspace: Workspace, world: World, *, members: int) -> None:
    """Finished runs m00, m01, .. with the predictions of all folds; one of them is in memory at a time."""
    folds = load_folds(workspace)
    test_target = world.targets(1)
    for member in range(members):
        oof = member_log_probs(world, folds.target, part=0, member=member)
        test = member_log_probs(world, test_target, part=1, member=member)
        name = f"m{member:02d}"
        write_member(workspace, world, folds, name, oof, test)
        first, *others = (workspace.fold(name, fold) / "test.npz" for fold in range(folds.n_folds))
        for path in others:
            path.unlink()
            os.link(first, path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(*json.loads(sys.argv[2]))))
    else:
        cyclopts.run(main)
