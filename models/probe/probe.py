"""A run of a frozen backbone: one pass, the heads of all folds, and what each head predicts under every view."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, write_bytes, write_json
from folds.pixels.cache import cached
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import build_network, resolve_backbone
from models.device import PRECISIONS, choose_device, run_precision
from models.input.sizes import largest_size, refuse_views, train_size
from models.jobs.plan import find_start, weights_name
from models.predict.again import FoldFiles, test_rows
from models.probe.features import FeatureFile, FrozenBody, image_features
from models.probe.heads import head_views, probed_heads
from models.probe.logistic import Head
from models.runs import PROBE, RunPlan, as_probe, begun_settings, done_folds, refuse_other_settings
from models.settings import PredictSettings
from models.watch.events import FoldDone, JobEvent, JobKey, ProbeFitted, ProbeStarted

FILES = ("head.safetensors", "oof.npz", "test.npz")


def probe_runs(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    cache: Path | None = None,
    track: Track = silently,
) -> Iterator[JobEvent]:
    """Probe the backbone of every plan, and yield what happens; folds that are done under these views stay.

    Of a plan only backbone, weights, image size, mirror, precision and device count. Everything that can be refused is
    refused before the first pass. Nothing is drawn at random but the weights of `--no-pretrained`, by the folds' seed.
    """
    folds, store = load_folds(workspace), open_store(cached(workspace, cache, track=track))
    for probe in refuse_probes(workspace, plans, predict):
        for k, done in probe.done.items():
            before = FoldDone(done["oof_top3_error"], done["seconds"], trained=False, views=tuple(done["views"]))
            yield JobEvent(JobKey(probe.name, k), before)
        if probe.lacking:
            yield from _probe_folds(workspace, probe, folds, store, predict, track=track)


def plans_to_probe(plans: Sequence[RunPlan]) -> list[RunPlan]:
    """The plans that start from weights, without those whose backbone, weights and size an earlier plan has too."""
    first: dict[tuple[str, str, int], RunPlan] = {}
    for plan in plans:
        if plan.has_weights:
            backbone = resolve_backbone(plan.backbone)
            first.setdefault((backbone.tag, weights_name(plan), train_size(plan.settings, backbone)), plan)
    return list(first.values())


def refuse_probes(workspace: Workspace, plans: Sequence[RunPlan], predict: PredictSettings) -> list[Probe]:
    """The probes of all plans. Raises UserError for what can be refused before the first pass."""
    folds = load_folds(workspace)
    return [plan_probe(workspace, as_probe(plan), folds, predict) for plan in plans]


@dataclass(frozen=True)
class Probe:
    """A run to probe, with everything that was checked before the first one began."""

    name: str
    body: FrozenBody
    settings_json: dict[str, Any]
    done: dict[int, dict[str, Any]]  # done.json of the folds that are done under the views asked for
    lacking: tuple[int, ...]
    weights_digest: str  # of the very file, downloaded or local; empty for random weights


def plan_probe(workspace: Workspace, plan: RunPlan, folds: Folds, predict: PredictSettings) -> Probe:
    """The probe of a plan, and which of its folds are done under the views asked for; refuses other settings."""
    backbone, settings = resolve_backbone(plan.backbone), plan.settings
    device, size = choose_device(settings.device), train_size(settings, backbone)
    begun = {f"torch.{one['settings']['precision']}" for one in begun_settings(workspace, plan.name)}
    before = {"forward": name for name, one in PRECISIONS.items() if str(one) in begun}  # noqa: B035  at most one
    precision = run_precision(settings.precision, device, backbone, size=size, way="forward", before=before)
    settings_json = {
        "run": plan.name,
        "kind": PROBE,
        "backbone": backbone.tag,
        "weights": weights_name(plan),
        "seed": folds.seed,
        "folds_digest": folds.digest,
        "settings": {
            "image_size": size,
            "precision": str(precision).removeprefix("torch."),
            "mirror": settings.mirror,
        },
    }
    refuse_other_settings(workspace, settings_json)
    refuse_views(predict.views, backbone, own=size)
    done = {k: one for k, one in done_folds(workspace, plan.name).items() if one["views"] == list(predict.views)}
    lacking = tuple(k for k in range(folds.n_folds) if k not in done)
    weights = find_start(plan, backbone) if lacking else None
    if lacking:  # a trial: a wrong file or size is refused now
        build_network(backbone, 1, size=size, weights=weights)
    body = FrozenBody(backbone, weights, size, device, precision, folds.seed)
    return Probe(plan.name, body, settings_json, done, lacking, digest(weights.read_bytes()) if weights else "")


def _probe_folds(
    workspace: Workspace, probe: Probe, folds: Folds, store: PixelStore, predict: PredictSettings, *, track: Track
) -> Iterator[JobEvent]:
    """One pass, all heads, and the predictions of the folds that lack them."""
    settings, body, testing = probe.settings_json["settings"], probe.body, test_rows(store)
    whole = JobKey(probe.name, None)
    started = ProbeStarted(
        tag=body.backbone.tag,
        n_train=len(folds.image_id),
        n_test=len(testing),
        image_size=body.size,
        largest_size=largest_size(predict.views, body.size),
        store_size=store.size,
        device=body.device.type,
        precision=settings["precision"],
    )
    yield JobEvent(whole, started)

    def ask(rows: np.ndarray, views: Sequence[str], what: str) -> dict[str, FeatureFile]:
        size, words = predict.predict_batch, f"{probe.name}: {what}"
        return image_features(workspace, store, rows, body, views=views, batch_size=size, what=words, track=track)

    began = time.perf_counter()
    views = head_views(mirror=settings["mirror"])
    train = ask(store.rows(folds.image_id, split="train"), tuple(dict.fromkeys([*views, *predict.views])), "train")
    test = ask(testing, predict.views, "test")
    featured = time.perf_counter()
    heads = probed_heads(workspace, folds, [train[view] for view in views], device=body.device, track=track)
    fitted = time.perf_counter()
    yield JobEvent(whole, ProbeFitted(heads.strengths, featured - began, fitted - featured))
    seconds = (fitted - began) / len(probe.lacking)  # one pass served all folds
    for k in probe.lacking:
        own = np.flatnonzero(folds.fold == k)
        oof = np.stack([_log_probs(heads.heads[k], train[view], body, own) for view in predict.views], axis=1)
        tested = np.stack([_log_probs(heads.heads[k], test[view], body) for view in predict.views], axis=1)
        files = FoldFiles(workspace, JobKey(probe.name, k), folds, store, tuple(predict.views))
        folder = files.folder
        (folder / "done.json").unlink(missing_ok=True)  # other views than before: not done until all of it is
        write_json(folder / "settings.json", probe.settings_json)
        write_bytes(folder / "head.safetensors", save({"weight": heads.heads[k].weight, "bias": heads.heads[k].bias}))
        error = files.write_predictions(oof, tested)
        row = {"strength": heads.strengths[k], "valid_top3_error": error}
        write_bytes(folder / "log.jsonl", (json.dumps(row) + "\n").encode())
        more = {"weights_digest": probe.weights_digest} if probe.weights_digest else {}
        files.write_done(probe.settings_json, oof_top3_error=error, seconds=seconds, more=more, files=FILES)
        yield JobEvent(files.key, FoldDone(error, seconds, trained=True, views=files.views))


def _log_probs(head: Head, file: FeatureFile, body: FrozenBody, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(n, C) float32 for rows of a file of features under one view, computed on the body's device."""
    features = torch.from_numpy(file.load()[rows].astype(np.float32)).to(body.device)
    return head.to(body.device).log_probs(features).cpu().numpy()
