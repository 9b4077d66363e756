"""This file measures `prepare`: its rate beside decoding and resizing alone, and the search for copies.

`python tests/benchmarks/prepare_speed.py DATA [STORE_SIZE]` in the checkout. Both rates are taken by turns, three
times, with as many processes as there are cores; neighbours on the machine disturb both, so the best counts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def decode_alone(task: tuple[list[str], int]) -> int:
    """Pillow's decoding and resizing, and nothing else."""
    from PIL import Image

    paths, size = task
    for path in paths:
        try:
            Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        except (OSError, ValueError):
            continue
    return len(paths)


def rate_alone(data: Path, size: int) -> float:
    """Images a second of all cores."""
    paths = [str(path) for path in sorted(data.rglob("*")) if path.is_file() and path.suffix.lower() != ".csv"]
    chunks = [(paths[at : at + 16], size) for at in range(0, len(paths), 16)]
    start = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        done = sum(pool.map(decode_alone, chunks))
    return done / (time.perf_counter() - start)


def rate_of_prepare(data: Path, size: int) -> float:
    """Images a second of the whole `prepare`: files found, decoded, compared, manifest and store written and synced."""
    from folds.prepare import prepare
    from folds.settings import PrepareSettings
    from folds.workspace import Workspace

    with tempfile.TemporaryDirectory() as work:
        result = prepare(Workspace(Path(work)), data, PrepareSettings(store_size=size))
    return result.decoded / result.seconds


def seconds_of_copies(n: int = 100_000) -> dict[str, float]:
    """The search for copies among made-up hashes and thumbnails: at random, and thousands with one hash."""
    import numpy as np

    from folds.duplicates import find_copies

    rng = np.random.default_rng(0)
    thumbs = rng.integers(0, 256, size=(n, 32, 32, 3), dtype=np.uint8)
    hashes, mirrored = rng.integers(0, 2**63, size=(2, n), dtype=np.uint64)
    digests = np.array([f"{row:016x}" for row in range(n)])
    crowded = hashes.copy()
    crowded[:5000] = hashes[0]
    blank = thumbs.copy()
    blank[:5000] = rng.integers(0, 256, size=5000)[:, None, None, None]
    seconds = {}
    for name, h, t in [("random", hashes, thumbs), ("one hash", crowded, thumbs), ("blank", crowded, blank)]:
        start = time.perf_counter()
        find_copies(digests, h, mirrored, t.__getitem__, near_bits=6)
        seconds[name] = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    data, size = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 288
    rates = [(rate_alone(data, size), rate_of_prepare(data, size)) for _ in range(3)]
    for alone, whole in rates:
        print(f"decode + resize {alone:7,.0f} images/s   prepare {whole:7,.0f} images/s   {whole / alone:.0%}")
    best_alone, best_whole = (max(column) for column in zip(*rates, strict=True))
    print(print(f"best of each: {best_whole / best_alone:.0%}"))
    for name, seconds in seconds_of_copies().items():
        print(f"copies among 100,000, {name:9} {seconds:5.1f} s")
