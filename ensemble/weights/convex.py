"""Finds the least value of a smooth convex loss under lower bounds, by Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SMALL_STEP = 1e-6  # nats: a step that gains less is taken without looking again; what it misses is of second order
MOST_STEPS = 60
LEAST_PROB = 1e-9  # a true class that every member calls impossible would make the log loss infinite


class Local(NamedTuple):
    """A function around a point: value, gradient (P,), Hessian (P, P)."""

    value: float
    gradient: np.ndarray
    hessian: np.ndarray


def minimise(
    look: Callable[[np.ndarray], Local], start: np.ndarray, *, lower: np.ndarray, small: float = SMALL_STEP
) -> np.ndarray:
    """The minimiser of a convex function over x >= lower. (P,) float64.

    look   the function's value, gradient and Hessian at a point; the costly part, called as rarely as possible
    lower  (P,) float64, -inf where there is no bound
    small  the gain of a step after which the function is not looked at again
    """
    point, local, shrink = start, look(start), 1.0
    for _ in range(MOST_STEPS):
        step = bounded_newton_step(local, point, lower=lower)
        gain = -(local.gradient @ step + 0.5 * step @ local.hessian @ step)
        if gain < small:
            return point + step
        there = look(point + shrink * step)
        if there.value <= local.value - 1e-4 * shrink * gain:
            point, local, shrink = point + shrink * step, there, min(1.0, 2 * shrink)
        else:
            shrink /= 2
    return point


def bounded_newton_step(local: Local, point: np.ndarray, *, lower: np.ndarray) -> np.ndarray:
    """The step to the minimum of the quadratic model over x >= lower, as a bounded least-squares problem. (P,)"""
    from scipy.linalg import solve_triangular
    from scipy.optimize import lsq_linear

    ridge = 1e-10 * max(float(np.trace(local.hessian)) / len(point), 1e-12)
    factor = np.linalg.cholesky(local.hessian + ridge * np.eye(len(point)))  # H = L L'
    aim = solve_triangular(factor, (local.hessian @ point) - local.gradient, lower=True)
    found = lsq_linear(factor.T, aim, bounds=(lower, np.full(len(point), np.inf)), method="bvls", tol=1e-12)
    return np.maximum(found.x, lower) - point


def log_loss_weights(true_probs: np.ndarray) -> np.ndarray:
    """The weights on the simplex whose mean of probabilities has the least log loss. (M, N) -> (M,), sum 1.

    The sum is not enforced: of all w >= 0 the minimum of -mean log(w'p) + sum(w) has the sum 1, since doubling w
    gains log 2 less than it costs.
    """
    probs = true_probs.astype(np.float64) + LEAST_PROB  # (M, N)
    n = probs.shape[1]

    def look(weights: np.ndarray) -> Local:
        mix = weights @ probs  # (N,)
        if (mix <= 0).any():
            return Local(np.inf, weights, np.eye(len(weights)))
        ratio = probs / mix  # (M, N)
        return Local(float(weights.sum() - np.log(mix).mean()), 1 - ratio.mean(axis=1), ratio @ ratio.T / n)

    weights = minimise(look, np.full(len(probs), 1 / len(probs)), lower=np.zeros(len(probs)))
    return weights / weights.sum()
