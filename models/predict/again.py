"""The files of a trained fold, and prediction from them: under other views perhaps, without any training."""

from __future__ import annotations

import json
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
from folds.manifest.manifest import read_manifest_bytes
from folds.pixels.store import PixelStore, cached, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import build_network, read_weights, resolve_backbone
from models.device import choose_device, choose_precision
from models.input.sampling import prior_correction
from models.input.sizes import largest_size, predict_size, refuse_views, train_size
from models.input.views import check_views
from models.predict.model import Model, log_probs_of
from models.predict.predictions import Predictions, load_predictions, save_predictions
from models.recipes import FullSettings
from models.runs import CHOSEN, KNN, PROBE, done_folds, done_parts, done_record, kind_of
from models.settings import PredictSettings
from models.watch.events import FoldPredicted, JobEvent, JobKey, PredictStarted

FILES = ("network.safetensors", "oof.npz", "settings.json", "test.npz")
Seen = tuple[np.ndarray, np.ndarray]  # by one view: (n, C) out of fold, n = 0 for a refit, and (T, C) of the test set
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
    """Predict with every done fold of a run, and with its refit, under the views that lack.

    The test images are read once for all. What was predicted from the same pixels is kept, to the bit.
    """
    views = views_to_predict(workspace, run, predict)
    folds, store = load_folds(workspace), open_store(cached(workspace, cache, track=track))
    device = choose_device(device_name)
    parts = done_parts(workspace, run)
    trained = [load_trained(workspace, run, part, folds, device=device) for part in parts]
    files = [FoldFiles(workspace, JobKey(run, part), folds, store, views) for part in parts]
    known = [one.stored() for one in files]
    lacking = tuple(view for view in views if any(view not in seen for seen in known))
    asked = [i for i, seen in enumerate(known) if not seen.keys() >= set(views)]
    for i in (i for i in range(len(files)) if i not in asked):
        error = trained[i].done["oof_top3_error"]
        if tuple(known[i]) != views:
            error = files[i].write_again(trained[i], known[i])
        yield JobEvent(files[i].key, FoldPredicted(error, views))
    if not asked:
        return
    models, kept = [trained[i].model for i in asked], tuple(view for view in views if view not in lacking)
    largest = min(largest_size(lacking, models[0].size), store.longest_side)
    yield JobEvent(JobKey(run, None), PredictStarted(len(models), lacking, kept, largest, store.size))
    common: dict[str, Any] = {"batch_size": predict.predict_batch, "track": track}
    tests = log_probs_of(models, store, store.test_rows, lacking, what=f"{run}: test", **common)
    rows = store.rows(folds.image_id, split="train")
    for i, model, test in zip(asked, models, tests, strict=True):
        own, what = rows[folds.fold == parts[i]], f"{run}: oof of fold {parts[i]}"  # a refit has no images of its own
        oof = model.log_probs(store, own, lacking, what=what, **common)
        seen = known[i] | {view: (oof[:, v], test[:, v]) for v, view in enumerate(lacking)}
        yield JobEvent(files[i].key, FoldPredicted(files[i].write_again(trained[i], seen), views))


def views_to_predict(workspace: Workspace, run: str, predict: PredictSettings) -> tuple[str, ...]:
    """The views to predict a run under: as set, or those that its first fold has; it reads no pixels.

    Raises UserError where the run cannot be predicted again, or its networks do not take a view.
    """
    check_views(predict.plain_views)
    kind, asked = kind_of(workspace, run), ",".join(predict.plain_views)
    if kind == PROBE:
        raise UserError(
            f"the run {run} is a probe, which has heads and no network: to probe again costs one pass",
            hint=f"`python run.py probe --run {run} --views {asked}` with its backbone and weights",
        )
    if kind == KNN:
        raise UserError(
            f"the run {run} is made of nearest neighbours, and has no network: `knn` looks them up again",
            hint=f"`python run.py knn --run {run.removesuffix(f'-{KNN}')} --views {asked}`",
        )
    done = done_folds(workspace, run)
    if not done:
        raise UserError(f"the run {run} has no fold that is done", hint="`python run.py train`")
    fold = next(iter(done))
    stored, views = _settings_json(workspace.fold(run, fold), done[fold]), predict.views or tuple(done[fold]["views"])
    backbone = resolve_backbone(stored["backbone"])
    refuse_views(views, backbone, own=predict_size(_settings_of(stored), backbone))
    return views


@dataclass(frozen=True)
class Trained:
    """A done fold of a run, or its refit: its done.json, settings.json and model."""

    done: dict[str, Any]
    settings_json: dict[str, Any]
    model: Model


def load_trained(workspace: Workspace, run: str, fold: int | None, folds: Folds, *, device: torch.device) -> Trained:
    """A fold that is done. Raises UserError where its files are not those that were written, or its folds not these."""
    key = JobKey(run, fold)
    done, folder = done_record(workspace, key), key.folder(workspace)
    assert done is not None, f"{key.name} is not done"
    hint = f"remove {folder} and train it again"
    weights, stored = folder / "network.safetensors", _settings_json(folder, done)
    if stored["folds_digest"] != folds.digest:
        raise UserError(f"{folder} was trained on other folds", hint=hint)
    if not weights.is_file() or digest(weights.read_bytes()) != done["files"][weights.name]:
        raise UserError(f"{weights} is absent or not the file that was trained", hint=hint)
    settings = _settings_of(stored)
    backbone, n_classes = resolve_backbone(stored["backbone"]), len(folds.classes)
    network = build_network(backbone, n_classes, size=train_size(settings, backbone), stages=settings.stages)
    network.load_state_dict(read_weights(weights))
    precision = settings.precision
    if precision == "auto" and device.type == "cpu":  # as it was when the run was trained on one
        precision = stored.get(CHOSEN, {}).get("forward", precision)
    model = Model(
        network.to(device, memory_format=torch.channels_last).eval(),  # type: ignore[call-overload]
        backbone,
        predict_size(settings, backbone),
        device,
        choose_precision(precision, device),
        prior_correction(folds.target[folds.fold != fold], settings, n_classes=n_classes),
    )
    return Trained(done, stored, model)


