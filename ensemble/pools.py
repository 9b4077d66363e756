"""This file says what a blend is: how members are pooled, with which weights, and how that is applied to images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.objective import FLOOR, Pool, pool_scores
from ensemble.stored import CHUNK_ROWS


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
        """The blended scores of n images; members one by one, each (n, C). (n, C) float64.

        Summed member by member in float64: `ensemble.objective` decides close calls in the same way.
        """
        total: np.ndarray | None = None
        for weight, probs in zip(self.weights, members, strict=True):
            if weight > 0:
                total = np.zeros(probs.shape) if total is None else total
                for start in range(0, len(probs), CHUNK_ROWS):  # a copy of all would be gigabytes for a million images
                    piece = slice(start, start + CHUNK_ROWS)
                    total[piece] += weight * pool_scores(probs[piece], self.pool)
        assert total is not None, "no member has weight"
        return self.biased(total)

    def biased(self, scores: np.ndarray) -> np.ndarray:
        """Scores with the bias of their class, if there is one. (n, C)"""
        return scores if self.bias is None else scores + self.bias

    def probs(self, scores: np.ndarray) -> np.ndarray:
        """Scores as probabilities. (n, C) float64, rows sum to 1."""
        odds = scores if self.pool == "mean" else np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


def stream_probs(
    recipes: Sequence[Recipe], chunks: Iterable[tuple[slice, np.ndarray]]
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Each recipe's blended probabilities, piece by piece, from one reading of the members: (n, C) float64 each.

    Equal to `Recipe.scores` up to float32: all recipes of a pool are one matrix product here.
    """
    for piece, members in chunks:  # (M, n, C)
        blended = {}
        for pool in sorted({recipe.pool for recipe in recipes}):
            weights = np.stack([recipe.weights for recipe in recipes if recipe.pool == pool]).astype(np.float32)
            scores = members if pool == "mean" else np.log(members + np.float32(FLOOR))
            blended[pool] = iter(np.tensordot(weights, scores, 1))  # (recipes of this pool, n, C)
        yield piece, [recipe.probs(recipe.biased(next(blended[recipe.pool]))) for recipe in recipes]
