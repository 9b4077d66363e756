"""The files of a trained fold, and prediction from them: under other views perhaps, without any training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from folds.base.errors import UserError
from folds.base.metrics import topk_error
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json, write_bytes, write_json
from folds.pixels.cache import cached
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import build_network, read_weights, resolve_backbone
from models.device import choose_device, choose_precision
from models.input.sampling import prior_correction
from models.input.sizes import predict_size, train_size
from models.input.views import check_views
from models.predict.model import Model, log_probs_of
from models.predict.predictions import Predictions, save_predictions
from models.recipes import FullSettings
from models.runs import CHOSEN, done_folds, done_record, done_refit, is_probe
from models.settings import PredictSettings
from models.watch.events import FoldPredicted, JobEvent, JobKey

FILES = ("network.safetensors", "oof.npz", "settings.json", "test.npz")
REFIT_FILES = ("network.safetensors", "settings.json", "test.npz")  # nothing is kept out, so nothing is out of fold
OF_TRAINING = ("lr", "weights_digest", "verdict")  # of done.json: kept when the fold is predicted again


def predict_run(
    workspace: Workspace,
    run: str,
    predict: PredictSettings,
    *,
    device_name: str,
    cache: Path | None = None,
    track: Track = silently,
) -> Iterator[JobEvent]:
    """Predict with every done fold of a run again, and with its refit. The test images are read once for all."""
    check_views(predict.views)
    if is_probe(workspace, run):
        raise UserError(
            f"the run {run} is a probe, which has heads and no network: to probe again costs one pass",
            hint=f"`python run.py probe --run {run} --views {','.join(predict.views)}` with its backbone and weights",
        )
    folds, store = load_folds(workspace), open_store(cached(workspace, cache, track=track))
    parts: list[int | None] = [*done_folds(workspace, run)]
    if not parts:
        raise UserError(f"the run {run} has no fold that is done", hint="`python run.py train`")
    parts += [None] if done_refit(workspace, run) else []
    trained = [load_trained(workspace, run, fold, folds, device=choose_device(device_name)) for fold in parts]
    size, models = predict.predict_batch, [one.model for one in trained]
    tests = log_probs_of(
        models, store, test_rows(store), predict.views, batch_size=size, what=f"{run}: test", track=track
    )
    rows = store.rows(folds.image_id, split="train")
    for one, test in zip(trained, tests, strict=True):
        oof = None
        if one.fold is not None:
            own, what = rows[folds.fold == one.fold], f"{run}: oof of fold {one.fold}"
            oof = one.model.log_probs(store, own, predict.views, batch_size=size, what=what, track=track)
        error = write_predictions(one.folder, folds, store, fold=one.fold, views=predict.views, oof=oof, test=test)
        write_done(
            one.folder,
            one.settings_json,
            folds,
            fold=one.fold,
            views=predict.views,
            oof_top3_error=error,
            seconds=one.done["seconds"],
            more={key: one.done[key] for key in OF_TRAINING if key in one.done},
        )
        yield JobEvent(JobKey(run, one.fold), FoldPredicted(error, predict.views))


@dataclass(frozen=True)
class Trained:
    """A done fold of a run, or its refit (fold None): its folder, done.json, settings.json and model."""

    fold: int | None
    folder: Path
    done: dict[str, Any]
    settings_json: dict[str, Any]
    model: Model


def load_trained(workspace: Workspace, run: str, fold: int | None, folds: Folds, *, device: torch.device) -> Trained:
    """A fold that is done. Raises UserError where its files are not those that were written, or its folds not these."""
    key = JobKey(run, fold)
    done, folder = done_record(workspace, key), key.folder(workspace)
    assert done is not None, f"{key.name} is not done"
    hint = f"remove {folder} and train it again"
    path, weights = folder / "settings.json", folder / "network.safetensors"
    stored: dict[str, Any] = read_json(path, hint=hint)
    if done["files"].get(path.name) not in (None, digest(path.read_bytes())):
        raise UserError(f"{path} is not the file that the fold was trained with", hint=hint)
    if stored["folds_digest"] != folds.digest:
        raise UserError(f"{folder} was trained on other folds", hint=hint)
    if not weights.is_file() or digest(weights.read_bytes()) != done["files"][weights.name]:
        raise UserError(f"{weights} is absent or not the file that was trained", hint=hint)
    known = {field.name for field in fields(FullSettings)}
    settings = FullSettings(**{key: value for key, value in stored["settings"].items() if key in known})
    backbone, n_classes = resolve_backbone(stored["backbone"]), len(folds.classes)
    network = build_network(backbone, n_classes, size=train_size(settings, backbone))
    network.load_state_dict(read_weights(weights))
    precision = settings.precision
    if precision == "auto" and device.type == "cpu":  # as it was when the run was trained on one
        precision = stored.get(CHOSEN, {}).get("train", precision)
    target = folds.target[folds.fold != (-1 if fold is None else fold)]
    model = Model(
        network.to(device, memory_format=torch.channels_last).eval(),  # type: ignore[call-overload]
        backbone,
        predict_size(settings, backbone),
        device,
        choose_precision(precision, device),
        prior_correction(target, settings, n_classes=n_classes),
    )
    return Trained(fold, folder, done, stored, model)


def test_rows(store: PixelStore) -> np.ndarray:
    """The store's rows of all usable test images, in the store's order. (T,) int."""
    return np.flatnonzero(store.split == "test")


def write_network(folder: Path, network: nn.Module) -> None:
    """Write parameters and buffers as safetensors, in a fixed order, so that the same network is the same bytes."""
    state = sorted(network.state_dict().items())
    write_bytes(folder / "network.safetensors", save({name: value.cpu().contiguous() for name, value in state}))


def write_predictions(
    folder: Path,
    folds: Folds,
    store: PixelStore,
    *,
    fold: int | None,
    views: Sequence[str],
    oof: np.ndarray | None,
    test: np.ndarray,
) -> float | None:
    """Write `oof.npz` and `test.npz`; returns the fold's OOF top-3 error over the views' mean. A refit has no OOF.

    oof   (n, V, C) float32 log-probabilities of the fold's own images, in the order of folds.csv
    test  (T, V, C) float32, in the order of `test_rows`
    """

    def save_as(name: str, image_id: np.ndarray, log_probs: np.ndarray) -> Predictions:
        made = Predictions(image_id, np.array(folds.classes), np.array(views), log_probs, folds.digest)
        save_predictions(folder / name, made)
        return made

    error = None
    if oof is not None:
        made = save_as("oof.npz", folds.image_id[folds.fold == fold], oof)
        error = topk_error(made.probs(), folds.target[folds.fold == fold])
    save_as("test.npz", store.image_id[test_rows(store)], test)
    return error


def write_done(
    folder: Path,
    settings_json: Mapping[str, Any],
    folds: Folds,
    *,
    fold: int | None,
    views: Sequence[str],
    oof_top3_error: float | None,
    seconds: float,
    more: Mapping[str, Any] = MappingProxyType({}),
    files: Sequence[str] = (),
) -> None:
    """Declare a fold, or the refit (fold None), done; written after everything that it names by digest.

    files  of the folder; those of a trained network if empty
    """
    names = files or (REFIT_FILES if fold is None else FILES)
    done = {
        **{key: settings_json[key] for key in ("run", "backbone", "seed", "folds_digest")},
        "fold": "all" if fold is None else fold,
        "n_folds": folds.n_folds,
        "views": list(views),
        "oof_top3_error": oof_top3_error,
        "seconds": round(seconds, 1),
        **more,
        "prior_restored": settings_json["settings"].get("restore_prior", True),
        "files": {name: digest((folder / name).read_bytes()) for name in names},
    }
    write_json(folder / "done.json", done)
