"""Heads on frozen features: fitted for all folds at once, each with a strength chosen inside its training part."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json_if_whole, write_bytes, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.backbones import STAGES
from models.probe.features import FeatureFile, FrozenBody, image_features
from models.probe.logistic import Head, Logistic

VERSION = 1  # of the files and of how heads are fitted: files of another version are made anew
STRENGTHS = tuple(4.0**power for power in range(1, -7, -1))  # tried downwards, until the loss rises
# Most images to train on for the choice of a strength. The best strength moves little with their number: 0.029, 0.039
# and 0.046 for 1,143, 2,286 and 4,573 images of Caltech-101, and the loss is flat around it.
CHOICE_ROWS = 16_384
CHOICE_TOLERANCE = 1e-3  # moves the loss by 0.001 and takes half the steps of the final fit
Views = Sequence[FeatureFile]  # one backbone's features of the same images under each view, of which the mean counts


@dataclass(frozen=True)
class FeatureRows:
    """What gives the features of images by their rows: the mean over the views, stages and backbones side by side.

    values  of each stage of each backbone under each view, (N, d) float
    """

    values: Sequence[Sequence[np.ndarray]]
    device: torch.device

    @classmethod
    def read(cls, files: Sequence[Views], device: torch.device, *, stages: int = STAGES) -> FeatureRows:
        """stages: as in `build_network`"""
        values = []
        for views in files:
            found = list(zip(*(view.stages() for view in views), strict=True))
            values += found[-1:] if stages == 1 else found
        return cls(values, device)

    @property
    def widths(self) -> list[int]:
        """How many features each stage of each backbone has."""
        return [views[0].shape[1] for views in self.values]

    def __call__(self, rows: np.ndarray) -> Tensor:
        """(m, D) float32 on the device, free to change. rows (m,)"""
        mean, start = np.zeros((len(rows), sum(self.widths)), dtype=np.float32), 0
        for views in self.values:
            block = mean[:, start : start + views[0].shape[1]]
            for view in views:
                block += view[rows]
            block /= np.float32(len(views))
            start += block.shape[1]
        return torch.from_numpy(mean).to(self.device)


@dataclass(frozen=True)
class Heads:
    """One head per fold, on the host: head k has seen no image of fold k, and neither has its strength."""

    heads: tuple[Head, ...]
    strengths: tuple[float, ...]


def start_head(
    workspace: Workspace,
    folds: Folds,
    store: PixelStore,
    body: FrozenBody,
    *,
    fold: int | None,
    mirror: bool = True,
    stages: int = 1,
    track: Track = silently,
) -> Head:
    """A fold's head on frozen features, on the host, for the natural class prior.

    fold    None for all images, at the mean strength of the folds
    mirror  whether a mirrored image is as good as the image
    stages  as in `build_network`
    The first fold that asks makes the features and the heads of all folds; the others read them.
    """
    rows, views, what = store.rows(folds.image_id, split="train"), head_views(mirror=mirror), "features for the head"
    files = [list(image_features(workspace, store, rows, body, views=views, what=what, track=track).values())]
    heads = probed_heads(workspace, folds, files, device=body.device, stages=stages, track=track)
    if fold is not None:
        return heads.heads[fold]
    strength, everything = float(np.exp(np.mean(np.log(heads.strengths)))), np.arange(len(folds.image_id))

    def fit(features: FeatureRows) -> Heads:
        return Heads((fit_head(features, folds, everything, strength=strength),), (strength,))

    return _kept(workspace, folds, files, fit, device=body.device, stages=stages, fold="all").heads[0]


def head_views(*, mirror: bool) -> tuple[str, ...]:
    """The views whose mean features a head is fitted to.

    Caltech-101, frozen resnet18, 3 folds, one strength: OOF log loss 1.340; the centre alone 1.363; both views as
    rows of their own 1.337, at twice the work.
    """
    return ("centre", "mirror") if mirror else ("centre",)


def probed_heads(
    workspace: Workspace,
    folds: Folds,
    files: Sequence[Views],
    *,
    device: torch.device,
    stages: int = STAGES,
    track: Track = silently,
) -> Heads:
    """The heads of all folds, from disk where they were fitted before.

    files  of each backbone: features of the folds' images, in the order of the folds, under each of the `head_views`
    """
    fit = partial(fit_heads, folds=folds, track=track)
    return _kept(workspace, folds, files, fit, device=device, stages=stages)


def _kept(
    workspace: Workspace,
    folds: Folds,
    files: Sequence[Views],
    fit: Callable[[FeatureRows], Heads],
    *,
    device: torch.device,
    stages: int,
    **which: str,
) -> Heads:
    """The heads that `fit` makes of these features, read where their file is whole, else fitted and written.

    The file is safetensors: weight (K, C, D) and bias (K, C) float32, strength (K,) float64.
    """
    keys = [[view.key for view in views] for views in files]
    features = keys if len(keys) > 1 else keys[0]
    facts = {"version": VERSION, "features": features, "stages": stages, "folds": folds.digest, **which}
    path = workspace.features / f"{digest(json.dumps(facts, sort_keys=True).encode())}.safetensors"
    head, data = read_json_if_whole(path.with_suffix(".json")), b""
    with suppress(OSError):
        data = path.read_bytes()
    if head.get("facts") != facts or head.get("digest") != digest(data):
        made = fit(FeatureRows.read(files, device, stages=stages))
        weight, bias = (torch.stack([getattr(one, name) for one in made.heads]) for name in ("weight", "bias"))
        data = save({"weight": weight, "bias": bias, "strength": torch.tensor(made.strengths, dtype=torch.float64)})
        write_bytes(path, data)
        write_json(path.with_suffix(".json"), {"facts": facts, "digest": digest(data)})
    tensors = load(data)
    heads = tuple(map(Head, tensors["weight"], tensors["bias"]))
    return Heads(heads, tuple(tensors["strength"].tolist()))


def fit_heads(features: FeatureRows, folds: Folds, *, track: Track = silently) -> Heads:
    """The heads of all folds.

    features  of training images, by their rows in the folds; each inner problem serves both folds that it leaves out
    """
    inner = inner_splits(folds.fold, folds.group, n_folds=folds.n_folds)
    choices: dict[int, list[tuple[float, Head]]] = {k: [] for k in range(folds.n_folds)}
    for split in track(inner, what="strengths", total=len(inner), unit="fits"):
        for k, choice in _choose(split, features, folds).items():
            choices[k].append(choice)
    heads, strengths = [], []
    for k in track(range(folds.n_folds), what="heads", total=folds.n_folds, unit="fits"):
        strengths.append(float(np.exp(np.mean([np.log(strength) for strength, _ in choices[k]]))))
        start, train = choices[k][0][1], np.flatnonzero(folds.fold != k)
        heads.append(fit_head(features, folds, train, strength=strengths[-1], start=start))
    return Heads(tuple(heads), tuple(strengths))


def fit_head(
    features: FeatureRows, folds: Folds, rows: np.ndarray, *, strength: float, start: Head | None = None
) -> Head:
    """A head fitted to these rows of the folds, at a strength that is known; on the host."""
    target = torch.from_numpy(folds.target[rows])
    problem = Logistic(features(rows), target, n_classes=len(folds.classes), widths=features.widths)
    head = problem.fit(strength, start=start)
    return Head(head.weight.cpu(), head.bias.cpu())


@dataclass(frozen=True)
class InnerSplit:
    """Rows to train on, and for each outer fold that they leave out, the rows of its training part to validate on."""

    train: np.ndarray
    valid: dict[int, np.ndarray]


def inner_splits(fold: np.ndarray, group: np.ndarray, *, n_folds: int) -> list[InnerSplit]:
    """Each outer fold is in two splits: without it and the next fold, and without it and the one before.

    That is one fit per fold where all pairs were K - 1 for each. With two folds only, each training part is cut into
    halves that keep copies together.
    """
    if n_folds == 2:
        splits = []
        for k in (0, 1):
            part = np.flatnonzero(fold != k)
            ids = np.unique(group[part], return_inverse=True)[1]
            half = (ids if ids.any() else np.arange(len(part))) % 2 == 0  # a single group is cut image by image
            if not half.all():
                splits += [InnerSplit(part[own], {k: part[~own]}) for own in (half, ~half)]
        return splits
    pairs = sorted({tuple(sorted((k, (k + 1) % n_folds))) for k in range(n_folds)})
    return [
        InnerSplit(
            np.flatnonzero((fold != one) & (fold != other)),
            {one: np.flatnonzero(fold == other), other: np.flatnonzero(fold == one)},
        )
        for one, other in pairs
    ]


def _choose(split: InnerSplit, features: FeatureRows, folds: Folds) -> dict[int, tuple[float, Head]]:
    """For each outer fold the strength of least loss, and a head near it to start the final fit from.

    The strengths are tried downwards until every outer fold's loss has risen once; what comes later changes no choice.
    """
    train = thinned(split.train)
    target = torch.tensor(folds.target)
    problem = Logistic(features(train), target[train], n_classes=len(folds.classes), widths=features.widths)
    known = problem.present.cpu().numpy()
    seen = {}
    for k, rows in split.valid.items():
        own = thinned(rows[np.isin(folds.target[rows], known)])  # no strength helps classes that were not seen
        seen[k] = features(own), target[own]
    losses: dict[int, list[float]] = {k: [] for k in seen}
    heads: list[Head] = []
    for strength in STRENGTHS:
        heads.append(problem.fit(strength, start=heads[-1] if heads else None, tolerance=CHOICE_TOLERANCE))
        for k, (valid, truth) in seen.items():
            if not _has_risen(losses[k]):
                log_probs = heads[-1].log_probs(valid)
                losses[k].append(-float(log_probs[torch.arange(len(truth)), truth].mean()) if len(truth) else 0.0)
        if all(map(_has_risen, losses.values())):
            break
    return {k: (lowest_strength(curve), heads[int(np.argmin(curve))]) for k, curve in losses.items()}


def thinned(rows: np.ndarray) -> np.ndarray:
    """At most CHOICE_ROWS of the rows, evenly spread."""
    most = min(len(rows), CHOICE_ROWS)
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)] if most else rows


def _has_risen(losses: list[float]) -> bool:
    return len(losses) > 1 and losses[-1] >= losses[-2]


def lowest_strength(losses: list[float]) -> float:
    """The strength at the bottom of the parabola through the lowest loss and its neighbours, over the log of strength.

    losses  at STRENGTHS, from the first on; at either end the strength itself
    """
    i = int(np.argmin(losses))
    if i == 0 or i + 1 == len(losses):
        return STRENGTHS[i]
    left, middle, right = losses[i - 1 : i + 2]
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0  # within half a step: the middle is the lowest
    ratio = STRENGTHS[i + 1] / STRENGTHS[i]
    return float(STRENGTHS[i] * ratio**shift)
