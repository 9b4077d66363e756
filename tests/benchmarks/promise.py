"""Measures how far promised scores lie from fresh ones: `python -m tests.benchmarks.promise`.

Made-up competitions: members of unequal strength with correlated errors, N training images in five folds, and 20,000
fresh images as a test set whose labels are known. `plain` is the kept candidate's own cross-fitted error, `nested` the
one that `blend` promises. The figure is fresh minus promised, over the worlds, with its standard error.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np

from ensemble.blend.apply import apply_blend
from ensemble.blend.make_blend import make_blend
from ensemble.settings import BlendSettings
from folds.base.metrics import topk_error
from folds.base.workspace import Workspace
from tests.benchmarks.measure import finish, show
from tests.benchmarks.synthetic import World, make_world

FRESH = 20_000
SIZES = (400, 1_000, 4_000)
MEMBERS = 6


def main(*, worlds: int = 40, record: bool = True) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    figures: dict[str, Any] = {"worlds": worlds, "fresh_images": FRESH, "members": MEMBERS, "sizes": {}}
    rows = []
    for n in SIZES:
        made = np.array([one_world(n, seed) for seed in range(worlds)])  # (worlds, 3): fresh, plain, nested
        off = made[:, :1] - made[:, 1:]
        mean, error = off.mean(axis=0), off.std(axis=0, ddof=1) / np.sqrt(worlds)
        figures["sizes"][str(n)] = {
            "fresh": float(made[:, 0].mean()),
            "plain": [float(mean[0]), float(error[0])],
            "nested": [float(mean[1]), float(error[1])],
        }
        cells = [f"{m:+.5f} +- {e:.5f}" for m, e in zip(mean, error, strict=True)]
        rows.append((f"{n:,}", f"{made[:, 0].mean():.4f}", *cells))
    show(
        f"fresh top-3 error minus what was promised, {worlds} worlds each",
        ("images", "fresh error", "plain", "nested"),
        rows,
    )
    finish("promise", figures, keep=record)


def one_world(n: int, seed: int) -> tuple[float, float, float]:
    """The fresh, the plain cross-fitted and the nested top-3 error of one made-up competition."""
    world = World(n=n, n_test=FRESH, n_classes=20, n_folds=5, margin=3.0, seed=1000 * n + seed)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        make_world(workspace, world, members=MEMBERS)
        made = make_blend(workspace, BlendSettings(trials=200), seed=seed)
        return (
            topk_error(apply_blend(workspace, made.blend).scores, world.targets(1)),
            made.kept.crossfit,
            made.nested.loss,
        )


if __name__ == "__main__":
    cyclopts.run(main)
