"""Measures `prepare` on many real JPEG files: `python -m tests.benchmarks.photos [--data DATA]`.

The files are made first: each is two photographs of DATA, cropped, mirrored and laid over each other, so that no two
show the same picture. Every size is prepared in a process of its own, once; memory is that of this process and of the
largest decoding process. Those import the script that was started, this one: hence the imports inside functions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
from cyclopts import Parameter

from folds.settings import COMMA_LIST, StoreForm

CLASSES, WIDTH, HEIGHT, QUALITY = 500, 320, 240, 85
TEST_EVERY = 5  # each fifth file is a test image
BASES = 2000  # photographs that the files are made of
CHUNK = 500


def main(
    *,
    data: Annotated[Path | None, Parameter(help="where photographs lie; made-up pictures if none")] = None,
    files: Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="how many are made")] = ("1000", "10000", "100000"),
    size: Annotated[int, Parameter(help="side of the store, in pixels")] = 224,
    store: StoreForm = "jpeg",
    folder: Annotated[Path | None, Parameter(help="where to make it all; a temporary folder by default")] = None,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    from tests.benchmarks.measure import finish

    made = {}
    for n in files:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            make_photos(Path(temporary) / "data", int(n), bases=find_bases(data, Path(temporary) / "bases"))
            made[n] = in_own_process(Path(temporary), size, store)
    figures = {"size": size, "store": store, "files": made}
    show_figures(figures)
    finish("photos", figures, keep=record)


def find_bases(data: Path | None, folder: Path) -> list[str]:
    """The photographs to make files of, evenly spread over those that are there and whole."""
    if data is None:
        from tests.benchmarks.measure import make_pictures

        make_pictures(folder, 64)
    there = sorted(str(path.resolve()) for path in (data or folder).rglob("*.jpg"))
    return [path for path in there[:: -(-len(there) // BASES)] if is_whole(path)]


def is_whole(path: str) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.convert("RGB")
    except OSError:
        return False
    return True


def make_photos(data: Path, n: int, *, bases: Sequence[str]) -> None:
    """`TrainVal/<class>/<number>.jpg` and `Public/<number>.jpg`, by all cores."""
    from concurrent.futures import ProcessPoolExecutor

    for folder in ["Public", *(f"TrainVal/{number:03d}" for number in range(CLASSES))]:
        (data / folder).mkdir(parents=True)
    tasks = [(str(data), range(at, min(at + CHUNK, n)), bases) for at in range(0, n, CHUNK)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(make_some, tasks):
            pass


def make_some(task: tuple[str, range, Sequence[str]]) -> None:
    from PIL import Image

    data, numbers, bases = task
    for number in numbers:
        rng = np.random.default_rng(number)
        one, other = (a_part(bases[rng.integers(len(bases))], rng) for _ in range(2))
        place = "Public" if number % TEST_EVERY == 0 else f"TrainVal/{rng.integers(CLASSES):03d}"
        mixed = Image.blend(one, other, rng.uniform(0.4, 0.6))
        mixed.save(f"{data}/{place}/{number:07d}.jpg", "JPEG", quality=QUALITY)


def a_part(path: str, rng: np.random.Generator) -> Any:
    """A crop of at least half the width and height, mirrored or not."""
    from PIL import Image

    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    width, height = (round(side * rng.uniform(0.5, 1)) for side in rgb.size)
    left, top = (int(rng.integers(most + 1)) for most in (rgb.width - width, rgb.height - height))
    part = rgb.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def in_own_process(folder: Path, size: int, store: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.photos", "--one", str(folder), str(size), store]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(made.stdout.splitlines()[-1])


def one(folder: Path, size: int, store: StoreForm) -> dict[str, float]:
    """`prepare` from nothing: seconds, those of decoding among them, memory, and what it took for copies."""
    from folds.base.workspace import Workspace
    from folds.manifest.prepare import prepare
    from folds.settings import PrepareSettings
    from tests.benchmarks.record import peak_mb
    from tests.faults.watch import watching_memory

    seconds = {"decode": 0.0}

    def track(items: Iterable[Any], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[Any]:
        start = time.perf_counter()
        yield from items
        seconds[what] = time.perf_counter() - start

    with watching_memory() as seen:
        made = prepare(
            Workspace(folder / "work"), folder / "data", PrepareSettings(store_size=size, store=store), track=track
        )
    return {
        "files": len(made.manifest),
        "seconds": made.seconds,
        "decode_seconds": seconds["decode"],
        "peak_mb": peak_mb(),
        "worker_peak_mb": max(seen.peak.values(), default=0) / 1e6,
        "in_groups": int(made.manifest["group"].duplicated(keep=False).sum()),
        "store_gb": sum(path.stat().st_size for path in (folder / "work" / "folds").glob("pixels-*")) / 1e9,
    }


def show_figures(figures: dict[str, Any]) -> None:
    from tests.benchmarks.measure import show
    from tests.benchmarks.scale import exponent

    rows = [
        (
            f"{made['files']:,}",
            f"{made['seconds']:,.1f}",
            f"{made['files'] / made['seconds']:,.0f}",
            f"{made['seconds'] - made['decode_seconds']:,.1f}",
            f"{made['peak_mb']:,.0f}",
            f"{made['worker_peak_mb']:,.0f}",
            f"{made['in_groups']:,}",
            f"{made['store_gb']:.2f}",
        )
        for made in figures["files"].values()
    ]
    sizes = [made["files"] for made in figures["files"].values()]
    grown = exponent(sizes, [made["seconds"] for made in figures["files"].values()])
    headings = (
        "files",
        "s",
        "images/s",
        "without decoding, s",
        "peak, MB",
        "of a decoder, MB",
        "in groups",
        "store, GB",
    )
    show(f"prepare to {figures['size']} pixels, {figures['store']}: grows as n^{grown:.2f}", headings, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))  # type: ignore[arg-type]
    else:
        cyclopts.run(main)
