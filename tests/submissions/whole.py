"""Makes a tiny competition with all that a report shows, and takes it the whole way with two runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import run
from tests.competition import COLOURS, jpeg, make_competition

SCRATCH = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--batch-size", "8"]
QUICK = [*SCRATCH, "--precision", "fp32", "--device", "cpu", "--epochs", "2"]


def make_dirty(data: Path) -> None:
    """A copy inside a class, a picture under two labels, a leak, and an empty file."""
    rng = np.random.default_rng(7)
    train = data / "TrainVal"
    copied, shared, leaked = (jpeg(COLOURS[label], rng) for label in ("0", "1", "2"))
    for path in ("0/copied.jpg", "0/copied-again.jpg"):
        (train / path).write_bytes(copied)
    for path in ("1/same.jpg", "2/same.jpg"):
        (train / path).write_bytes(shared)
    (train / "2/leak.jpg").write_bytes(leaked)
    (data / "Public" / "001.jpg").write_bytes(leaked)
    (train / "0/empty.jpg").write_bytes(b"")


def make_whole(folder: Path) -> Path:
    """The work folder of a competition that was prepared, split, trained twice, blended and submitted."""
    data, work = make_competition(folder / "data", per_class=12), folder / "work"
    make_dirty(data)
    steps = [
        ["prepare", str(data), "--store-size", "32", "--workers", "1"],
        ["split", "--n-folds", "2"],
        ["train", "--run", "one", *QUICK],
        ["train", "--run", "two", *QUICK, "--lr", "3e-3"],
        ["blend", "--trials", "16", "--half-samples", "1"],
        ["submit"],
    ]
    for step in steps:
        assert run.main([*step, "--work", str(work)]) == 0
    return work
