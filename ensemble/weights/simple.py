"""Fits weights in ways that need no search: least log loss, and greedy selection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ensemble.weights.metric import LEAST_PROB
from ensemble.weights.reduction import Reduction

STEPS = 50  # of greedy selection: the score stops improving after 25 to 100; a weight is a multiple of 1/50
SMALLEST = 1e-9  # a true class that every member calls impossible would make the log loss infinite


@dataclass(frozen=True)
class LogLoss:
    """The log loss of weighted means: all that it needs of an image is what each member gave the true class."""

    true_probs: np.ndarray  # (M, N)

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """The mean loss of each weight vector. (B, M) -> (B,) float64."""
        return np.array([self.outcomes(one).mean() for one in weights])

    def outcomes(self, weights: np.ndarray) -> np.ndarray:
        """The loss of each image. (M,) -> (N,)"""
        mix = (weights / weights.sum()).astype(self.true_probs.dtype) @ self.true_probs
        return -np.log(np.maximum(mix, LEAST_PROB))

    def subset(self, rows: np.ndarray) -> LogLoss:
        """The same for the images that are marked. rows (N,) bool."""
        return LogLoss(np.ascontiguousarray(self.true_probs[:, rows]))


Objective = Reduction | LogLoss  # the metric of a blend without bias, as a function of its weights


@dataclass(frozen=True)
class FitData:
    """What weights are fitted on: the metric and the log loss of some images, as functions of the weights."""

    objective: Objective
    log_loss: LogLoss
    group: np.ndarray  # (n,) duplicates have one number

    @property
    def n_members(self) -> int:
        return len(self.log_loss.true_probs)

    @cached_property
    def greedy(self) -> np.ndarray:
        """The greedy choice: a candidate, and where the search starts. (M,)"""
        return greedy_weights(self)

    @cached_property
    def convex(self) -> np.ndarray:
        """The weights of least log loss: a candidate, and where the search starts. (M,)"""
        return log_loss_weights(self.log_loss.true_probs)

    def least(self, weights: np.ndarray) -> tuple[int, float]:
        """The place of the weight vector of the least loss, ties by log loss, then the first; and that loss. (B, M)"""
        losses = self.objective.losses(weights)
        tied = np.flatnonzero(losses == losses.min())
        place = tied[self.log_loss.losses(weights[tied]).argmin()] if len(tied) > 1 else tied[0]
        return int(place), float(losses[place])

    def best_of(self, weights: np.ndarray) -> np.ndarray:
        """The weight vector of the least loss. (B, M) -> (M,)"""
        return weights[self.least(weights)[0]]

    def subset(self, rows: np.ndarray) -> FitData:
        """The same for the images that are marked. rows (n,) bool."""
        return FitData(self.objective.subset(rows), self.log_loss.subset(rows), self.group[rows])


def log_loss_weights(true_probs: np.ndarray) -> np.ndarray:
    """The weights on the simplex whose mean of probabilities has the least log loss. (M, N) -> (M,), sum 1.

    The sum is not enforced: of all w >= 0 the minimum of -mean log(w'p) + sum(w) has the sum 1, since doubling w
    gains log 2 less than it costs.
    """
    from scipy.optimize import minimize

    probs = true_probs.astype(np.float64) + SMALLEST  # (M, N)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mix = np.maximum(weights @ probs, SMALLEST**2)  # (N,)
        return weights.sum() - np.log(mix).mean(), 1 - probs @ (1 / mix) / probs.shape[1]

    start = np.full(len(probs), 1 / len(probs))
    options = {"ftol": 1e-14, "gtol": 1e-8, "maxiter": 1000}
    found = minimize(loss, start, jac=True, bounds=[(0, None)] * len(probs), method="L-BFGS-B", options=options).x
    return found / found.sum()


def greedy_weights(data: FitData, *, steps: int = STEPS) -> np.ndarray:
    """Members taken one by one, with replacement, each time the one that helps most; their share of the taken. (M,)

    Ties go by log loss, then by name; of all steps the best is kept, and the shortest of equals.
    Source: Caruana et al. 2004, Ensemble selection from libraries of models.
    """
    counts, best, best_loss = np.zeros(data.n_members), np.zeros(data.n_members), np.inf
    for step in range(steps):
        taken, loss = data.least((counts + np.eye(data.n_members)) / (step + 1))  # (M, M): one more of each
        counts[taken] += 1
        if loss < best_loss:
            best, best_loss = counts / counts.sum(), loss
    return best
