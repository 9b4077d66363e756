"""Gathers what candidates are fitted on: the objective and the true classes' probabilities, fold by fold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from ensemble.members.members import Members
from ensemble.weights.argmax import Argmax, build_argmax
from ensemble.weights.convex import log_loss_weights
from ensemble.weights.greedy import greedy_weights
from ensemble.weights.metric import LEAST_PROB, Metric
from ensemble.weights.objective import Pool, Reduction
from ensemble.weights.reduction import build_reduction


class Objective(Protocol):
    """The metric of a blend without bias, as a function of its weights; faster than blending."""

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """The loss of each weight vector. (B, M) -> (B,) float64."""
        ...

    def outcomes(self, weights: np.ndarray) -> np.ndarray:
        """The outcome of each image, as `Metric.outcomes`. (M,) -> (N,) float64."""
        ...

    def subset(self, rows: np.ndarray) -> Objective:
        """The same for the images that are marked. rows (N,) bool."""
        ...


@dataclass(frozen=True)
class LogLoss:
    """The log loss of weighted means: all that it needs of an image is what each member gave the true class."""

    true_probs: np.ndarray  # (M, N)

    def losses(self, weights: np.ndarray) -> np.ndarray:
        return np.array([self.outcomes(one).mean() for one in weights])

    def outcomes(self, weights: np.ndarray) -> np.ndarray:
        mix = (weights / weights.sum()).astype(self.true_probs.dtype) @ self.true_probs
        return -np.log(np.maximum(mix, LEAST_PROB))

    def subset(self, rows: np.ndarray) -> LogLoss:
        return LogLoss(np.ascontiguousarray(self.true_probs[:, rows]))


@dataclass(frozen=True)
class Evidence:
    """What weights are fitted on: the objective of some images and the members' true-class probabilities."""

    objective: Objective
    likelihood: LogLoss
    group: np.ndarray  # (n,) duplicates have one number

    @property
    def n_members(self) -> int:
        return len(self.likelihood.true_probs)

    @cached_property
    def greedy(self) -> np.ndarray:
        """The greedy choice: a candidate, and where the search starts. (M,)"""
        return greedy_weights(self.objective.losses, self.likelihood.losses, self.n_members)

    @cached_property
    def convex(self) -> np.ndarray:
        """The weights of least log loss: a candidate, and where the search starts. (M,)"""
        return log_loss_weights(self.likelihood.true_probs)

    def subset(self, rows: np.ndarray) -> Evidence:
        """The evidence of the images that are marked. rows (n,) bool."""
        return Evidence(self.objective.subset(rows), self.likelihood.subset(rows), self.group[rows])


def gather_evidence(members: Members, metric: Metric) -> Evidence:
    """The evidence of all N images; reads every member twice where the metric needs more than true probabilities."""
    likelihood = LogLoss(members.true_probs)
    return Evidence(_objective(members, metric, likelihood), likelihood, members.rows.group)


def pooled_as(objective: Objective, pool: Pool) -> Objective | None:
    """The objective for the other pool, if it knows that too."""
    if pool == "mean":
        return objective
    return replace(objective, pool=pool) if isinstance(objective, Reduction | Argmax) else None


def _objective(members: Members, metric: Metric, likelihood: LogLoss) -> Objective:
    n_classes = len(members.rows.classes)
    readers = [member.probs for member in members.members]
    steps = metric.steps(n_classes)
    if steps is not None:
        return build_reduction(readers, members.rows.target, n_classes=n_classes, steps=steps)
    if metric.name == "macro-f1":
        return build_argmax(readers, members.rows.target, members.tops[0].astype(np.int64), n_classes=n_classes)
    return likelihood
