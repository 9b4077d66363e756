"""Grad-CAM: the part of a network's last feature map that speaks for a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from folds.base.errors import UserError
from folds.base.workspace import Workspace
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.input.views import view_boxes
from models.predict.again import load_trained
from models.runs import PROBE, done_folds, kind_of

VIEW = "centre"


@dataclass(frozen=True)
class ClassMaps:
    """What one network of a run sees in one picture, for each of some classes.

    heat  (classes, h, w) float32 in [0, 1]: 1 where most speaks for the class, all 0 where nothing does
    box   of the part of the picture that it sees, in shares of it: left, top, right, bottom
    """

    run: str
    fold: int
    classes: tuple[str, ...]
    heat: np.ndarray
    box: tuple[float, float, float, float]


def class_maps(workspace: Workspace, run: str, image_id: str, *, fold: int, labels: Sequence[str]) -> ClassMaps:
    """Maps of the network that was trained without `fold`, under the centre view.

    Raises UserError, saying why, where the run has no network of its own or the network keeps no map of the picture.
    """
    kind = kind_of(workspace, run)
    if kind is not None:
        what = "a probe: heads on a frozen backbone" if kind == PROBE else "a memory of features"
        raise UserError(f"{run} is {what}, with no network of its own to look into")
    if fold not in done_folds(workspace, run):
        raise UserError(f"{run} has no network of fold {fold}", hint=f"`python run.py train --run {run}`")
    folds, store = load_folds(workspace), open_store(workspace)
    model = load_trained(workspace, run, fold, folds, device=torch.device("cpu")).model
    row = store.rows(np.array([image_id]), split="train" if image_id in folds.image_id else "test")
    (seen,) = next(model.inputs(store, row, (VIEW,)))  # (1, 3, size, size)
    heat = grad_cam(model.network, seen, [folds.classes.index(label) for label in labels])
    if heat is None:
        size = f"{model.size} x {model.size} pixels"
        raise UserError(f"{run}: {model.backbone.tag} keeps no map of the picture behind its last layer at {size}")
    box = view_boxes(VIEW, width=store.width[row], height=store.height[row], crop_share=model.backbone.crop_share)
    left, top, right, bottom = box[0].tolist()
    return ClassMaps(run, fold, tuple(labels), heat, (left, top, right, bottom))


def first_maps(
    workspace: Workspace, labels: Mapping[str, Sequence[str]], image_id: str, *, fold: int
) -> tuple[ClassMaps | None, str]:
    """The maps of the first of some runs that has any, and why those before it have none. labels: of each run."""
    refused: list[str] = []
    for run, classes in labels.items():
        try:
            return class_maps(workspace, run, image_id, fold=fold, labels=classes), "; ".join(refused)
        except UserError as err:
            refused.append(err.message)
    return None, "; ".join(refused)


def grad_cam(network: nn.Module, seen: Tensor, targets: Sequence[int]) -> np.ndarray | None:
    """A map for each target class, (classes, h, w) float32 in [0, 1]; None where the features have no two dimensions.

    seen  (1, 3, size, size), what the network gets
    The channels of the last feature map are weighted with the mean gradient of the class's logit, and what is positive
    is kept; what the stages' own head adds to the logits has no part in it. Source: Selvaraju et al. 2017, Grad-CAM.
    """
    network.eval()
    features = network.forward_features(seen)  # type: ignore[operator]
    if not isinstance(features, Tensor) or features.ndim != 4 or min(features.shape[1:]) < 2:
        return None
    features = features.detach().requires_grad_(True)
    logits = network.forward_head(features)  # type: ignore[operator]
    count = getattr(network, "num_features", None)
    channels = 3 if features.shape[3] == count != features.shape[1] else 1  # last for Swin and its kin
    maps = []
    for target in targets:
        (gradient,) = torch.autograd.grad(logits[0, target], features, retain_graph=True)
        weight = gradient.mean(dim=[axis for axis in (1, 2, 3) if axis != channels], keepdim=True)
        maps.append((weight * features).sum(dim=channels).clamp(min=0)[0].detach())  # (h, w)
    return np.stack([(one / one.max() if one.max() > 0 else one).float().numpy() for one in maps])
