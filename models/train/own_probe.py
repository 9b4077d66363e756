"""Holds a trained fold against a frozen probe of the same weights: on its images, under the same views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from folds.base.errors import UserError
from folds.base.metrics import true_rank
from folds.base.paired import paired_difference
from folds.base.workspace import Workspace, digest, read_json
from folds.split.assign import Folds
from models.predict.predictions import Predictions, load_predictions
from models.runs import PROBE, done_folds, runs
from models.watch.events import AgainstProbe

MOST_ROWS = 20_000  # for a temperature: one number is known to three digits from so many images
LEAST_PROB = 1e-12


def against_probe(
    workspace: Workspace, run: str, folds: Folds, *, fold: int, backbone: str, weights_digest: str, image_size: int
) -> AgainstProbe | None:
    """The fold's network beside its frozen probe, by the `oof.npz` of both; None where there is no such probe.

    backbone    the full tag      image_size  at the end of training
    A probe counts that has the same backbone, weights, size, folds and images; of several, the one called RUN-probe.
    Views that only one of the two was asked under are left aside.
    """
    own = load_predictions(workspace.fold(run, fold) / "oof.npz", hint="`python run.py predict`")
    for name, probe in _probes(workspace, run, fold, backbone, weights_digest, image_size):
        views = tuple(str(view) for view in own.views if view in probe.views)
        if views and _is_alike(own, probe):
            rows = folds.fold == fold
            return _compare(name, own.probs(views), probe.probs(views), folds.target[rows], folds.group[rows], views)
    return None


def _probes(
    workspace: Workspace, run: str, fold: int, backbone: str, weights_digest: str, image_size: int
) -> Iterator[tuple[str, Predictions]]:
    """The predictions of each probe of these weights; a damaged one is passed over, since others refuse it."""
    if not weights_digest:
        return  # random weights are not worth a probe
    for name in sorted(runs(workspace), key=lambda name: (name != f"{run}-{PROBE}", name)):
        folder = workspace.fold(name, fold)
        try:
            stored = _settings(folder)
            if (stored.get("kind"), stored.get("backbone")) != (PROBE, backbone):
                continue
            done = done_folds(workspace, name).get(fold, {})
            is_same = stored["settings"]["image_size"] == image_size and done.get("weights_digest") == weights_digest
            if is_same and digest((folder / "oof.npz").read_bytes()) == done["files"]["oof.npz"]:
                yield name, load_predictions(folder / "oof.npz", hint="")
        except (UserError, OSError, KeyError):
            continue


def _settings(folder: Path) -> dict[str, Any]:
    stored = read_json(folder / "settings.json", hint="")
    return stored if isinstance(stored, dict) else {}


def _is_alike(own: Predictions, probe: Predictions) -> bool:
    return own.folds_digest == probe.folds_digest and all(
        np.array_equal(one, other) for one, other in ((own.image_id, probe.image_id), (own.classes, probe.classes))
    )


def _compare(
    name: str, own: np.ndarray, probe: np.ndarray, target: np.ndarray, group: np.ndarray, views: tuple[str, ...]
) -> AgainstProbe:
    """Better: lower in top-3 error or log loss, and not beyond one standard error above in top-3 error."""
    missed, probe_missed = (true_rank(probs, target) >= 3 for probs in (own, probe))
    error, probe_error = float(missed.mean()), float(probe_missed.mean())
    loss, probe_loss = _least_loss(own, target), _least_loss(probe, target)
    is_worse = paired_difference(missed.astype(float), probe_missed.astype(float), group).is_above_error
    is_better = (error < probe_error or loss < probe_loss) and not is_worse
    return AgainstProbe(name, views, error, probe_error, loss, probe_loss, is_better)


def _least_loss(probs: np.ndarray, target: np.ndarray) -> float:
    """The log loss in nats of softmax(log(probs) / t) at the temperature t for which it is least."""
    from scipy.optimize import minimize_scalar

    stride = max(1, -(-len(target) // MOST_ROWS))
    target = target[::stride]
    scores = np.log(np.maximum(probs[::stride], LEAST_PROB))

    def loss(log_temperature: float) -> float:
        scaled = scores * np.float32(np.exp(-log_temperature))
        scaled -= scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(target)), target]).mean())

    return float(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-3}).fun)
