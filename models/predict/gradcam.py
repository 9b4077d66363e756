"""Grad-CAM: the part of a network's last feature map that speaks for a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from folds.base.errors import first_few
from folds.base.workspace import Workspace
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.input.views import view_boxes
from models.predict.again import load_trained
from models.runs import done_folds, kind_of

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


def class_maps(
    workspace: Workspace, labels: Mapping[str, Sequence[str]], image_id: str, *, fold: int | None
) -> tuple[ClassMaps | None, list[str]]:
    """Maps of the first of some runs that has any, under the centre view, and why those before it have none.

    labels  of each run, the classes to draw
    fold    of a training image, so that its network was trained without it; None: a test image, the first network
    """
    folds, store, frozen, refused = load_folds(workspace), open_store(workspace), list[str](), list[str]()
    row = store.rows(np.array([image_id]), split="test" if fold is None else "train")
    found = None
    for run, classes in labels.items():
        done = done_folds(workspace, run)
        if not done or kind_of(workspace, run) is not None:
            frozen.append(run)
            continue
        number = next(iter(done)) if fold is None else fold
        if number not in done:
            refused.append(f"{run} has no network of fold {number}")
            continue
        model = load_trained(workspace, run, number, folds, device=torch.device("cpu")).model
        (seen,) = next(model.inputs(store, row, (VIEW,)))  # (1, 3, size, size)
        heat = grad_cam(model.network, seen, [folds.classes.index(label) for label in classes])
        if heat is not None:
            crop_share = model.backbone.crop_share
            (box,) = view_boxes(VIEW, width=store.width[row], height=store.height[row], crop_share=crop_share)
            left, top, right, bottom = box.tolist()
            found = ClassMaps(run, number, tuple(classes), heat, (left, top, right, bottom))
            break
        size = f"{model.size} x {model.size} pixels"
        refused.append(f"{run}: {model.backbone.tag} keeps no map of the picture behind its last layer at {size}")
    if frozen:
        refused.append(f"{first_few(frozen)}: no network that was trained here")
    return found, refused


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
