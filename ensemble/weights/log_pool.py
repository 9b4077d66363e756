"""Fits weighted log-probabilities, with or without a bias per class, by their convex log loss.

With z_c = sum_m w_m s_m(c) + b_c and s_m = log(p_m + 1e-6), the log loss -z_y + log sum_c exp z_c is convex in (w, b).
One pass over the members gives value, gradient and Hessian of every fold, so that the fit on all images and the fits
without one fold share it; from the optimum on all images, leaving a fold out is rarely more than one Newton step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from ensemble.blend.recipe import Recipe
from ensemble.blend.threads import in_threads
from ensemble.members.members import Members
from ensemble.weights.convex import Local, bounded_newton_step, minimise
from ensemble.weights.objective import FLOOR

WEIGHT_SHRINKAGE = 1e-3  # times half the squared distance to equal weights, in nats: decides between copies only
BIAS_SD = 0.5  # a class's bias is believed to be this far from 0: exp(0.5) is a factor of 1.6
WARM_ROWS = 8000  # the first Newton steps are taken on so many images
PIECE_ROWS = 512  # (M, n, C) float32 at M = 15 is 3 MB: in the cache
SMALL_STEP = 1e-3  # nats: a step that gains less is taken without looking again; weights are then off by about 1e-3


@dataclass(frozen=True)
class PerFold:
    """Sums over the images of each fold: value (K,), gradient (K, P), Hessian (K, P, P), images (K,)."""

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    count: np.ndarray


class Piece(NamedTuple):
    """Some images of one fold: how to get their probabilities (M, n, C), and their targets (n,)."""

    fold: int
    probs: Callable[[], np.ndarray]
    target: np.ndarray


Pieces = Callable[[Sequence[int]], list[Piece]]  # of these folds


class LogPoolFits(NamedTuple):
    """Recipes without and with a bias per class, each fitted on all images and without one fold each."""

    plain: tuple[Recipe, list[Recipe]]
    biased: tuple[Recipe, list[Recipe]]


def fit_log_pools(members: Members) -> LogPoolFits:
    """Both fits; the second begins at the first."""
    n_members, folds = len(members), range(members.rows.n_folds)
    streamed = _streamed(members)
    sampled = _sampled(members) if len(members.rows) > 2 * WARM_ROWS else None
    point, fits = np.full(n_members, 1 / n_members), []
    for n_biases in (0, len(members.rows.classes)):
        lower = np.append(np.zeros(n_members), np.full(n_biases, -np.inf))
        point = np.append(point, np.zeros(n_biases))
        if sampled is not None:
            point = minimise(_Looker(sampled, folds, n_members), point, lower=lower, small=SMALL_STEP)
        looker = _Looker(streamed, folds, n_members)
        point = minimise(looker, point, lower=lower, small=SMALL_STEP)
        without = [_without_fold(looker, fold, lower=lower) for fold in folds]
        fits.append((_recipe(point, n_members), [_recipe(one, n_members) for one in without]))
    return LogPoolFits(*fits)


def _without_fold(looker: _Looker, fold: int, *, lower: np.ndarray) -> np.ndarray:
    """The fit on the other folds, beginning from the last point at which all folds were looked at."""
    others = [other for other in looker.folds if other != fold]
    local = _penalised(looker.last, looker.point, others, n_members=looker.n_members)
    step = bounded_newton_step(local, looker.point, lower=lower)
    if -(local.gradient @ step + 0.5 * step @ local.hessian @ step) < SMALL_STEP:
        return looker.point + step
    again = _Looker(looker.pieces, others, looker.n_members)
    return minimise(again, looker.point + step, lower=lower, small=SMALL_STEP)


class _Looker:
    """Looks at the penalised log loss of some folds, and remembers its last look fold by fold."""

    def __init__(self, pieces: Pieces, folds: Sequence[int], n_members: int) -> None:
        self.pieces, self.folds, self.n_members = pieces, list(folds), n_members

    def __call__(self, point: np.ndarray) -> Local:
        self.point, self.last = point, _look(self.pieces(self.folds), point, n_folds=max(self.folds) + 1)
        return _penalised(self.last, point, self.folds, n_members=self.n_members)


def _streamed(members: Members) -> Pieces:
    """All images of some folds, read from disk."""

    def pieces(folds: Sequence[int]) -> list[Piece]:
        return [
            Piece(fold, partial(members.stacked, piece), members.rows.target[piece])
            for fold in folds
            for piece in members.pieces(members.rows.of_fold(fold), size=PIECE_ROWS)
        ]

    return pieces


def _sampled(members: Members) -> Pieces:
    """Every n-th image, about WARM_ROWS of them, kept in memory."""
    stride = len(members.rows) // WARM_ROWS
    folds = range(members.rows.n_folds)
    places = [(k, rows) for k in folds for rows in members.pieces(members.rows.of_fold(k), size=PIECE_ROWS)]
    some = in_threads(lambda place: np.ascontiguousarray(members.every(stride, place[1])), places)
    kept = [
        Piece(fold, partial(np.asarray, probs), members.rows.target[rows][::stride])
        for (fold, rows), probs in zip(places, some, strict=True)
    ]
    return lambda folds: [piece for piece in kept if piece.fold in folds]


def _penalised(sums: PerFold, point: np.ndarray, folds: Sequence[int], *, n_members: int) -> Local:
    """The mean over the images of some folds, and the shrinkage of weights to equal ones and of biases to 0."""
    n = sums.count[folds].sum()
    value, gradient, hessian = (part[folds].sum(axis=0) / n for part in (sums.value, sums.gradient, sums.hessian))
    n_biases = len(point) - n_members
    away = point - np.append(np.full(n_members, 1 / n_members), np.zeros(n_biases))
    pull = np.append(np.full(n_members, WEIGHT_SHRINKAGE), np.full(n_biases, 1 / (BIAS_SD**2 * n)))
    return Local(float(value + 0.5 * pull @ away**2), gradient + pull * away, hessian + np.diag(pull))


def _look(pieces: Sequence[Piece], point: np.ndarray, *, n_folds: int) -> PerFold:
    """One pass over pieces of folds."""
    size = len(point)
    sums = PerFold(
        np.zeros(n_folds), np.zeros((n_folds, size)), np.zeros((n_folds, size, size)), np.zeros(n_folds, np.int64)
    )
    made = in_threads(lambda piece: _piece_sums(piece.probs(), piece.target, point), pieces)
    for piece, (value, gradient, hessian) in zip(pieces, made, strict=True):
        sums.value[piece.fold] += value
        sums.gradient[piece.fold] += gradient
        sums.hessian[piece.fold] += hessian
        sums.count[piece.fold] += len(piece.target)
    return sums


def _piece_sums(probs: np.ndarray, target: np.ndarray, point: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Sums over n images of the log loss, its gradient (P,) and its Hessian (P, P). probs (M, n, C) float32."""
    n_members, n, n_classes = probs.shape
    weights, bias = point[:n_members].astype(np.float32), point[n_members:].astype(np.float32)
    score = np.log(probs + np.float32(FLOOR))  # (M, n, C)
    score -= score[:, np.arange(n), target][
        :, :, None
    ]  # a row's own constant changes nothing; now the true class has 0
    z = np.tensordot(weights, score, 1)  # (n, C)
    if len(bias):
        z += bias - bias[target][:, None]
    top = np.maximum(z.max(axis=1, keepdims=True), 0)
    q = np.exp(z - top)
    total = q.sum(axis=1, keepdims=True)
    q /= total  # (n, C): the blend's probabilities
    value = float((np.log(total) + top).sum())
    root = np.sqrt(q)
    scaled = (score * root).reshape(n_members, -1)  # (M, nC)
    mean = np.matmul(score.transpose(1, 0, 2), q[:, :, None])[:, :, 0].T  # (M, n): expected score under q
    gradient, hessian = mean.sum(axis=1, dtype=np.float64), scaled @ scaled.T - mean @ mean.T
    if not len(bias):
        return value, gradient, hessian
    share = q.sum(axis=0, dtype=np.float64)  # (C,)
    cross = (scaled.reshape(score.shape) * root).sum(axis=1) - mean @ q  # (M, C)
    own = np.diag(share) - q.T @ q
    gradient = np.append(gradient, share - np.bincount(target, minlength=n_classes))
    return value, gradient, np.block([[hessian, cross], [cross.T, own]])


def _recipe(point: np.ndarray, n_members: int) -> Recipe:
    weights, bias = point[:n_members], point[n_members:]
    if weights.sum() <= 0:  # every member is worse than knowing nothing but the classes' frequencies
        weights = np.full(n_members, 1e-9)
    return Recipe("log", weights, bias - bias.mean() if len(bias) else None)
