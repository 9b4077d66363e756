"""Makes a run of a frozen backbone: one pass, all heads, and what each head predicts under every view."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, write_bytes, write_json
from folds.engine import SEQUENTIAL, EngineSettings
from folds.pixels.cache import cached
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import Folds, load_folds
from models.device import set_threads
from models.input.views import check_views
from models.predict.results import test_rows, write_done, write_predictions
from models.probe.features import FeatureFile, image_features
from models.probe.head_files import probed_heads
from models.probe.heads import Heads
from models.probe.logistic import Head
from models.probe.probe_plan import Probe, plan_probe
from models.runs import RunPlan, as_probe
from models.settings import PredictSettings
from models.watch.events import FoldDone, ProbeEvent, ProbeFitted, ProbeStarted

FILES = ("head.safetensors", "oof.npz", "test.npz")


def probe_runs(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    engine: EngineSettings = SEQUENTIAL,
    track: Track = silently,
) -> Iterator[ProbeEvent]:
    """Probe the backbone of every plan, and yield what happens; folds that are done under these views stay.

    Of a plan only backbone, weights, image size, mirror, precision and device count. Everything that can be refused is
    refused before the first pass. Nothing is drawn at random but the weights of `--no-pretrained`, by the folds' seed.
    """
    set_threads(engine)
    folds, store = load_folds(workspace), open_store(cached(workspace, engine.cache, track=track))
    check_views(predict.views)
    for probe in [plan_probe(workspace, as_probe(plan), folds, predict) for plan in plans]:
        yield from (_done_before(probe.name, k, one) for k, one in probe.done.items())
        if probe.lacking:
            yield from _probe_folds(workspace, probe, folds, store, predict, track=track)


def _done_before(run: str, fold: int, done: dict[str, Any]) -> FoldDone:
    return FoldDone(run, fold, done["oof_top3_error"], done["seconds"], trained=False, views=tuple(done["views"]))


@dataclass(frozen=True)
class _Seen:
    """The features of training and test images, by view."""

    train: dict[str, FeatureFile]
    test: dict[str, FeatureFile]


def _probe_folds(
    workspace: Workspace,
    probe: Probe,
    folds: Folds,
    store: PixelStore,
    predict: PredictSettings,
    *,
    track: Track,
) -> Iterator[ProbeEvent]:
    """One pass, all heads, and the predictions of the folds that lack them."""
    yield _started(probe, folds, store)
    began = time.perf_counter()
    seen = _ask(workspace, probe, folds, store, predict, track=track)
    featured = time.perf_counter()
    files = [seen.train[view] for view in probe.head_views]
    heads = probed_heads(workspace, folds, files, device=probe.body.device, track=track)
    fitted = time.perf_counter()
    yield ProbeFitted(probe.name, heads.strengths, featured - began, fitted - featured)
    share = (fitted - began) / len(probe.lacking)  # no fold has the pass for itself
    for k in probe.lacking:
        yield _write_fold(workspace, probe, folds, store, seen, heads, fold=k, views=predict.views, seconds=share)


def _started(probe: Probe, folds: Folds, store: PixelStore) -> ProbeStarted:
    return ProbeStarted(
        run=probe.name,
        tag=probe.body.backbone.tag,
        n_train=len(folds.image_id),
        n_test=len(test_rows(store)),
        image_size=probe.body.size,
        store_size=store.size,
        device=probe.body.device.type,
        precision=probe.settings_json["settings"]["precision"],
    )


def _ask(
    workspace: Workspace, probe: Probe, folds: Folds, store: PixelStore, predict: PredictSettings, *, track: Track
) -> _Seen:
    """The features of every image under the views to predict, and of training images under those of the heads too."""

    def ask(rows: np.ndarray, views: Sequence[str], what: str) -> dict[str, FeatureFile]:
        files = image_features(
            workspace,
            store,
            rows,
            probe.body,
            views=views,
            batch_size=predict.predict_batch,
            what=f"{probe.name}: {what}",
            track=track,
        )
        return dict(zip(views, files, strict=True))

    views = tuple(dict.fromkeys([*probe.head_views, *predict.views]))
    train = ask(store.rows(folds.image_id, split="train"), views, "train")
    return _Seen(train, ask(test_rows(store), predict.views, "test"))


def _write_fold(
    workspace: Workspace,
    probe: Probe,
    folds: Folds,
    store: PixelStore,
    seen: _Seen,
    heads: Heads,
    *,
    fold: int,
    views: Sequence[str],
    seconds: float,
) -> FoldDone:
    folder, head = workspace.fold(probe.name, fold), heads.heads[fold]
    own = np.flatnonzero(folds.fold == fold)
    oof = np.stack([_log_probs(head, seen.train[view], own) for view in views], axis=1)
    test = np.stack([_log_probs(head, seen.test[view]) for view in views], axis=1)
    (folder / "done.json").unlink(missing_ok=True)  # other views than before: not done until all of it is
    write_json(folder / "settings.json", probe.settings_json)
    write_bytes(folder / "head.safetensors", save({"weight": head.weight.cpu(), "bias": head.bias.cpu()}))
    error = write_predictions(folder, folds, store, fold=fold, views=views, oof=oof, test=test)
    strength = heads.strengths[fold]
    weights = {"weights_digest": probe.weights_digest} if probe.weights_digest else {}
    write_bytes(folder / "log.jsonl", (json.dumps({"strength": strength, "valid_top3_error": error}) + "\n").encode())
    write_done(
        folder,
        probe.settings_json,
        fold=fold,
        n_folds=folds.n_folds,
        views=views,
        oof_top3_error=error,
        seconds=seconds,
        more={"prior_restored": True, **weights},  # no sampling shifted it
        files=FILES,
    )
    return FoldDone(probe.name, fold, error, seconds, trained=True, views=tuple(views))


def _log_probs(head: Head, file: FeatureFile, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(n, C) float32 for rows of a file of features under one view."""
    features = torch.from_numpy(file.load()[rows].astype(np.float32)).to(head.weight.device)
    return head.log_probs(features).cpu().numpy()
