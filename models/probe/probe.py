"""A run of a frozen backbone: one pass, the heads of all folds, and what each head predicts under every view."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest
from folds.pixels.store import PixelStore, cached, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import STAGES, Backbone, build_network, resolve_backbone
from models.device import PRECISIONS, choose_device, run_precision
from models.input.sizes import largest_size, refuse_views, run_views, train_size
from models.jobs.hub import find_start, weights_name
from models.jobs.local import Task, anywhere
from models.probe.bodies import FrozenRun, Pass, apart, joined
from models.probe.features import FrozenBody
from models.probe.heads import probed_heads
from models.runs import PROBE, RunPlan, as_probe, begun_settings, done_folds, refuse_other_settings
from models.settings import EngineSettings, PredictSettings
from models.watch.events import JobEvent, JobKey, ProbeFitted, ProbeStarted


def probe_run(
    workspace: Workspace, plan: RunPlan, predict: PredictSettings, *, cache: Path | None = None, track: Track = silently
) -> Iterator[JobEvent]:
    """Probe the backbone of a plan, and yield what happens; folds that are done under these views stay.

    Of a plan only backbone, weights, image size, mirror, precision and device count. Everything that can be refused is
    refused before the pass. Nothing is drawn at random but the weights of `--no-pretrained`, by the folds' seed.
    """
    folds, store = load_folds(workspace), open_store(cached(workspace, cache, track=track))
    probe = _plan_probe(workspace, as_probe(plan), folds, predict)
    yield from probe.done_before
    if probe.lacking:
        yield from _probe_folds(workspace, probe, folds, store, predict, track=track)


def probe_tasks(
    workspace: Workspace, plans: Sequence[RunPlan], predict: PredictSettings, engine: EngineSettings
) -> list[Task]:
    """A task for the probe of each plan."""
    tasks = []
    for plan in plans:
        do = partial(probe_run, anywhere(workspace, engine), plan, predict, cache=engine.cache_root)
        name = as_probe(plan).name
        tasks.append(Task(JobKey(name, None), name, do, device=plan.settings.device))
    return tasks


def plans_to_probe(plans: Sequence[RunPlan]) -> list[RunPlan]:
    """The plans that start from weights, without those whose backbone, weights and size an earlier plan has too."""
    first: dict[tuple[str, str, int], RunPlan] = {}
    for plan in plans:
        if plan.has_weights:
            backbone = resolve_backbone(plan.backbone)
            first.setdefault((backbone.tag, weights_name(plan), train_size(plan.settings, backbone)), plan)
    return list(first.values())


def refuse_probes(workspace: Workspace, plans: Sequence[RunPlan], predict: PredictSettings) -> None:
    """Refuse what can be refused before the first pass of any of these probes."""
    folds = load_folds(workspace)
    for plan in plans:
        _plan_probe(workspace, as_probe(plan), folds, predict)


def _plan_probe(workspace: Workspace, plan: RunPlan, folds: Folds, predict: PredictSettings) -> FrozenRun:
    """The probe of a plan, and which of its folds are done under the views asked for; refuses other settings."""
    settings, parts = plan.settings, plan.parts
    backbones = [resolve_backbone(part.backbone) for part in parts]
    names = [weights_name(part) for part in parts]
    starts = [(backbone.tag, name) for backbone, name in zip(backbones, names, strict=True)]
    twice = next((part.backbone for i, part in enumerate(parts) if starts[i] in starts[:i]), None)
    if twice is not None:
        raise UserError(f"`--backbone {plan.backbone}` names {twice} twice", hint="name each backbone once")
    bodies = _bodies(workspace, plan, backbones, seed=folds.seed)
    settings_json = {
        "run": plan.name,
        "kind": PROBE,
        "backbone": joined(body.backbone.tag for body in bodies),
        "weights": joined(names),
        "seed": folds.seed,
        "folds_digest": folds.digest,
        "settings": {
            "image_size": joined(body.size for body in bodies),
            "precision": joined(body.precision_name for body in bodies),
            "mirror": settings.mirror,
            "stages": STAGES,
        },
    }
    refuse_other_settings(workspace, settings_json)
    usual = {run_views(predict, part.settings, resolve_backbone(part.backbone), part.has_weights) for part in parts}
    views = usual.pop() if len(usual) == 1 else predict.plain_views
    for body in bodies:
        refuse_views(views, body.backbone, own=body.size)
    done = {k: one for k, one in done_folds(workspace, plan.name).items() if one["views"] == list(views)}
    lacking = tuple(k for k in range(folds.n_folds) if k not in done)
    if lacking:  # a trial: a wrong file or size is refused now
        starting = zip(bodies, parts, strict=True)
        bodies = [replace(body, weights=find_start(part, body.backbone)) for body, part in starting]
        for body in bodies:
            build_network(body.backbone, 1, size=body.size, weights=body.weights)
    return FrozenRun(plan.name, settings_json, tuple(bodies), views, done, lacking)


def _bodies(workspace: Workspace, plan: RunPlan, backbones: Sequence[Backbone], *, seed: int) -> list[FrozenBody]:
    """The backbones as they are asked, in the precision that is set, that the run was begun with, or as measured."""
    settings, device = plan.settings, choose_device(plan.settings.device)
    stored = next(begun_settings(workspace, plan.name), None)
    begun = apart(stored["settings"]["precision"]) if stored else []
    bodies = []
    for i, backbone in enumerate(backbones):
        size, before = train_size(settings, backbone), {}
        if len(begun) == len(backbones):
            before = {"forward": name for name, one in PRECISIONS.items() if str(one) == f"torch.{begun[i]}"}  # noqa: B035
        precision = run_precision(settings.precision, device, backbone, size=size, way="forward", before=before)
        bodies.append(FrozenBody(backbone, None, size, device, precision, seed))
    return bodies


def _probe_folds(
    workspace: Workspace, probe: FrozenRun, folds: Folds, store: PixelStore, predict: PredictSettings, *, track: Track
) -> Iterator[JobEvent]:
    """One pass, all heads, and the predictions of the folds that lack them."""
    whole, device, n_test = JobKey(probe.name, None), probe.bodies[0].device, len(store.test_rows)
    for body in probe.bodies:
        started = ProbeStarted(
            tag=body.backbone.tag,
            n_train=len(folds.image_id),
            n_test=n_test,
            image_size=body.size,
            largest_size=min(largest_size(probe.views, body.size), store.longest_side),
            store_size=store.size,
            device=body.device.type,
            precision=body.precision_name,
        )
        yield JobEvent(whole, started)
    began = time.perf_counter()
    seen = Pass(workspace, probe, folds, store, probe.bodies, predict, track=track)
    featured = time.perf_counter()
    heads = probed_heads(workspace, folds, seen.averaged, device=device, track=track)
    fitted = time.perf_counter()
    yield JobEvent(whole, ProbeFitted(heads.strengths, featured - began, fitted - featured))
    # Of the very file of each backbone, downloaded or local; empty for random weights
    used = joined(digest(body.weights.read_bytes()) if body.weights else "" for body in probe.bodies)
    more, seconds = {"weights_digest": used} if used else {}, (fitted - began) / len(probe.lacking)  # of the one pass
    for k in probe.lacking:
        head, row = heads.heads[k], {"strength": heads.strengths[k]}
        yield seen.write(k, seen.predict(k, head.to(device).log_probs), row=row, more=more, seconds=seconds, head=head)
