"""A run of nearest neighbours: every image is looked up among the training images, by the features of another run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, read_json, sweep, write_bytes, write_json
from folds.pixels.store import PixelStore, cached, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import STAGES, resolve_backbone
from models.device import choose_device
from models.input.sizes import refuse_views
from models.predict.again import FoldFiles, test_rows
from models.probe.bodies import apart, probed_bodies, trained_body
from models.probe.features import FeatureFile, FrozenBody, image_features
from models.probe.heads import FeatureRows, head_views
from models.probe.neighbours import choose, recall
from models.runs import KNN, PROBE, RunPlan, done_folds, kind_of, knn_name, own_size, refuse_other_settings
from models.settings import PredictSettings
from models.watch.events import FoldDone, JobEvent, JobKey, NeighboursChosen

FILES = ("oof.npz", "test.npz")


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
    lookup = plan_lookup(workspace, of, plans, folds, predict, device=device)
    for k, done in lookup.done.items():
        before = FoldDone(done["oof_top3_error"], done["seconds"], trained=False, views=tuple(done["views"]))
        yield JobEvent(JobKey(lookup.name, k), before)
    if not lookup.lacking:
        return
    sweep(workspace.features)
    store = open_store(cached(workspace, cache, track=track))
    seen: _Seen | None = None
    for k in lookup.lacking:
        began = time.perf_counter()
        if seen is None or not lookup.bodies:  # one pass for all folds, or one for each
            bodies = lookup.bodies or (trained_body(workspace, of, k, folds, device=device),)
            seen = _see(workspace, lookup, folds, store, bodies, predict, track=track)
        featured = time.perf_counter()
        yield from _fold(workspace, lookup, folds, store, k, seen, predict, since=(began, featured))


@dataclass(frozen=True)
class Lookup:
    """What was checked before the first pass.

    bodies   the frozen backbones that see the images of all folds; none where each fold's own network does
    sources  by fold, the digest of the head or network that was fitted to its training part
    """

    name: str
    settings_json: dict[str, Any]
    bodies: tuple[FrozenBody, ...]
    sources: Mapping[int, str]
    done: dict[int, dict[str, Any]]  # done.json of the folds that are done, by these weights and views
    lacking: tuple[int, ...]


def refuse_lookups(
    workspace: Workspace, names: Sequence[str], plans: Sequence[RunPlan], predict: PredictSettings
) -> None:
    """Refuse what can be refused before the first pass of any of these runs."""
    folds = load_folds(workspace)
    for of in names:
        plan_lookup(workspace, of, plans, folds, predict, device=torch.device("cpu"))


def plan_lookup(
    workspace: Workspace,
    of: str,
    plans: Sequence[RunPlan],
    folds: Folds,
    predict: PredictSettings,
    *,
    device: torch.device,
) -> Lookup:
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
    settings = {key: stored["settings"].get(key) for key in ("image_size", "test_size", "precision", "mirror")}
    own_sizes = apart(settings["image_size"]) if kind == PROBE else [own_size(workspace, of)]
    for tag, size in zip(apart(stored["backbone"]), own_sizes, strict=True):
        refuse_views(predict.views, resolve_backbone(tag), own=int(size or 0))
    settings_json = {
        **{key: stored[key] for key in ("backbone", "weights", "seed", "folds_digest")},
        "run": name,
        "kind": KNN,
        "settings": {
            "of": of,
            "stages": STAGES,
            **{key: value for key, value in settings.items() if value is not None},
        },
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
        if k in there and there[k]["views"] == list(predict.views) and there[k].get("source") == sources[k]
    }
    lacking, bodies = tuple(k for k in parts if k not in done), list[FrozenBody]()
    if kind == PROBE and lacking:
        bodies = probed_bodies(workspace, of, plans, device=device, command="knn")
    return Lookup(name, settings_json, tuple(bodies), sources, done, lacking)


@dataclass(frozen=True)
class _Seen:
    """Features of all training and test images, of each backbone by view."""

    train: list[dict[str, FeatureFile]]
    test: list[dict[str, FeatureFile]]
    device: torch.device


def _see(
    workspace: Workspace,
    lookup: Lookup,
    folds: Folds,
    store: PixelStore,
    bodies: Sequence[FrozenBody],
    predict: PredictSettings,
    *,
    track: Track,
) -> _Seen:
    views = tuple(dict.fromkeys([*head_views(mirror=lookup.settings_json["settings"]["mirror"]), *predict.views]))

    def ask(rows: np.ndarray, views: Sequence[str], what: str) -> list[dict[str, FeatureFile]]:
        more: dict[str, Any] = {"batch_size": predict.predict_batch, "what": f"{lookup.name}: {what}", "track": track}
        return [image_features(workspace, store, rows, body, views=views, **more) for body in bodies]

    train = ask(store.rows(folds.image_id, split="train"), views, "train")
    return _Seen(train, ask(test_rows(store), predict.views, "test"), bodies[0].device)


def _fold(
    workspace: Workspace,
    lookup: Lookup,
    folds: Folds,
    store: PixelStore,
    k: int,
    seen: _Seen,
    predict: PredictSettings,
    *,
    since: tuple[float, float],
) -> Iterator[JobEvent]:
    """Choose inside the training part, look up the fold's own images and all test images, and write."""
    (began, featured), views = since, tuple(predict.views)
    mirror = lookup.settings_json["settings"]["mirror"]
    files = [[found[view] for view in head_views(mirror=mirror)] for found in seen.train]
    features = FeatureRows.read(files, seen.device)
    choice = choose(features, folds, k)
    chosen = time.perf_counter()
    memory = recall(features, folds, np.flatnonzero(folds.fold != k))
    own, every = np.flatnonzero(folds.fold == k), np.arange(len(test_rows(store)))
    oof, test = (
        np.stack(
            [memory.log_probs(FeatureRows.under(view, of, seen.device)(rows), choice).cpu() for view in views], axis=1
        )
        for of, rows in ((seen.train, own), (seen.test, every))
    )
    looked_up = time.perf_counter()
    key = JobKey(lookup.name, k)
    made = FoldFiles(workspace, key, folds, store, views)
    folder = made.folder
    (folder / "done.json").unlink(missing_ok=True)  # other views or weights than before: not done until all of it is
    write_json(folder / "settings.json", lookup.settings_json)
    error = made.write_predictions(oof, test)
    row = {**asdict(choice), "valid_top3_error": error}
    write_bytes(folder / "log.jsonl", (json.dumps(row) + "\n").encode())
    more = {"source": lookup.sources[k], **asdict(choice)}
    made.write_done(lookup.settings_json, oof_top3_error=error, seconds=looked_up - began, more=more, files=FILES)
    happened = NeighboursChosen(
        **asdict(choice),
        features_seconds=featured - began,
        choice_seconds=chosen - featured,
        search_seconds=looked_up - chosen,
        images_per_second=len(views) * (len(own) + len(every)) / max(looked_up - chosen, 1e-9),
    )
    yield JobEvent(key, happened)
    yield JobEvent(key, FoldDone(error, looked_up - began, trained=True, views=views))
