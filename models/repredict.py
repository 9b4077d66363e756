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
from folds.pixels import PixelStore, open_store
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
    trained = _load_run(workspace, run, folds, device=choose_device(device_name))
    rows = store.rows(folds.image_id, split="train")
    test = trained.ask(store, test_rows(store), predict, what=f"{run}: test", track=track)
    for i, (fold, done) in enumerate(trained.done.items()):
        own = rows[folds.fold == fold]
        oof = trained.ask(store, own, predict, only=i, what=f"{run}: oof of fold {fold}", track=track)[0]
        folder = workspace.fold(run, fold)
        error = write_predictions(folder, folds, store, fold=fold, views=predict.views, oof=oof, test=test[i])
        write_done(
            folder,
            trained.settings_json,
            fold=fold,
            n_folds=folds.n_folds,
            views=predict.views,
            oof_top3_error=error,
            seconds=done["seconds"],
        )
        yield FoldPredicted(run, fold, error)


@dataclass(frozen=True)
class _TrainedRun:
    """The networks of a run's done folds, on the device, with what they need; lists in the order of `done`."""

    done: dict[int, dict[str, Any]]
    settings_json: dict[str, Any]
    networks: list[nn.Module]
    corrections: list[np.ndarray]
    backbone: Backbone
    size: int
    device: torch.device
    precision: torch.dtype

    def ask(
        self,
        store: PixelStore,
        rows: np.ndarray,
        predict: PredictSettings,
        *,
        only: int | None = None,
        what: str,
        track: Track,
    ) -> np.ndarray:
        """(networks, n, V, C) float32 log-probabilities of store rows, from all networks or from the only-th alone."""
        which = slice(None) if only is None else slice(only, only + 1)
        return predict_views(
            self.networks[which],
            store,
            rows,
            backbone=self.backbone,
            size=self.size,
            views=predict.views,
            batch_size=predict.predict_batch,
            device=self.device,
            precision=self.precision,
            corrections=self.corrections[which],
            what=what,
            track=track,
        )


def _load_run(workspace: Workspace, run: str, folds: Folds, *, device: torch.device) -> _TrainedRun:
    done = done_folds(workspace, run)
    if not done:
        raise UserError(f"the run {run} has no fold that is done", hint="`python run.py train`")
    stored = [_stored_settings(workspace.fold(run, fold), folds) for fold in done]
    settings, backbone = _train_settings(stored[0]), resolve_backbone(stored[0]["backbone"])
    size, n_classes = settings.image_size or backbone.size, len(folds.classes)
    networks = [_trained(workspace.fold(run, k), done[k], backbone, n_classes, size=size) for k in done]
    return _TrainedRun(
        done=done,
        settings_json=stored[0],
        networks=[one.to(device, memory_format=torch.channels_last).eval() for one in networks],  # type: ignore[call-overload]
        corrections=[sampling_correction(folds.target[folds.fold != k], settings, n_classes=n_classes) for k in done],
        backbone=backbone,
        size=size,
        device=device,
        precision=choose_precision(settings.precision, device),
    )


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
