"""Makes up a work folder for a million images: a manifest, a sparse pixel store, members of a blend.

What is read by its name or its shape is real (manifest, folds, predictions, all checks and digests); the pixels are
zeros that take no room on the disk. A fiftieth of the training images has a near duplicate: 20,000 groups of two in a
million. The test predictions of a run's folds are one file under five names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.members.oof_file import file_digest
from folds.base.workspace import Workspace, write_json
from folds.manifest.manifest import COLUMNS, USABLE, write_manifest
from folds.pixels.raw import CHANNELS
from folds.pixels.store import store_path, write_head
from folds.split.assign import Folds, load_folds
from models.predict.predictions import Predictions, save_predictions
from tests.benchmarks.synthetic import World, member_log_probs

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
        write_run(workspace, folds, f"m{member:02d}", oof, test)


def write_run(workspace: Workspace, folds: Folds, name: str, oof: np.ndarray, test: np.ndarray) -> None:
    """Store a run as `train` would. oof (N, C), test (T, C): log-probabilities under one view."""
    test_id = np.array([f"{number:07d}" for number in range(len(test))])
    first = workspace.fold(name, 0) / "test.npz"
    _save(first, test_id, test, folds)
    for fold in range(folds.n_folds):
        folder, rows = workspace.fold(name, fold), folds.fold == fold
        _save(folder / "oof.npz", folds.image_id[rows], oof[rows], folds)
        if fold:
            os.link(first, folder / "test.npz")
        write_json(folder / "settings.json", {"run": name, "seed": 0, "settings": {"name": name}})
        files = {file: file_digest(folder / file) for file in ("oof.npz", "test.npz")}
        done = {"run": name, "backbone": name, "fold": fold, "n_folds": folds.n_folds, "folds_digest": folds.digest}
        write_json(folder / "done.json", {**done, "seed": 0, "oof_top3_error": 0.0, "seconds": 0.0, "files": files})


def _save(path: Path, image_id: np.ndarray, log_probs: np.ndarray, folds: Folds) -> None:
    views, classes = np.array(["centre"]), np.array(folds.classes)
    save_predictions(path, Predictions(image_id, classes, views, log_probs[:, None], folds.digest))
