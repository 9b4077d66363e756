"""Predicts again from the checkpoints of a run, under other views perhaps, without any training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json
from folds.engine import SEQUENTIAL, EngineSettings
from folds.pixels.cache import cached
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import Backbone, build_network, read_weights, resolve_backbone
from models.device import choose_device, choose_precision, set_threads
from models.input.sampling import sampling_correction
from models.input.views import check_views
from models.predict.model import predict_views
from models.predict.prior import choose_prior
from models.predict.results import FILES, REFIT_FILES, test_rows, write_done, write_predictions, write_test
from models.recipes import FullSettings
from models.runs import CHOSEN, done_folds, done_refit, is_probe
from models.settings import PredictSettings
from models.sizes import predict_size, train_size
from models.watch.events import FoldPredicted, PriorChoice

CLAIMS = ("lr", "weights_digest", "verdict")  # of done.json that outlive a prediction


def predict_run(
    workspace: Workspace,
    run: str,
    predict: PredictSettings,
    *,
    device_name: str,
    engine: EngineSettings = SEQUENTIAL,
    track: Track = silently,
) -> Iterator[FoldPredicted | PriorChoice]:
    """Predict with every done fold of a run again, and with its refit. The test images are read once for all."""
    check_views(predict.views)
    if is_probe(workspace, run):
        raise UserError(
            f"the run {run} is a probe, which has heads and no network: to probe again costs one pass",
            hint=f"`python run.py probe --run {run} --views {','.join(predict.views)}` with its backbone and weights",
        )
    set_threads(engine)
    folds, store = load_folds(workspace), open_store(cached(workspace, engine.cache, track=track))
    trained = _load_run(workspace, run, folds, device=choose_device(device_name))
    rows = store.rows(folds.image_id, split="train")
    test = trained.ask(store, test_rows(store), predict, what=f"{run}: test", track=track)
    for i, (fold, done) in enumerate(trained.done.items()):
        folder, error = trained.folders[i], None
        if fold is None:
            write_test(folder, folds, store, views=predict.views, test=test[i])
        else:
            own = rows[folds.fold == fold]
            oof = trained.ask(store, own, predict, only=i, what=f"{run}: oof of fold {fold}", track=track)[0]
            error = write_predictions(folder, folds, store, fold=fold, views=predict.views, oof=oof, test=test[i])
        kept = {key: done[key] for key in CLAIMS if key in done}
        write_done(
            folder,
            trained.settings_json,
            fold="all" if fold is None else fold,
            n_folds=folds.n_folds,
            views=predict.views,
            oof_top3_error=error,
            seconds=done["seconds"],
            more={**kept, "prior_restored": trained.settings.restore_prior != "no"},
            files=REFIT_FILES if fold is None else FILES,
        )
        yield FoldPredicted(run, fold, error)
    choice = choose_prior(workspace, run, folds)
    if choice:
        yield choice


@dataclass(frozen=True)
class _TrainedRun:
    """The networks of a run's done folds and refit (None), on the device, with what they need; lists as `done`."""

    done: dict[int | None, dict[str, Any]]
    folders: list[Path]
    settings: FullSettings
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


@dataclass(frozen=True)
class LoadedFold:
    """The network of one done fold, on the host, and the size in pixels at which it predicts."""

    network: nn.Module
    backbone: Backbone
    size: int


def load_fold(workspace: Workspace, run: str, fold: int, folds: Folds) -> LoadedFold:
    """The network of a fold that is done, once it is checked like all that predict."""
    folder, done = workspace.fold(run, fold), done_folds(workspace, run)[fold]
    stored = _stored_settings(folder, done, folds)
    settings, backbone = _train_settings(stored), resolve_backbone(stored["backbone"])
    network = _trained(folder, done, backbone, len(folds.classes), size=train_size(settings, backbone))
    return LoadedFold(network.eval(), backbone, predict_size(settings, backbone))


def _load_run(workspace: Workspace, run: str, folds: Folds, *, device: torch.device) -> _TrainedRun:
    done: dict[int | None, dict[str, Any]] = dict(done_folds(workspace, run).items())
    if not done:
        raise UserError(f"the run {run} has no fold that is done", hint="`python run.py train`")
    refit = done_refit(workspace, run)
    if refit:
        done[None] = refit
    folders = [workspace.refit(run) if fold is None else workspace.fold(run, fold) for fold in done]
    stored = [_stored_settings(folder, done[k], folds) for folder, k in zip(folders, done, strict=True)]
    settings, backbone = _train_settings(stored[0]), resolve_backbone(stored[0]["backbone"])
    n_classes, size = len(folds.classes), train_size(settings, backbone)
    networks = [
        _trained(folder, done[k], backbone, n_classes, size=size) for folder, k in zip(folders, done, strict=True)
    ]
    return _TrainedRun(
        done=done,
        folders=folders,
        settings=settings,
        settings_json=stored[0],
        networks=[one.to(device, memory_format=torch.channels_last).eval() for one in networks],  # type: ignore[call-overload]
        corrections=[
            sampling_correction(folds.target[folds.fold != (-1 if k is None else k)], settings, n_classes=n_classes)
            for k in done
        ],
        backbone=backbone,
        size=predict_size(settings, backbone),
        device=device,
        precision=choose_precision(_precision_name(stored[0], device), device),
    )


def _stored_settings(folder: Path, done: dict[str, Any], folds: Folds) -> dict[str, Any]:
    path, hint = folder / "settings.json", f"remove {folder} and train it again"
    stored: dict[str, Any] = read_json(path, hint=hint)
    if digest(path.read_bytes()) != done["files"].get(path.name, digest(path.read_bytes())):
        raise UserError(f"{path} is not the file that the fold was trained with", hint=hint)
    if stored["folds_digest"] != folds.digest:
        raise UserError(f"{folder} was trained on other folds", hint=f"remove {folder} and train it again")
    return stored


def _precision_name(stored: dict[str, Any], device: torch.device) -> str:
    """As set; for `auto`, on a CPU, what it was when the run was trained on one."""
    name = str(stored["settings"]["precision"])
    return str(stored.get(CHOSEN, {}).get("train", name)) if name == "auto" and device.type == "cpu" else name


def _train_settings(stored: dict[str, Any]) -> FullSettings:
    known = {field.name for field in fields(FullSettings)}
    return FullSettings(**{key: value for key, value in stored["settings"].items() if key in known})


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