def _settings_json(folder: Path, done: Mapping[str, Any]) -> dict[str, Any]:
    """The settings.json of a fold that is done, checked to be what it was trained with."""
    path, hint = folder / "settings.json", f"remove {folder} and train it again"
    stored: dict[str, Any] = read_json(path, hint=hint)
    if done["files"].get(path.name) not in (None, digest(path.read_bytes())):
        raise UserError(f"{path} is not the file that the fold was trained with", hint=hint)
    return stored


def _settings_of(stored: Mapping[str, Any]) -> FullSettings:
    """The settings in a settings.json."""
    known = {field.name for field in fields(FullSettings)}
    return FullSettings(**{key: value for key, value in stored["settings"].items() if key in known})


def write_network(folder: Path, network: nn.Module) -> None:
    """Write parameters and buffers as safetensors, in a fixed order, so that the same network is the same bytes."""
    state = sorted(network.state_dict().items())
    write_bytes(folder / "network.safetensors", save({name: value.cpu().contiguous() for name, value in state}))


@dataclass(frozen=True)
class FoldFiles:
    """What a fold, or a refit (fold None), leaves in its folder under these views: predictions, and that it is done."""

    workspace: Workspace
    key: JobKey
    folds: Folds
    store: PixelStore
    views: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.key.folder(self.workspace)

    @property
    def pixels(self) -> str:
        """A digest of the pixels that are predicted, and of which image they are."""
        return digest(json.dumps([digest(read_manifest_bytes(self.workspace)), *self.store.identity]).encode())

    def stored(self) -> dict[str, Seen]:
        """By view, the predictions of these pixels that are there and whole; none where they are of other pixels."""
        done = done_record(self.workspace, self.key)
        assert done is not None, f"{self.key.name} is not done"
        if (done.get("pixels"), done["folds_digest"]) != (self.pixels, self.folds.digest):
            return {}
        found = []
        for name in ("oof.npz", "test.npz") if self.key.fold is not None else ("test.npz",):
            path = self.folder / name
            if not path.is_file() or digest(path.read_bytes()) != done["files"][name]:
                return {}
            found.append(load_predictions(path, hint="").log_probs)
        oof, test = found[0] if len(found) == 2 else found[0][:0], found[-1]
        return {view: (oof[:, i], test[:, i]) for i, view in enumerate(done["views"])}

    def write_again(self, one: Trained, known: Mapping[str, Seen]) -> float | None:
        """Write the predictions of a fold that was trained before, under its views; returns the OOF error."""
        oofs, tests = (np.stack([known[view][part] for view in self.views], axis=1) for part in (0, 1))
        error = self.write_predictions(None if self.key.fold is None else oofs, tests)
        more = {key: one.done[key] for key in OF_TRAINING if key in one.done}
        self.write_done(one.settings_json, oof_top3_error=error, seconds=one.done["seconds"], more=more)
        return error

    def write_predictions(self, oof: np.ndarray | None, test: np.ndarray) -> float | None:
        """Write `oof.npz` and `test.npz`; returns the OOF top-3 error over the views' mean. A refit has no OOF.

        oof   (n, V, C) float32 log-probabilities of the fold's own images, in the order of folds.csv
        test  (T, V, C) float32, in the order of the store's `test_rows`
        """
        classes, views, own = np.array(self.folds.classes), np.array(self.views), self.folds.fold == self.key.fold
        error = None
        if oof is not None:
            made = Predictions(self.folds.image_id[own], classes, views, oof, self.folds.digest)
            save_predictions(self.folder / "oof.npz", made)
            error = topk_error(made.probs(), self.folds.target[own])
        image_id = self.store.image_id[self.store.test_rows]
        save_predictions(self.folder / "test.npz", Predictions(image_id, classes, views, test, self.folds.digest))
        return error

    def write_done(
        self,
        settings_json: Mapping[str, Any],
        *,
        oof_top3_error: float | None,
        seconds: float,
        more: Mapping[str, Any] = MappingProxyType({}),
        files: Sequence[str] = FILES,
    ) -> None:
        """Declare the fold done, after everything that it names by digest is written. files: of the folder."""
        fold = self.key.fold
        done = {
            **{key: settings_json[key] for key in ("run", "backbone", "seed", "folds_digest")},
            "fold": "all" if fold is None else fold,
            "n_folds": self.folds.n_folds,
            "views": list(self.views),
            "oof_top3_error": oof_top3_error,
            "seconds": round(seconds, 1),
            **more,
            "pixels": self.pixels,
            "prior_restored": settings_json["settings"].get("restore_prior", True),
            "files": {
                name: digest((self.folder / name).read_bytes())
                for name in files
                if fold is not None or name != "oof.npz"  # of a refit nothing is out of fold
            },
        }
        write_json(self.folder / "done.json", done)
