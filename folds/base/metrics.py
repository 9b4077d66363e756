"""Scores predictions: top-k error and its relatives, with ties to the lower class number everywhere."""

from __future__ import annotations

import numpy as np

FLOOR = 1e-15  # of a probability: the log loss stays finite
PIECE = 4096  # rows that are ranked at a time: the places of all would be 4 GB for 1,000,000 images of 500 classes


def true_rank(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How many classes beat the true one, per image: 0 is first place. (N,) int.

    scores  (N, C) float, finite, any scale: only the order inside a row counts; ties go to the lower class
    target  (N,) int in [0, C)
    """
    assert np.isfinite(scores).all(), "scores hold NaN or infinity, which would count as hits"
    true_score = np.take_along_axis(scores, target[:, None], axis=1)  # (N, 1)
    lower_class = np.arange(scores.shape[1]) < target[:, None]  # (N, C)
    return ((scores > true_score) | ((scores == true_score) & lower_class)).sum(axis=1)


def topk_error(scores: np.ndarray, target: np.ndarray, *, k: int = 3) -> float:
    """The share of images whose true class is not among the k highest scores. In [0, 1]; arrays as in `true_rank`."""
    assert len(target), "no image to score"
    return float((true_rank(scores, target) >= k).mean())


def log_loss(probs: np.ndarray, target: np.ndarray) -> float:
    """Mean negative log-probability of the true class, in nats.

    probs   (N, C) float, rows that sum to 1; values below FLOOR count as FLOOR
    target  (N,) int in [0, C)
    """
    assert len(target), "no image to score"
    true_prob = np.take_along_axis(probs, target[:, None], axis=1)[:, 0]
    return float(-np.log(np.maximum(true_prob, FLOOR)).mean())


def top_classes(scores: np.ndarray, *, k: int = 3) -> np.ndarray:
    """The k best classes of each row, best first, ties to the lower class. (N, k) int; scores as in `true_rank`."""
    best = np.empty((len(scores), min(k, scores.shape[1])), dtype=np.int64)
    for start in range(0, len(scores), PIECE):
        piece = scores[start : start + PIECE]
        assert np.isfinite(piece).all(), "scores hold NaN or infinity"
        best[start : start + PIECE] = np.argsort(-piece, axis=1, kind="stable")[:, :k]
    return best
