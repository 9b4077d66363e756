"""Says what a blend is judged by. Every metric is a loss here: 0 is perfect, and lower is better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.blend.recipe import Recipe
from ensemble.settings import MetricName
from folds.base.interval import mean_interval, rate_interval
from folds.base.metrics import true_rank

LEAST_PROB = 1e-15  # log loss: a probability of 0 counts as this much, as in folds.base.metrics


@dataclass(frozen=True)
class Metric:
    """A loss of probabilities. An image's outcome is its own loss; for macro-F1 it is the predicted class."""

    name: MetricName
    k: int = 3

    @property
    def title(self) -> str:
        """The words of a table's header."""
        titles = {"top-k-error": f"top-{self.k} error", "map": f"1 - MAP@{self.k}", "accuracy": "1 - accuracy"}
        return titles.get(self.name, {"log-loss": "log loss", "macro-f1": "1 - macro-F1"}.get(self.name, self.name))

    def steps(self, n_classes: int) -> np.ndarray | None:
        """The loss at rank 0, 1, .., k or more of the true class. (k + 1,) float64; None where it is no such loss."""
        if self.name == "accuracy":
            return np.array([0.0, 1.0])
        k = min(self.k, n_classes)
        if self.name == "top-k-error":
            return np.append(np.zeros(k), 1.0)
        return np.append(1.0 - 1.0 / np.arange(1, k + 1), 1.0) if self.name == "map" else None

    def judged(self, recipe: Recipe, scores: np.ndarray) -> np.ndarray:
        """What `outcomes` takes of a recipe's blended scores. (n, C) -> (n, C)

        Only log loss needs probabilities. The others need the order, and by the scores themselves, as the submission
        has it: probabilities can be equal where the scores are not.
        """
        return recipe.probs(scores) if self.name == "log-loss" else scores

    def outcomes(self, probs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The outcome of each image. probs (n, C), finite, rows sum to 1 (only log loss cares); (n,) float64."""
        steps = self.steps(probs.shape[1])
        if steps is not None:
            return steps[np.minimum(true_rank(probs, target), len(steps) - 1)]
        if self.name == "macro-f1":
            return probs.argmax(axis=1).astype(np.float64)
        true_prob = np.take_along_axis(probs, target[:, None], axis=1)[:, 0]
        return -np.log(np.maximum(true_prob, LEAST_PROB))

    def loss(self, outcomes: np.ndarray, target: np.ndarray) -> float:
        """The loss over all images."""
        return 1.0 - macro_f1(outcomes.astype(np.int64), target) if self.name == "macro-f1" else float(outcomes.mean())

    def shares(self, outcomes: np.ndarray, target: np.ndarray) -> np.ndarray:
        """What each image adds to the loss: numbers whose mean is the loss and whose spread says how sure it is.

        (N,) float64. The outcomes themselves, except for macro-F1, which is no mean over images: there the loss and the
        image's influence on it. Source: Hampel 1974, The influence curve and its role in robust estimation.
        """
        if self.name != "macro-f1":
            return outcomes
        predicted = outcomes.astype(np.int64)
        size = int(max(predicted.max(), target.max())) + 1
        both = (np.bincount(predicted, minlength=size) + np.bincount(target, minlength=size)).astype(np.float64)
        f1 = 2 * np.bincount(target[predicted == target], minlength=size) / np.maximum(both, 1)
        own = (2 * (predicted == target) - f1[target]) / both[target] - f1[predicted] / both[predicted]
        return 1 - f1[both > 0].mean() - len(target) * own / (both > 0).sum()

    def interval(self, outcomes: np.ndarray, target: np.ndarray, group: np.ndarray) -> tuple[float, float]:
        """The 95% interval of the loss. group (N,) int: images with one number are copies."""
        shares = self.shares(outcomes, target)
        return mean_interval(shares, group) if self.name == "log-loss" else rate_interval(shares, group)


def macro_f1(predicted: np.ndarray, target: np.ndarray) -> float:
    """The mean over classes of F1; classes that are neither there nor predicted are left out, as in scikit-learn."""
    size = int(max(predicted.max(), target.max())) + 1
    hits = np.bincount(target[predicted == target], minlength=size)
    both = np.bincount(predicted, minlength=size) + np.bincount(target, minlength=size)
    return float((2 * hits[both > 0] / both[both > 0]).mean())
