"""Compares the forms of the pixel store: `python -m tests.benchmarks.store [--data DATA] [--sizes 224,288]`.

Bytes and images a second of both, by turns: `prepare` as a whole, and batches in random order on the device, with one
and with two threads. Beside it what other qualities of JPEG would cost, with the ratio of signal to noise (PSNR, the
mean over pictures) against raw pixels. Every decoding process imports the script that was started, this one: hence the
imports inside functions.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
from cyclopts import Parameter

from folds.settings import COMMA_LIST

FORMS = ("raw", "jpeg")
QUALITIES = tuple((quality, colours) for quality in (90, 95, 98) for colours in ("4:2:0", "4:4:4"))
THREADS = (1, 2)
MOST_ENCODED = 500  # pictures that are encoded in each quality


def main(
    *,
    data: Annotated[Path | None, Parameter(help="a competition's folder; made-up pictures if none")] = None,
    sizes: Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="sides of the store, in pixels")] = ("224", "288"),
    pictures: Annotated[int, Parameter(help="how many are made up, of 500 x 375 pixels")] = 2048,
    batch: int = 64,
    repeats: int = 3,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the tables, and append the figures to results.jsonl."""
    from tests.benchmarks.measure import finish, make_pictures

    with tempfile.TemporaryDirectory() as temporary:
        folder = data or Path(temporary) / "data"
        if data is None:
            make_pictures(folder, pictures)
        made = {
            size: measure(folder, Path(temporary) / size, int(size), batch=batch, repeats=repeats) for size in sizes
        }
    figures = {"pictures": "made up" if data is None else data.name, "batch": batch, "sizes": made}
    show_figures(figures)
    finish("store", figures, keep=record)


def measure(data: Path, folder: Path, size: int, *, batch: int, repeats: int) -> dict[str, Any]:
    """What each form costs at one size, and what each quality would."""
    from folds.base.workspace import Workspace
    from folds.pixels.store import open_store
    from tests.benchmarks.measure import by_turns, spread

    works = {form: Workspace(folder / form) for form in FORMS}
    seconds = [{form: prepared(works[form], data, form, size) for form in FORMS} for _ in range(repeats + 1)][1:]
    stores = {form: open_store(work) for form, work in works.items()}
    n = len(stores["raw"].image_id)
    batches = np.random.default_rng(0).permutation(n)[: n // batch * batch].reshape(-1, batch)
    ways: dict[str, Callable[[], None]] = {"raw": lambda: stream(stores["raw"].pixels, batches, threads=1)}
    for threads in THREADS:
        ways[f"jpeg, {threads}"] = lambda threads=threads: stream(stores["jpeg"].pixels, batches, threads=threads)
    costs = by_turns(ways, repeats=repeats)
    return {
        "images": n,
        "bytes_per_image": {form: store.pixels.nbytes / n for form, store in stores.items()},
        "prepare_images_per_second": {form: spread(n / one[form] for one in seconds) for form in FORMS},
        "batches_images_per_second": {way: spread(batches.size / cost.wall for cost in costs[way]) for way in ways},
        "batches_cpu_seconds_per_image": {way: spread(cost.cpu / batches.size for cost in costs[way]) for way in ways},
        "qualities": measure_qualities([stores["raw"].pixels[row] for row in range(0, n, -(-n // MOST_ENCODED))]),
    }


def prepared(work: Any, data: Path, form: str, size: int) -> float:
    """Seconds of `prepare` from nothing."""
    import shutil

    from folds.manifest.prepare import prepare
    from folds.settings import PrepareSettings

    shutil.rmtree(work.root, ignore_errors=True)
    return prepare(work, data, PrepareSettings(store_size=size, store=form)).seconds


def stream(pixels: Any, batches: np.ndarray, *, threads: int) -> None:
    """All batches, brought to the device; raw pixels are gathered in one thread whatever is said here."""
    import torch

    from models.input.batches import gather_batches

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for _ in gather_batches(pixels, list(batches), torch.device("cpu")):
        pass
    torch.set_num_threads(before)


def measure_qualities(pictures: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Bytes per image, PSNR (dB) and seconds to encode one, of each quality."""
    from PIL import Image

    made = {}
    for quality, colours in QUALITIES:
        jpegs, start = [], time.perf_counter()
        for picture in pictures:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=colours)
            jpegs.append(buffer.getvalue())
        seconds = (time.perf_counter() - start) / len(pictures)
        decibels = [
            psnr(np.asarray(Image.open(io.BytesIO(jpeg))), picture)
            for jpeg, picture in zip(jpegs, pictures, strict=True)
        ]
        made[f"{quality}, {colours}"] = {
            "bytes": float(np.mean([len(jpeg) for jpeg in jpegs])),
            "psnr": float(np.mean(decibels)),
            "encode_seconds": seconds,
        }
    return made


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal over noise in dB; of equal pictures that of an error of a tenth of a level."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 0.01)))


def show_figures(figures: dict[str, Any]) -> None:
    from tests.benchmarks.measure import ranged, show

    for size, made in figures["sizes"].items():
        rows = []
        for way, rate in made["batches_images_per_second"].items():
            form = way.partition(",")[0]
            n_bytes = made["bytes_per_image"][form]
            cpu = ranged(made["batches_cpu_seconds_per_image"][way], scale=1e6, form=",.0f")
            prepare = ranged(made["prepare_images_per_second"][form], form=",.0f")
            rows.append((way, f"{n_bytes:,.0f}", f"{n_bytes / 1000:,.1f}", prepare, ranged(rate, form=",.0f"), cpu))
        columns = ("bytes per image", "GB a million", "prepare, images/s", "batches, images/s", "CPU, us per image")
        headings = ("form, threads", *columns)
        show(f"{made['images']:,} pictures ({figures['pictures']}) at {size} pixels", headings, rows)
        rows = [
            (name, f"{one['bytes']:,.0f}", f"{one['psnr']:.1f}", f"{one['encode_seconds'] * 1e6:,.0f}")
            for name, one in made["qualities"].items()
        ]
        show(f"qualities of JPEG at {size} pixels", ("quality, colours", "bytes per image", "PSNR, dB", "us"), rows)


if __name__ == "__main__":
    cyclopts.run(main)
