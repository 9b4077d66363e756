"""Writes what a fold leaves behind: its network, its predictions, and `done.json`, which comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import nn

from folds.base.metrics import topk_error
from folds.base.workspace import digest, write_bytes, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.predict.predictions import Predictions, save_predictions

FILES = ("network.safetensors", "oof.npz", "settings.json", "test.npz")
REFIT_FILES = ("network.safetensors", "settings.json", "test.npz")  # nothing is kept out, so nothing is out of fold


def test_rows(store: PixelStore) -> np.ndarray:
    """The store's rows of all usable test images, in the store's order. (T,) int."""
    return np.flatnonzero(store.split == "test")


def write_network(folder: Path, network: nn.Module) -> None:
    """Write parameters and buffers as safetensors, in a fixed order, so that the same network is the same bytes."""
    state = sorted(network.state_dict().items())
    write_bytes(folder / "network.safetensors", save({name: value.cpu().contiguous() for name, value in state}))


def write_predictions(
    folder: Path, folds: Folds, store: PixelStore, *, fold: int, views: Sequence[str], oof: np.ndarray, test: np.ndarray
) -> float:
    """Write `oof.npz` and `test.npz`; returns the fold's OOF top-3 error over the views' mean.

    oof   (n, V, C) float32 log-probabilities of the fold's own images, in the order of folds.csv
    test  (T, V, C) float32, in the order of `test_rows`
    """
    in_fold = folds.fold == fold
    made = _predictions(folds, folds.image_id[in_fold], views, oof)
    save_predictions(folder / "oof.npz", made)
    write_test(folder, folds, store, views=views, test=test)
    return topk_error(made.probs(), folds.target[in_fold])


def write_test(folder: Path, folds: Folds, store: PixelStore, *, views: Sequence[str], test: np.ndarray) -> None:
    """Write `test.npz`. test (T, V, C) float32 log-probabilities, in the order of `test_rows`."""
    save_predictions(folder / "test.npz", _predictions(folds, store.image_id[test_rows(store)], views, test))


def _predictions(folds: Folds, image_id: np.ndarray, views: Sequence[str], log_probs: np.ndarray) -> Predictions:
    return Predictions(
        image_id=image_id,
        classes=np.array(folds.classes),
        views=np.array(views),
        log_probs=log_probs,
        folds_digest=folds.digest,
    )


def write_done(
    folder: Path,
    settings_json: Mapping[str, Any],
    *,
    fold: int | str,
    n_folds: int,
    views: Sequence[str],
    oof_top3_error: float | None,
    seconds: float,
    more: Mapping[str, Any] = MappingProxyType({}),
    files: Sequence[str] = FILES,
) -> None:
    """Declare the fold done; written after everything that it names by digest: `files` in its folder."""
    named = {key: settings_json[key] for key in ("run", "backbone", "seed", "folds_digest")}
    digests = {name: digest((folder / name).read_bytes()) for name in files}
    done = {
        "fold": fold,
        "n_folds": n_folds,
        "views": list(views),
        "oof_top3_error": oof_top3_error,
        "seconds": round(seconds, 1),
    }
    write_json(folder / "done.json", {**named, **done, **more, "files": digests})
