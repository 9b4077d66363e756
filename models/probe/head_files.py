"""Keeps fitted heads on disk, all folds in one file, and gives `train` the head that a fold starts from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json, write_bytes, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.backbones import Backbone, one_head
from models.probe.features import FeatureFile, image_features
from models.probe.frozen import FrozenBody
from models.probe.heads import Features, Heads, fit_head, fit_heads
from models.probe.logistic import Head

VERSION = 1  # of these files and of how heads are fitted: files of another version are made anew


def start_head(
    workspace: Workspace,
    folds: Folds,
    store: PixelStore,
    *,
    backbone: Backbone,
    weights: Path,
    size: int,
    fold: int | None,
    device: torch.device,
    precision: torch.dtype,
    mirror: bool = True,
    batch_size: int = 128,
    track: Track = silently,
) -> tuple[Tensor, Tensor]:
    """A fold's head on frozen features: weight (C, D) and bias (C,), float32 on the host, for the natural class prior.

    fold    None for all images, at the mean strength of the folds
    mirror  whether a mirrored image is as good as the image
    The first fold that asks makes the features and the heads of all folds; the others read them.
    """
    body = FrozenBody(backbone, weights, size, device, precision)
    rows = store.rows(folds.image_id, split="train")
    files = image_features(
        workspace,
        store,
        rows,
        body,
        views=head_views(mirror=mirror),
        batch_size=batch_size,
        what="features for the head",
        track=track,
    )
    heads = probed_heads(workspace, folds, files, device=device, track=track)
    head = heads.heads[fold] if fold is not None else _head_of_all(workspace, folds, files, heads, device=device)
    return head.weight.cpu(), head.bias.cpu()


def set_head(network: nn.Module, weight: Tensor, bias: Tensor) -> bool:
    """Put a head into the network's classifier. False, and nothing changed, where that is not one nn.Linear like it."""
    linear = one_head(network)
    if linear is None or linear.weight.shape != weight.shape:
        return False
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return True


def head_views(*, mirror: bool) -> tuple[str, ...]:
    """The views whose mean features a head is fitted to.

    Caltech-101, frozen resnet18, 3 folds, one strength: OOF log loss 1.340; the centre alone 1.363; both views as
    rows of their own 1.337, at twice the work.
    """
    return ("centre", "mirror") if mirror else ("centre",)


def probed_heads(
    workspace: Workspace,
    folds: Folds,
    files: Sequence[FeatureFile],
    *,
    device: torch.device,
    track: Track = silently,
) -> Heads:
    """The heads of all folds, from disk where they were fitted before.

    files  features of the folds' images, in the order of the folds, under each of the `head_views`
    """
    return _kept(workspace, _facts(folds, files), lambda: fit_heads(mean_features(files, device), folds, track=track))


def _head_of_all(
    workspace: Workspace, folds: Folds, files: Sequence[FeatureFile], heads: Heads, *, device: torch.device
) -> Head:
    strength = float(np.exp(np.mean(np.log(heads.strengths))))

    def fit() -> Heads:
        rows = np.arange(len(folds.image_id))
        return Heads((fit_head(mean_features(files, device), folds, rows, strength=strength),), (strength,))

    return _kept(workspace, {**_facts(folds, files), "fold": "all"}, fit).heads[0]


def mean_features(files: Sequence[FeatureFile], device: torch.device) -> Features:
    """What gives the features of rows, averaged over files of the same images. (m, D) float32."""
    views = [file.load() for file in files]

    def features(rows: np.ndarray) -> Tensor:
        mean = np.zeros((len(rows), views[0].shape[1]), dtype=np.float32)
        for view in views:
            mean += view[rows]
        return torch.from_numpy(mean / np.float32(len(views))).to(device)

    return features


def _facts(folds: Folds, files: Sequence[FeatureFile]) -> dict[str, Any]:
    return {"version": VERSION, "features": [file.key for file in files], "folds": folds.digest}


def _kept(workspace: Workspace, facts: dict[str, Any], fit: Callable[[], Heads]) -> Heads:
    """The heads of these facts, read where they lie whole, else fitted and written."""
    path = workspace.features / f"{digest(json.dumps(facts, sort_keys=True).encode())}.safetensors"
    heads = _read(path, facts)
    if heads is None:
        heads = fit()
        data = _bytes(heads)
        write_bytes(path, data)
        write_json(path.with_suffix(".json"), {"facts": facts, "digest": digest(data)})
    return heads


def _bytes(heads: Heads) -> bytes:
    """Safetensors: weight (K, C, D) and bias (K, C) float32, strength (K,) float64."""
    return save(
        {
            "weight": torch.stack([head.weight.cpu() for head in heads.heads]),
            "bias": torch.stack([head.bias.cpu() for head in heads.heads]),
            "strength": torch.tensor(heads.strengths, dtype=torch.float64),
        }
    )


def _read(path: Path, facts: dict[str, Any]) -> Heads | None:
    """The heads of a file; None where it is absent, damaged or of other facts."""
    try:
        head, data = read_json(path.with_suffix(".json"), hint=""), path.read_bytes()
        if head["facts"] != facts or head["digest"] != digest(data):
            return None
    except (UserError, OSError, KeyError, TypeError):
        return None
    tensors = load(data)
    heads = (Head(weight, bias) for weight, bias in zip(tensors["weight"], tensors["bias"], strict=True))
    return Heads(tuple(heads), tuple(tensors["strength"].tolist()))
