"""This file predicts again from the checkpoints of a run, under other views perhaps, without any training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from folds.assignment import Folds, load_folds
from folds.errors import UserError
from folds.pixels import open_store
from folds.track import Track, silently
from folds.workspace import Workspace, digest, read_json
from models.artefacts import test_rows, write_done, write_predictions
from models.backbones import Backbone, build_network, read_weights, resolve_backbone
from models.inputs import choose_device, choose_precision
from models.predict import predict_views
from models.runs import done_folds
from models.sampling import sampling_correction
from models.settings import PredictSettings, TrainSettings
from models.views import check_views


@dataclass(frozen=True)
class FoldPredicted:
    run: str
    fold: int
    top3_error: float


def predict_run(
    workspace: Workspace, run: str, predict: PredictSettings, *, device_name: str, track: Track = silently
) -> Iterator[FoldPredicted]:
    """Write `oof.npz` and `test.npz` of every done fold of a run again. The test images are read once for all folds."""
    check_views(predict.views)
    folds, store = load_folds(workspace), open_store(workspace)
    done = done_folds(workspace, run)
    if not done:
        raise UserError(f"the run {run} has no fold that is done", hint="`python run.py train`")
    stored = [_stored_settings(workspace.fold(run, fold), folds) for fold in done]
    settings = _train_settings(stored[0])
    backbone, device = resolve_backbone(stored[0]["backbone"]), choose_device(device_name)
    size = settings.image_size or backbone.size
    networks = [_trained(workspace.fold(run, k), done[k], backbone, len(folds.classes), size=size) for k in done]
    networks = [network.to(device, memory_format=torch.channels_last).eval() for network in networks]  # type: ignore[call-overload]
    rows = store.rows(folds.image_id, split="train")
    corrections = [
        sampling_correction(folds.target[folds.fold != k], settings, n_classes=len(folds.classes)) for k in done
    ]

    def ask(which: slice, rows: np.ndarray, what: str) -> np.ndarray:
        return predict_views(
            networks[which],
            store,
            rows,
            backbone=backbone,
            size=size,
            views=predict.views,
            batch_size=predict.predict_batch,
            device=device,
            precision=choose_precision(settings.precision, device),
            corrections=corrections[which],
            what=f"{run}: {what}",
            track=track,
        )

    test = ask(slice(None), test_rows(store), "test")
    for i, fold in enumerate(done):
        oof = ask(slice(i, i + 1), rows[folds.fold == fold], f"oof of fold {fold}")[0]
        folder = workspace.fold(run, fold)
        error = write_predictions(folder, folds, store, fold=fold, views=predict.views, oof=oof, test=test[i])
        write_done(
            folder,
            stored[i],
            fold=fold,
            n_folds=folds.n_folds,
            views=predict.views,
            oof_top3_error=error,
            seconds=done[fold]["seconds"],
        )
        yield FoldPredicted(run, fold, error)


def _stored_settings(folder: Path, folds: Folds) -> dict[str, Any]:
    stored: dict[str, Any] = read_json(folder / "settings.json", hint=f"remove {folder} and train it again")
    if stored["folds_digest"] != folds.digest:
        raise UserError(f"{folder} was trained on other folds", hint=f"remove {folder} and train it again")
    return stored


def _train_settings(stored: dict[str, Any]) -> TrainSettings:
    known = {field.name for field in fields(TrainSettings)}
    return TrainSettings(**{key: value for key, value in stored["settings"].items() if key in known})


def _trained(folder: Path, done: dict[str, Any], backbone: Backbone, n_classes: int, *, size: int) -> nn.Module:
    """The network of a done fold, after a look at its digest."""
    path = folder / "network.safetensors"
    if not path.is_file() or digest(path.read_bytes()) != done["files"][path.name]:
        raise UserError(
            f"{path} is absent or not the file that was trained", hint=f"remove {folder} and train it again"
        )
    network = build_network(backbone, n_classes, size=size)
    network.load_state_dict(read_weights(path))
    return network
