"""The metrics that a blend can be chosen by. Every metric is a loss here: 0 is perfect, and lower is better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.settings import MetricName
from folds.base.interval import mean_interval, rate_interval
from folds.base.metrics import true_rank

LEAST_PROB = 1e-15  # log loss: a probability of 0 counts as this much, as in folds.base.metrics


@dataclass(frozen=True)
class Metric:
    """A loss of probabilities: the mean over images of each image's own loss."""

    name: MetricName
    k: int = 3

    @property
    def title(self) -> str:
        """The words of a table's header."""
        titles = {"top-k-error": f"top-{self.k} error", "map": f"1 - MAP@{self.k}", "accuracy": "1 - accuracy"}
        return titles.get(self.name, self.name.replace("-", " "))

    def steps(self, n_classes: int) -> np.ndarray | None:
        """The loss at rank 0, 1, .., k or more of the true class. (k + 1,) float64; None for log loss."""
        if self.name == "accuracy":
            return np.array([0.0, 1.0])
        k = min(self.k, n_classes)
        if self.name == "top-k-error":
            return np.append(np.zeros(k), 1.0)
        return np.append(1.0 - 1.0 / np.arange(1, k + 1), 1.0) if self.name == "map" else None

    def outcomes(self, scores: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The loss of each image. scores (n, C), finite; for log loss probabilities. (n,) float64."""
        steps = self.steps(scores.shape[1])
        if steps is not None:
            return steps[np.minimum(true_rank(scores, target), len(steps) - 1)]
        true_prob = np.take_along_axis(scores, target[:, None], axis=1)[:, 0]
        return -np.log(np.maximum(true_prob, LEAST_PROB))

    def interval(self, outcomes: np.ndarray, group: np.ndarray) -> tuple[float, float]:
        """The 95% interval of the mean loss. group (N,) int: images with one number are copies."""
        return mean_interval(outcomes, group) if self.name == "log-loss" else rate_interval(outcomes, group)


TOP3 = Metric("top-k-error", 3)  # what a submission is scored by
