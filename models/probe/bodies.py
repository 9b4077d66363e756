"""The frozen networks of a probe or of its neighbours: which, their pass over all images, and what is made of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from folds.base.errors import UserError
from folds.base.progress import Track
from folds.base.workspace import Workspace, digest, read_json, write_bytes, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.backbones import resolve_backbone
from models.jobs.hub import find_start
from models.predict.again import FoldFiles, load_trained
from models.predict.model import Passes
from models.probe.features import FeatureFile, FrozenBody, image_features
from models.probe.heads import FeatureRows, head_views
from models.probe.logistic import Head
from models.runs import SIDE_BY_SIDE, RunPlan, done_folds
from models.settings import PredictSettings
from models.watch.events import FoldDone, JobEvent, JobKey

Predicted = tuple[np.ndarray, np.ndarray]  # (n, V, C) float32 of the fold's own and (T, V, C) of the test images


@dataclass(frozen=True)
class FrozenRun:
    """A run to make, with everything that was checked before the first pass.

    bodies   the frozen backbones that see the images of all folds; none where each fold's own network does
    views    that are predicted
    done     done.json of the folds that are done, under these views; lacking: the other folds
    sources  of neighbours by fold, the digest of the head or network that was fitted to its training part
    """

    name: str
    settings_json: dict[str, Any]
    bodies: tuple[FrozenBody, ...]
    views: tuple[str, ...]
    done: dict[int, dict[str, Any]]
    lacking: tuple[int, ...]
    sources: Mapping[int, str] = field(default_factory=dict)

    @property
    def done_before(self) -> list[JobEvent]:
        return [JobEvent(JobKey(self.name, k), FoldDone.before(record)) for k, record in self.done.items()]


class Pass:
    """The features of all images by some backbones, computed in one pass where they are not on disk.

    averaged  of each backbone the files of the training images under the views whose mean is fitted
    """

    def __init__(
        self,
        workspace: Workspace,
        run: FrozenRun,
        folds: Folds,
        store: PixelStore,
        bodies: Sequence[FrozenBody],
        predict: PredictSettings,
        *,
        track: Track,
    ) -> None:
        self.workspace, self.run, self.folds, self.store = workspace, run, folds, store
        self.device, self.views = bodies[0].device, run.views

        def ask(rows: np.ndarray, views: Sequence[str], what: str) -> list[dict[str, FeatureFile]]:
            how: Passes = {"batch_size": predict.predict_batch, "what": f"{run.name}: {what}", "track": track}
            return [image_features(workspace, store, rows, body, views=views, **how) for body in bodies]

        fitted = head_views(mirror=run.settings_json["settings"]["mirror"])
        rows, views = store.rows(folds.image_id, split="train"), tuple(dict.fromkeys([*fitted, *self.views]))
        self.train, self.test = ask(rows, views, "train"), ask(store.test_rows, self.views, "test")
        self.averaged = [[found[view] for view in fitted] for found in self.train]

    def predict(self, fold: int, log_probs: Callable[[Tensor], Tensor]) -> Predicted:
        """What a fold predicts. log_probs: of features (n, D) on the device the (n, C)"""
        made = []
        for files, rows in (
            (self.train, np.flatnonzero(self.folds.fold == fold)),
            (self.test, np.arange(len(self.store.test_rows))),
        ):
            views = [FeatureRows.read([[one[view]] for one in files], self.device) for view in self.views]
            made.append(np.stack([log_probs(features(rows)).cpu().numpy() for features in views], axis=1))
        return made[0], made[1]

    def write(
        self,
        fold: int,
        predicted: Predicted,
        *,
        row: dict[str, Any],
        more: dict[str, Any],
        seconds: float,
        head: Head | None = None,
    ) -> JobEvent:
        """Write a fold's folder, `done.json` last. row: of log.jsonl, without the error; more: of done.json"""
        files = FoldFiles(self.workspace, JobKey(self.run.name, fold), self.folds, self.store, self.views)
        folder, names = files.folder, ["oof.npz", "test.npz"]
        # Made before under other views or with other weights, it is not done until all of it is written
        (folder / "done.json").unlink(missing_ok=True)
        write_json(folder / "settings.json", self.run.settings_json)
        if head is not None:
            names.insert(0, "head.safetensors")
            write_bytes(folder / names[0], save({"weight": head.weight, "bias": head.bias}))
        error = files.write_predictions(*predicted)
        write_bytes(folder / "log.jsonl", (json.dumps({**row, "valid_top3_error": error}) + "\n").encode())
        files.write_done(self.run.settings_json, oof_top3_error=error, seconds=seconds, more=more, files=names)
        return JobEvent(files.key, FoldDone(error, seconds, trained=True, views=self.views))


def joined(values: Iterable[Any]) -> Any:
    """What a run of several backbones records of each, such as `224+240`; of one backbone the value itself."""
    listed = list(values)
    return listed[0] if len(listed) == 1 else SIDE_BY_SIDE.join(map(str, listed))


def apart(value: Any) -> list[str]:
    """The values that `joined` has joined, as text."""
    return str(value).split(SIDE_BY_SIDE)


def probed_bodies(
    workspace: Workspace, run: str, plans: Sequence[RunPlan], *, device: torch.device, command: str
) -> list[FrozenBody]:
    """The frozen backbones of a probe.

    plans  the runs that the settings ask for: the weights are looked for among theirs
    Raises UserError where the weights that were probed are not at hand; command: what to type then.
    """
    fold, done = next(iter(done_folds(workspace, run).items()))
    stored = read_json(
        workspace.fold(run, fold) / "settings.json", hint=f"remove {workspace.models / run} and probe again"
    )
    settings, found = stored["settings"], []
    singles = [part for plan in plans for part in plan.parts]
    each = (stored["backbone"], done.get("weights_digest", ""), settings["image_size"], settings["precision"])
    for tag, wanted, size, precision in zip(*map(apart, each), strict=True):
        backbone = resolve_backbone(tag)
        likely = (one for one in singles if resolve_backbone(one.backbone).tag == backbone.tag and one.has_weights)
        starts = (find_start(plan, backbone) for plan in likely) if wanted else ()
        known = (path for path in starts if path is not None and path.is_file())
        weights = next((path for path in known if digest(path.read_bytes()) == wanted), None)
        if weights is None and wanted:
            raise UserError(
                f"{run} is a probe of {tag} with the weights {wanted}, which the settings do not name",
                hint=f"`python run.py {command} --backbone {tag} --weights FILE` with the file that was probed",
            )
        found.append(FrozenBody(backbone, weights, int(size), device, getattr(torch, precision), stored["seed"]))
    return found


def trained_body(workspace: Workspace, run: str, fold: int, folds: Folds, *, device: torch.device) -> FrozenBody:
    """The network of a fold, as it predicts. Raises UserError where its files are not those that were written."""
    model = load_trained(workspace, run, fold, folds, device=device).model
    path = JobKey(run, fold).folder(workspace) / "network.safetensors"
    return FrozenBody(model.backbone, path, model.size, device, model.precision, is_trained=True)
