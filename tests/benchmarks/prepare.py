"""Measures `prepare`: `python -m tests.benchmarks.prepare [--data DATA] [--size 288]`.

Images a second of the whole command, into a raw store and into one of JPEGs, beside decoding and resizing alone in as
many processes as there are cores, by turns, each in a process of its own that pays for its start; batches read from
both stores; and the processor seconds that the search for copies takes among 100,000 to a million (`--copies-only`
measures nothing else). Neighbours on the machine disturb the clock, so processor time per image stands beside it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
from cyclopts import Parameter
from PIL import Image

from folds.base.workspace import Workspace
from folds.manifest.duplicates import find_copies
from folds.manifest.prepare import prepare
from folds.pixels.store import open_store
from folds.settings import PrepareSettings
from tests.benchmarks.measure import console, cpu_seconds, finish, in_own_process, make_pictures, ranged, show, spread

GOAL, CHUNK = 0.8, 16
COPIES = (100_000, 300_000, 1_000_000)
WAYS = {"alone": "decoding and resizing alone", "raw": "prepare", "jpeg": "prepare to JPEGs"}


def main(
    *,
    data: Annotated[Path | None, Parameter(help="a competition's folder; made-up pictures if none")] = None,
    size: Annotated[int, Parameter(help="side of the store, in pixels")] = 288,
    pictures: Annotated[int, Parameter(help="how many are made up, of 500 x 375 pixels")] = 2048,
    repeats: int = 3,
    copies_only: Annotated[bool, Parameter(help="measure the search for copies alone")] = False,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    figures: dict[str, Any] = {}
    if not copies_only:
        with tempfile.TemporaryDirectory() as temporary:
            if data is None:
                make_pictures(Path(temporary), pictures)
            figures = measure(data or Path(temporary), size, repeats=repeats)
        show_figures(figures)
    figures["copies_seconds"] = seconds_of_copies()
    for name, seconds in figures["copies_seconds"].items():
        console.print(f"copies among {name}: {seconds:.1f} s")
    finish("prepare", figures, keep=record)


def measure(data: Path, size: int, *, repeats: int) -> dict[str, Any]:
    """Rates and processor seconds of all ways, by turns; a first round reads the files into the page cache."""
    where = (str(data.resolve()), str(size))
    turns = [{way: in_own_process("prepare", way, *where) for way in WAYS} for _ in range(repeats + 1)][1:]
    return {
        "size": size,
        "files": turns[0]["raw"]["files"],
        "images_per_second": {way: spread(turn[way]["files"] / turn[way]["seconds"] for turn in turns) for way in WAYS},
        "cpu_seconds_per_image": {way: spread(turn[way]["cpu"] / turn[way]["files"] for turn in turns) for way in WAYS},
        "read_per_second": {way: spread(turn[way]["read_per_second"] for turn in turns) for way in ("raw", "jpeg")},
        "share": spread(turn["alone"]["seconds"] / turn["raw"]["seconds"] for turn in turns),
        "share_of_cpu": spread(turn["alone"]["cpu"] / turn["raw"]["cpu"] for turn in turns),
    }


def alone(data: Path, size: int) -> dict[str, float]:
    """Pillow's decoding and resizing of every file on all cores, and nothing else."""
    paths = [str(path) for path in sorted(data.rglob("*")) if path.is_file() and path.suffix.lower() != ".csv"]
    chunks = [(paths[at : at + CHUNK], size) for at in range(0, len(paths), CHUNK)]
    before, start = cpu_seconds(), time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        done = sum(pool.map(decode_alone, chunks))
    seconds = time.perf_counter() - start
    return {"files": done, "seconds": seconds, "cpu": cpu_seconds() - before}


def decode_alone(task: tuple[list[str], int]) -> int:
    paths, size = task
    for path in paths:
        try:
            Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        except (OSError, ValueError):
            continue
    return len(paths)


def whole(data: Path, size: int, form: Any) -> dict[str, float]:
    """`prepare` from nothing, and all its rows read in batches of 64 in random order."""
    before = cpu_seconds()
    with tempfile.TemporaryDirectory() as work:
        result = prepare(Workspace(Path(work)), data, PrepareSettings(store_size=size, store=form))
        own, store = cpu_seconds() - before, open_store(Workspace(Path(work)))
        n, order = len(store.image_id), np.random.default_rng(0).permutation(len(store.image_id))
        start = time.perf_counter()
        for rows in np.array_split(order, n // 64 + 1):
            store.pixels.read(rows, np.empty((len(rows), *store.pixels.shape[1:]), np.uint8))
        rate = n / (time.perf_counter() - start)
    return {"files": result.decoded, "seconds": result.seconds, "cpu": own + cpu_of_server(), "read_per_second": rate}


def cpu_of_server() -> float:
    """Of the process that the decoding processes are forked from, and of those; it outlives them all."""
    time.sleep(0.2)  # until it has taken note of their end
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)  # type: ignore[attr-defined]
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def seconds_of_copies(sizes: tuple[int, ...] = COPIES) -> dict[str, float]:
    """Processor seconds of the search for copies among made-up hashes: one in 100 is a near copy of another.

    At the least size also with one hash for one in 20: of different pictures, and of blank ones.
    """
    rng = np.random.default_rng(0)
    thumbs = rng.integers(0, 256, size=(4096, 32, 32, 3), dtype=np.uint8)
    blank = np.broadcast_to(rng.integers(0, 256, size=(4096, 1, 1, 1), dtype=np.uint8), thumbs.shape)
    seconds = {}
    for n in sizes:
        hashes, mirrored = rng.integers(0, 2**63, size=(2, n), dtype=np.uint64)
        shown, copies, crowd = np.arange(n), n // 100, n // 20
        shown[:copies] = rng.integers(copies, n, copies)
        crowded = np.where(shown < crowd, hashes[0], hashes)
        hashes[:copies] = hashes[shown[:copies]]
        for _ in range(6):
            hashes[:copies] ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
        look = shown % len(thumbs)
        cases = {"near copies": (hashes, thumbs)}
        if n == min(sizes):
            cases |= {"one hash": (crowded, thumbs), "blank": (crowded, blank)}
        for name, (hashed, pictures) in cases.items():
            start = time.process_time()
            find_copies(np.arange(n).astype(str), hashed, mirrored, partial(_shown, pictures, look), near_bits=6)
            seconds[f"{n:,}, {name}"] = time.process_time() - start
    return seconds


def _shown(pictures: Any, shown: Any, rows: Any) -> Any:
    return pictures[shown[rows]]


def show_figures(figures: dict[str, Any]) -> None:
    rows = []
    for way, name in WAYS.items():
        rate, cpu = figures["images_per_second"][way], figures["cpu_seconds_per_image"][way]
        read = ranged(figures["read_per_second"][way], form=",.0f") if way in figures["read_per_second"] else ""
        rows.append((name, ranged(rate, form=",.0f"), ranged(cpu, scale=1e6, form=",.0f"), read))
    shares = (ranged(figures[name], scale=100, form=".0f") + " %" for name in ("share", "share_of_cpu"))
    title = f"{figures['files']:,} files to {figures['size']} x {figures['size']}, goal: at least {GOAL:.0%}"
    show(title, ("", "images/s", "CPU, us per image", "read again/s"), [*rows, ("prepare reaches", *shares, "")])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        way, where, side = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
        print(json.dumps(alone(where, side) if way == "alone" else whole(where, side, way)))
    else:
        cyclopts.run(main)
