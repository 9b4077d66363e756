"""Fits the heads of all folds to frozen features, each with a strength chosen inside its training part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from folds.base.progress import Track, silently
from folds.split.assign import Folds
from models.probe.logistic import Head, Logistic

STRENGTHS = tuple(4.0**power for power in range(1, -7, -1))  # walked downwards, until the loss rises
# Most images to train on for the choice of a strength. The best strength moves little with their number: 0.029, 0.039
# and 0.046 for 1,143, 2,286 and 4,573 images of Caltech-101, and the loss is flat around it.
CHOICE_ROWS = 16_384
CHOICE_TOLERANCE = 1e-3  # moves the loss by 0.001 and takes half the steps of the final fit
Features = Callable[[np.ndarray], Tensor]  # (m,) rows of the folds -> (m, D) float32 on the device, free to change


@dataclass(frozen=True)
class Heads:
    """One head per fold: head k has seen no image of fold k, and neither has its strength."""

    heads: tuple[Head, ...]
    strengths: tuple[float, ...]


def fit_heads(features: Features, folds: Folds, *, track: Track = silently) -> Heads:
    """The heads of all folds.

    features  of training images, by their rows in the folds; each inner problem serves both folds that it leaves out
    """
    inner = inner_splits(folds.fold, folds.group, n_folds=folds.n_folds)
    choices: dict[int, list[_Choice]] = {k: [] for k in range(folds.n_folds)}
    for split in track(inner, what="strengths", total=len(inner), unit="fits"):
        for k, choice in _choose(split, features, folds).items():
            choices[k].append(choice)
    fitted = []
    for k in track(range(folds.n_folds), what="heads", total=folds.n_folds, unit="fits"):
        strength = float(np.exp(np.mean([np.log(choice.strength) for choice in choices[k]])))
        train = np.flatnonzero(folds.fold != k)
        fitted.append((fit_head(features, folds, train, strength=strength, start=choices[k][0].head), strength))
    return Heads(tuple(head for head, _ in fitted), tuple(strength for _, strength in fitted))


def fit_head(features: Features, folds: Folds, rows: np.ndarray, *, strength: float, start: Head | None = None) -> Head:
    """A head fitted to these rows of the folds, at a strength that is known."""
    target = torch.from_numpy(folds.target[rows])
    return Logistic(features(rows), target, n_classes=len(folds.classes)).fit(strength, start=start)


@dataclass(frozen=True)
class InnerSplit:
    """Rows to train on, and for each outer fold that they leave out, the rows of its training part to be judged on."""

    train: np.ndarray
    valid: dict[int, np.ndarray]


def inner_splits(fold: np.ndarray, group: np.ndarray, *, n_folds: int) -> list[InnerSplit]:
    """Each outer fold stands in two splits: without it and the next fold, and without it and the one before.

    That is one fit per fold where all pairs were K - 1 for each. With two folds only, each training part is cut into
    halves that keep copies together.
    """
    if n_folds == 2:
        return [split for k in (0, 1) for split in _halves(k, fold, group)]
    pairs = sorted({tuple(sorted((k, (k + 1) % n_folds))) for k in range(n_folds)})
    return [
        InnerSplit(
            np.flatnonzero((fold != one) & (fold != other)),
            {one: np.flatnonzero(fold == other), other: np.flatnonzero(fold == one)},
        )
        for one, other in pairs
    ]


def _halves(k: int, fold: np.ndarray, group: np.ndarray) -> Iterator[InnerSplit]:
    part = np.flatnonzero(fold != k)
    half = np.unique(group[part], return_inverse=True)[1] % 2
    for which in (0, 1):
        if (half == which).any() and (half != which).any():
            yield InnerSplit(part[half == which], {k: part[half != which]})


@dataclass(frozen=True)
class _Choice:
    """The strength that one inner split proposes for an outer fold, and a head to start the final fit from."""

    strength: float
    head: Head


def _choose(split: InnerSplit, features: Features, folds: Folds) -> dict[int, _Choice]:
    """Walk down the strengths until the loss of every outer fold has risen once; what comes later changes no choice."""
    train = _thinned(split.train)
    target = torch.tensor(folds.target)
    problem = Logistic(features(train), target[train], n_classes=len(folds.classes))
    judges = {k: _judge(features, target, rows, known=problem.present) for k, rows in split.valid.items()}
    losses: dict[int, list[float]] = {k: [] for k in judges}
    heads: list[Head] = []
    for strength in STRENGTHS:
        heads.append(problem.fit(strength, start=heads[-1] if heads else None, tolerance=CHOICE_TOLERANCE))
        for k, judge in judges.items():
            if not _has_risen(losses[k]):
                losses[k].append(judge(heads[-1]))
        if all(map(_has_risen, losses.values())):
            break
    return {k: _Choice(lowest_strength(curve), heads[int(np.argmin(curve))]) for k, curve in losses.items()}


def _thinned(rows: np.ndarray) -> np.ndarray:
    """At most CHOICE_ROWS of the rows, evenly spread."""
    most = min(len(rows), CHOICE_ROWS)
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)] if most else rows


def _judge(features: Features, target: Tensor, rows: np.ndarray, *, known: Tensor) -> Callable[[Head], float]:
    """The mean log loss of a head on rows, those aside whose class it has not seen: no strength helps them."""
    rows = _thinned(rows[np.isin(target.numpy()[rows], known.cpu().numpy())])
    seen, truth = features(rows), target[rows]

    def loss(head: Head) -> float:
        log_probs = head.log_probs(seen)
        return -float(log_probs[torch.arange(len(rows)), truth].mean()) if len(rows) else 0.0

    return loss


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
