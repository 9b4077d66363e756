"""Defines how members are pooled into one score per class, and does it: probabilities are blended here only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Pool = Literal["mean", "log"]
FLOOR = 1e-6  # log pool: log(p + FLOOR), since a member's exact zero must not veto a class; 1e-4 to 1e-8 do the same
PIECE_ROWS = 512  # x 103 classes x float64 = 0.4 MB: a piece's scores stay in the cache while all recipes use them


@dataclass(frozen=True)
class Recipe:
    """A way to turn M members' probabilities into one score per class.

    mean  score_c = sum_m w_m p_m(c), weights that sum to 1
    log   score_c = sum_m w_m log(p_m(c) + 1e-6) + b_c, weights of any sum >= 0: the sum sharpens or flattens.
          Source: the logarithmic opinion pool; Genest and Zidek 1986, Combining probability distributions.
    """

    pool: Pool
    weights: np.ndarray  # (M,) float64 >= 0
    bias: np.ndarray | None = None  # (C,) float64, log pool only

    def scores(self, members: Iterable[np.ndarray]) -> np.ndarray:
        """The blended scores of n images; members one by one, each (n, C). (n, C) float64."""
        return blend_scores([self], members)[0]

    def probs(self, scores: np.ndarray) -> np.ndarray:
        """Scores as probabilities. (n, C) float64, rows sum to 1."""
        return scores / scores.sum(axis=1, keepdims=True) if self.pool == "mean" else softmax(scores)


def blend_scores(recipes: Sequence[Recipe], members: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Each recipe's blended scores of the same n images. (n, C) float64 each

    members  one by one, each (n, C); read once for all recipes

    Summed member by member in the order of the weights: `Reduction` decides close calls in the same way.
    """
    weights = np.stack([recipe.weights for recipe in recipes])  # (recipes, M)
    assert (weights > 0).any(axis=1).all(), "no member has weight"
    totals: list[np.ndarray] = []
    for own, probs in zip(weights.T, members, strict=True):
        totals = totals or [np.zeros(probs.shape) for _ in recipes]
        used = [one for one in zip(recipes, own, totals, strict=True) if one[1] > 0]
        for start in range(0, len(probs), PIECE_ROWS):  # a copy of all would be gigabytes for a million images
            piece = slice(start, start + PIECE_ROWS)
            scores = {pool: pool_scores(probs[piece], pool) for pool in {recipe.pool for recipe, _, _ in used}}
            for recipe, weight, total in used:
                total[piece] += weight * scores[recipe.pool]
    return [
        total if recipe.bias is None else total + recipe.bias for recipe, total in zip(recipes, totals, strict=True)
    ]


def pool_scores(probs: np.ndarray, pool: Pool) -> np.ndarray:
    """What weights are multiplied with, in float64: probabilities, or their logarithms."""
    probs = probs.astype(np.float64)
    return probs if pool == "mean" else np.log(probs + FLOOR)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Each row of (n, C) as numbers above 0 that sum to 1."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
