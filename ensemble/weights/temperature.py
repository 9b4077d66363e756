"""Fits the temperature that makes a blend's probabilities honest; no class changes its place."""

from __future__ import annotations

import numpy as np

from ensemble.blend.recipe import Recipe
from ensemble.members.members import Members

MOST_ROWS = 20_000  # one number is known to three digits from so many images
LEAST_PROB = 1e-12


def fit_temperature(members: Members, recipe: Recipe) -> float:
    """The temperature t > 0 for which softmax(log(probs) / t) has the least log loss on the out-of-fold images."""
    from scipy.optimize import minimize_scalar

    scores, target = _sample(members, recipe)

    def loss(log_temperature: float) -> float:
        scaled = scores * np.float32(np.exp(-log_temperature))
        top = scaled.max(axis=1)
        total = np.exp(scaled - top[:, None]).sum(axis=1)
        return float((np.log(total) + top - scaled[np.arange(len(target)), target]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-4}).x))


def _sample(members: Members, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Blended log-probabilities (n, C) float32 and targets (n,) of evenly spread rows."""
    stride = max(1, -(-len(members.rows) // MOST_ROWS))
    made, targets = [], []
    for piece in members.pieces():
        rows = slice(piece.start + (-piece.start) % stride, piece.stop)
        if rows.start < rows.stop:
            blended = recipe.probs(recipe.scores(members.every(stride, rows)))
            made.append(np.log(np.maximum(blended, LEAST_PROB)).astype(np.float32))
            targets.append(members.rows.target[rows][::stride])
    return np.concatenate(made), np.concatenate(targets)
