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
from torch import Tensor

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, write_bytes, write_json
from folds.pixels.store import PixelStore, cached, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import STAGES, Backbone, build_network, resolve_backbone
from models.device import PRECISIONS, choose_device, run_precision
from models.input.sizes import largest_size, refuse_views, train_size
from models.jobs.plan import find_start, weights_name
from models.predict.again import FoldFiles, test_rows
from models.probe.bodies import apart, joined
from models.probe.features import FeatureFile, FrozenBody, image_features
from models.probe.heads import FeatureRows, head_views, probed_heads
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
    bodies: tuple[FrozenBody, ...]  # of several the features stand side by side
    settings_json: dict[str, Any]
    done: dict[int, dict[str, Any]]  # done.json of the folds that are done under the views asked for
    lacking: tuple[int, ...]
    weights_digest: str  # of the very file of each backbone, downloaded or local; empty for random weights


def plan_probe(workspace: Workspace, plan: RunPlan, folds: Folds, predict: PredictSettings) -> Probe:
    """The probe of a plan, and which of its folds are done under the views asked for; refuses other settings."""
    settings, device, parts = plan.settings, choose_device(plan.settings.device), plan.parts
    backbones = [resolve_backbone(part.backbone) for part in parts]
    starts = [(backbone.tag, weights_name(part)) for backbone, part in zip(backbones, parts, strict=True)]
    twice = next((part.backbone for i, part in enumerate(parts) if starts[i] in starts[:i]), None)
    if twice is not None:
        raise UserError(f"`--backbone {plan.backbone}` names {twice} twice", hint="name each backbone once")
    sizes = [train_size(settings, backbone) for backbone in backbones]
    precisions = _precisions(workspace, plan, backbones, sizes, device)
    settings_json = {
        "run": plan.name,
        "kind": PROBE,
        "backbone": joined(tag for tag, _ in starts),
        "weights": joined(name for _, name in starts),
        "seed": folds.seed,
        "folds_digest": folds.digest,
        "settings": {
            "image_size": joined(sizes),
            "precision": joined(str(precision).removeprefix("torch.") for precision in precisions),
            "mirror": settings.mirror,
            "stages": STAGES,
        },
    }
    refuse_other_settings(workspace, settings_json)
    for backbone, size in zip(backbones, sizes, strict=True):
        refuse_views(predict.views, backbone, own=size)
    done = {k: one for k, one in done_folds(workspace, plan.name).items() if one["views"] == list(predict.views)}
    lacking = tuple(k for k in range(folds.n_folds) if k not in done)
    bodies = []
    for part, backbone, size, precision in zip(parts, backbones, sizes, precisions, strict=True):
        weights = find_start(part, backbone) if lacking else None
        if lacking:  # a trial: a wrong file or size is refused now
            build_network(backbone, 1, size=size, weights=weights)
        bodies.append(FrozenBody(backbone, weights, size, device, precision, folds.seed))
    weights_digest = joined(digest(body.weights.read_bytes()) if body.weights else "" for body in bodies)
    return Probe(plan.name, tuple(bodies), settings_json, done, lacking, weights_digest)


def _precisions(
    workspace: Workspace, plan: RunPlan, backbones: Sequence[Backbone], sizes: Sequence[int], device: torch.device
) -> list[torch.dtype]:
    """Of each backbone: as set, as the run was begun with, or as measured."""
    begun = [apart(one["settings"]["precision"]) for one in begun_settings(workspace, plan.name)][:1]
    found = []
    for i, (backbone, size) in enumerate(zip(backbones, sizes, strict=True)):
        own = [f"torch.{one[i]}" for one in begun if len(one) == len(backbones)]
        before = {"forward": name for name, one in PRECISIONS.items() if str(one) in own}  # noqa: B035  at most one
        name = plan.settings.precision
        found.append(run_precision(name, device, backbone, size=size, way="forward", before=before))
    return found


def _probe_folds(
    workspace: Workspace, probe: Probe, folds: Folds, store: PixelStore, predict: PredictSettings, *, track: Track
) -> Iterator[JobEvent]:
    """One pass, all heads, and the predictions of the folds that lack them."""
    whole, testing, device = JobKey(probe.name, None), test_rows(store), probe.bodies[0].device
    for body in probe.bodies:
        started = ProbeStarted(
            tag=body.backbone.tag,
            n_train=len(folds.image_id),
            n_test=len(testing),
            image_size=body.size,
            largest_size=largest_size(predict.views, body.size),
            store_size=store.size,
            device=body.device.type,
            precision=str(body.precision).removeprefix("torch."),
        )
        yield JobEvent(whole, started)

    def ask(rows: np.ndarray, views: Sequence[str], what: str) -> list[dict[str, FeatureFile]]:
        more: dict[str, Any] = {"batch_size": predict.predict_batch, "what": f"{probe.name}: {what}", "track": track}
        return [image_features(workspace, store, rows, body, views=views, **more) for body in probe.bodies]

    began = time.perf_counter()
    views = head_views(mirror=probe.settings_json["settings"]["mirror"])
    train = ask(store.rows(folds.image_id, split="train"), tuple(dict.fromkeys([*views, *predict.views])), "train")
    test = ask(testing, predict.views, "test")
    featured = time.perf_counter()
    averaged = [[found[view] for view in views] for found in train]
    heads = probed_heads(workspace, folds, averaged, device=device, track=track)
    fitted = time.perf_counter()
    yield JobEvent(whole, ProbeFitted(heads.strengths, featured - began, fitted - featured))
    seconds = (fitted - began) / len(probe.lacking)  # one pass served all folds
    for k in probe.lacking:
        own = np.flatnonzero(folds.fold == k)
        head, every = heads.heads[k].to(device), np.arange(len(testing))
        oof, tested = (
            np.stack([_log_probs(head, FeatureRows.under(view, of, device)(rows)) for view in predict.views], axis=1)
            for of, rows in ((train, own), (test, every))
        )
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


def _log_probs(head: Head, features: Tensor) -> np.ndarray:
    """(n, C) float32 from (n, D) float32 on the head's device."""
    return head.log_probs(features).cpu().numpy()
