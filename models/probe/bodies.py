"""The networks that a run's features are asked of: its frozen backbones, or the network of one of its folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from folds.base.errors import UserError
from folds.base.workspace import Workspace, digest, read_json
from folds.split.assign import Folds
from models.backbones import Backbone, resolve_backbone
from models.jobs.plan import find_start
from models.predict.again import load_trained
from models.probe.features import FrozenBody
from models.runs import SIDE_BY_SIDE, RunPlan, done_folds
from models.watch.events import JobKey


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
        plan = next((plan for plan in singles if _starts_from(plan, backbone, wanted)), None)
        if plan is None and wanted:
            raise UserError(
                f"{run} is a probe of {tag} with the weights {wanted}, which the settings do not name",
                hint=f"`python run.py {command} --backbone {tag} --weights FILE` with the file that was probed",
            )
        weights = find_start(plan, backbone) if plan is not None and wanted else None
        found.append(FrozenBody(backbone, weights, int(size), device, getattr(torch, precision), stored["seed"]))
    return found


def trained_body(workspace: Workspace, run: str, fold: int, folds: Folds, *, device: torch.device) -> FrozenBody:
    """The network of a fold, as it predicts. Raises UserError where its files are not those that were written."""
    model = load_trained(workspace, run, fold, folds, device=device).model
    path = JobKey(run, fold).folder(workspace) / "network.safetensors"
    return FrozenBody(model.backbone, path, model.size, device, model.precision, is_trained=True)


def _starts_from(plan: RunPlan, backbone: Backbone, wanted: str) -> bool:
    """Whether a plan's weights file is the one with this digest."""
    if resolve_backbone(plan.backbone).tag != backbone.tag or not plan.has_weights:
        return False
    path = find_start(plan, backbone)
    return path is not None and path.is_file() and digest(path.read_bytes()) == wanted
