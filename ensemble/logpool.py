"""This file fits weighted log-probabilities, with or without a bias per class, by their convex log loss.

With z_c = sum_m w_m s_m(c) + b_c and s_m = log(p_m + 1e-6), the log loss -z_y + log sum_c exp z_c is convex in (w, b).
One pass over the members gives value, gradient and Hessian of every fold, so that the fit on all images and the fits
without one fold share it; from the optimum on all images, leaving a fold out is rarely more than one Newton step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.convex import Local, bounded_newton_step, minimise
from ensemble.members import Members
from ensemble.objective import FLOOR
from ensemble.pools import Recipe

WEIGHT_SHRINKAGE = 1e-3  # times half the squared distance to equal weights, in nats: decides between copies only
BIAS_SD = 0.5  # a class's bias is believed to be this far from 0: exp(0.5) is a factor of 1.6
WARM_ROWS = 8000  # the first Newton steps are taken on so many images
PIECE_ROWS = 512  # (M, n, C) float32 at M = 15 is 3 MB: in the cache
EXACT_STEP = 1e-4  # nats: leave-one-fold-out fits that would gain more than this are looked at again


@dataclass(frozen=True)
class PerFold:
    """Sums over the images of each fold: value (K,), gradient (K, P), Hessian (K, P, P), images (K,)."""

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    count: np.ndarray


def fit_log_pool(members: Members, *, with_bias: bool) -> tuple[Recipe, list[Recipe]]:
    """The recipe fitted on all images, and the K recipes fitted without one fold each."""
    n_members, n_folds = len(members), members.rows.n_folds
    size = n_members + (len(members.rows.classes) if with_bias else 0)
    lower = np.append(np.zeros(n_members), np.full(size - n_members, -np.inf))
    start = np.append(np.full(n_members, 1 / n_members), np.zeros(size - n_members))
    if len(members.rows) > 2 * WARM_ROWS:
        start = minimise(_Looker(members, _warm_rows(members)), start, lower=lower)
    looker = _Looker(members, None)
    whole = minimise(looker, start, lower=lower)
    parts = []
    for fold in range(n_folds):
        others = [k for k in range(n_folds) if k != fold]
        parts.append(_without_fold(members, looker, others, lower=lower))
    return _recipe(whole, n_members), [_recipe(point, n_members) for point in parts]


def _without_fold(members: Members, looker: _Looker, others: Sequence[int], *, lower: np.ndarray) -> np.ndarray:
    """The fit on the other folds, beginning from the last point at which all folds were looked at."""
    local = _penalised(looker.last, looker.point, len(members), others)
    step = bounded_newton_step(local, looker.point, lower=lower)
    if -(local.gradient @ step + 0.5 * step @ local.hessian @ step) < EXACT_STEP:
        return looker.point + step
    return minimise(_Looker(members, None, others), looker.point + step, lower=lower)


class _Looker:
    """Looks at the penalised log loss of some images, and remembers its last look fold by fold."""

    def __init__(self, members: Members, rows: np.ndarray | None, folds: Sequence[int] | None = None) -> None:
        self.members, self.rows = members, rows
        self.folds = list(range(members.rows.n_folds) if folds is None else folds)

    def __call__(self, point: np.ndarray) -> Local:
        self.point, self.last = point, _look(self.members, point, self.folds, self.rows)
        return _penalised(self.last, point, len(self.members), self.folds)


def _penalised(sums: PerFold, point: np.ndarray, n_members: int, folds: Sequence[int]) -> Local:
    """The mean over the images of some folds, and the shrinkage of weights to equal ones and of biases to 0."""
    n = sums.count[list(folds)].sum()
    value, gradient, hessian = (part[list(folds)].sum(axis=0) / n for part in (sums.value, sums.gradient, sums.hessian))
    centre = np.append(np.full(n_members, 1 / n_members), np.zeros(len(point) - n_members))
    pull = np.append(np.full(n_members, WEIGHT_SHRINKAGE), np.full(len(point) - n_members, 1 / (BIAS_SD**2 * n)))
    away = point - centre
    return Local(float(value + 0.5 * pull @ away**2), gradient + pull * away, hessian + np.diag(pull))


def _look(members: Members, point: np.ndarray, folds: Sequence[int], rows: np.ndarray | None) -> PerFold:
    """One pass over the members' probabilities of the folds' images (of those marked in `rows`, if given)."""
    n_folds, size = members.rows.n_folds, len(point)
    sums = PerFold(
        np.zeros(n_folds), np.zeros((n_folds, size)), np.zeros((n_folds, size, size)), np.zeros(n_folds, np.int64)
    )
    for fold in folds:
        for piece, probs in members.chunks(members.rows.of_fold(fold), size=PIECE_ROWS):
            use = slice(None) if rows is None else rows[piece]
            target = members.rows.target[piece][use]
            if len(target):
                value, gradient, hessian = _piece_sums(probs[:, use], target, point)
                sums.value[fold] += value
                sums.gradient[fold] += gradient
                sums.hessian[fold] += hessian
                sums.count[fold] += len(target)
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


def _warm_rows(members: Members) -> np.ndarray:
    """Every n-th image, about WARM_ROWS of them. (N,) bool."""
    rows = np.zeros(len(members.rows), bool)
    rows[:: len(rows) // WARM_ROWS] = True
    return rows


def _recipe(point: np.ndarray, n_members: int) -> Recipe:
    weights, bias = point[:n_members], point[n_members:]
    if weights.sum() <= 0:  # every member is worse than knowing nothing but the classes' frequencies
        weights = np.full(n_members, 1e-9)
    return Recipe("log", weights, bias - bias.mean() if len(bias) else None)
