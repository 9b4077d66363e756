"""A run of nearest neighbours: every image is looked up among the training images, by the features of another run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, read_json, sweep
from folds.pixels.store import cached, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import STAGES, resolve_backbone
from models.device import choose_device
from models.input.sizes import refuse_views
from models.jobs.local import Task, anywhere
from models.probe.bodies import FrozenRun, Pass, apart, probed_bodies, trained_body
from models.probe.features import FrozenBody
from models.probe.heads import FeatureRows
from models.probe.neighbours import choose, recall
from models.runs import KNN, PROBE, RunPlan, done_folds, kind_of, knn_name, own_size, refuse_other_settings
from models.settings import EngineSettings, PredictSettings
from models.watch.events import JobEvent, JobKey, NeighboursChosen

OF_FEATURES = ("image_size", "test_size", "precision", "mirror")  # settings on which a run's features depend


def knn_run(
    workspace: Workspace,
    of: str,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    device_name: str,
    cache: Path | None = None,
    track: Track = silently,
) -> Iterator[JobEvent]:
    """Look up every image by the features of the run `of`, and yield what happens; folds that are done stay.

    plans  the runs that the settings ask for: only they know the weights of a probe's backbone
    Fold k is looked up among the images of the other folds: by the frozen backbone, or by the network that was trained
    without fold k. Nothing is drawn at random.
    """
    folds, device = load_folds(workspace), choose_device(device_name)
    lookup = _plan_lookup(workspace, of, plans, folds, predict, device=device)
    yield from lookup.done_before
    if not lookup.lacking:
        return
    sweep(workspace.features)
    store, seen = open_store(cached(workspace, cache, track=track)), None
    for k in lookup.lacking:
        began = time.perf_counter()
        if seen is None or not lookup.bodies:  # one pass for all folds, or one for each
            bodies = lookup.bodies or (trained_body(workspace, of, k, folds, device=device),)
            seen = Pass(workspace, lookup, folds, store, bodies, predict, track=track)
        featured = time.perf_counter()
        features = FeatureRows.read(seen.averaged, seen.device)
        choice = choose(features, folds, k)
        chosen = time.perf_counter()
        others = np.flatnonzero(folds.fold != k)
        # No name for the memory: it would stay beside that of the next fold
        oof, test = seen.predict(k, partial(recall(features, folds, others).log_probs, choice=choice))
        looked_up = time.perf_counter()
        more, seconds = {"source": lookup.sources[k], **asdict(choice)}, looked_up - began
        done = seen.write(k, (oof, test), row=asdict(choice), more=more, seconds=seconds)
        happened = NeighboursChosen(
            **asdict(choice),
            features_seconds=featured - began,
            choice_seconds=chosen - featured,
            search_seconds=looked_up - chosen,
            images_per_second=len(lookup.views) * (len(oof) + len(test)) / max(looked_up - chosen, 1e-9),
        )
        yield JobEvent(done.key, happened)
        yield done


def knn_tasks(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    engine: EngineSettings,
    device_of: Mapping[str, str],
) -> list[Task]:
    """A task for the lookup by the features of each run. device_of: by the run's name"""
    tasks = []
    for of, device in device_of.items():
        name, where = knn_name(of), anywhere(workspace, engine)
        do = partial(knn_run, where, of, plans, predict, device_name=device, cache=engine.cache_root)
        tasks.append(Task(JobKey(name, None), name, do, device=device))
    return tasks


def refuse_lookups(
    workspace: Workspace, names: Sequence[str], plans: Sequence[RunPlan], predict: PredictSettings
) -> None:
    """Refuse what can be refused before the first pass of any of these runs."""
    folds = load_folds(workspace)
    for of in names:
        _plan_lookup(workspace, of, plans, folds, predict, device=torch.device("cpu"))


def _plan_lookup(
    workspace: Workspace,
    of: str,
    plans: Sequence[RunPlan],
    folds: Folds,
    predict: PredictSettings,
    *,
    device: torch.device,
) -> FrozenRun:
    """The lookup by a run's features, and which folds it lacks. Raises UserError where the run has none."""
    kind, parts, name = kind_of(workspace, of), done_folds(workspace, of), knn_name(of)
    if kind == KNN:
        raise UserError(f"{of} is made of nearest neighbours already", hint="`--run NAME` of a probe or a trained run")
    if not parts:
        raise UserError(
            f"the run {of} has no fold that is done", hint="`python run.py probe`, or `python run.py train`"
        )
    folder = workspace.fold(of, next(iter(parts)))
    stored = read_json(folder / "settings.json", hint=f"remove {folder} and make it again")
    settings = {key: value for key, value in stored["settings"].items() if value is not None}
    own_sizes = apart(settings["image_size"]) if kind == PROBE else [own_size(workspace, of)]
    views = predict.views or tuple(next(iter(parts.values()))["views"])
    for tag, size in zip(apart(stored["backbone"]), own_sizes, strict=True):
        refuse_views(views, resolve_backbone(tag), own=int(size or 0))
    settings_json = {
        **{key: stored[key] for key in ("backbone", "weights", "seed", "folds_digest")},
        "run": name,
        "kind": KNN,
        "settings": {"of": of, "stages": STAGES, **{key: settings[key] for key in OF_FEATURES if key in settings}},
    }
    if stored["folds_digest"] != folds.digest:
        raise UserError(f"{of} was made on other folds", hint=f"remove {workspace.models / of}")
    refuse_other_settings(workspace, settings_json)
    file = "head.safetensors" if kind else "network.safetensors"
    sources = {k: record["files"][file] for k, record in parts.items()}
    there = done_folds(workspace, name)
    done = {
        k: there[k]
        for k in parts
        if k in there and there[k]["views"] == list(views) and there[k].get("source") == sources[k]
    }
    lacking, bodies = tuple(k for k in parts if k not in done), list[FrozenBody]()
    if kind == PROBE and lacking:
        bodies = probed_bodies(workspace, of, plans, device=device, command="knn")
    return FrozenRun(name, settings_json, tuple(bodies), views, done, lacking, sources)
