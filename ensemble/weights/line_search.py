"""Exact line search for a piecewise-constant loss: its steps along a line can be listed.

From one member alone to the blend of the others each contest changes sides at most once, where two linear functions
meet. Source: Och 2003, Minimum error rate training in statistical machine translation.
"""

from __future__ import annotations

import numpy as np

from ensemble.weights.reduction import Reduction

NARROWEST = 1e-7  # intervals of a weight narrower than this are rounding


def descend(reduction: Reduction, weights: np.ndarray, *, passes: int) -> np.ndarray:
    """Weights on the simplex that no change of a single weight improves, or those after so many passes. (M,) -> (M,)"""
    weights = weights / weights.sum()
    loss = float(reduction.losses(weights[None])[0])
    for _ in range(passes):
        before = loss
        for alone in np.eye(len(weights)):
            others = np.where(alone == 1, 0.0, weights)
            if others.sum() < NARROWEST:
                continue
            share, found = best_on_line(reduction, others / others.sum(), alone)
            if found < loss - 1e-12:
                weights, loss = (1 - share) * others / others.sum() + share * alone, found
        if loss == before:
            break
    return weights


def best_on_line(reduction: Reduction, start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Where from start (0) to end (1) the loss is least, the middle of the widest such part, and that loss."""
    owner, k = reduction.owner, len(reduction.steps) - 1
    lead, final = (weights.astype(np.float32) @ reduction.leads for weights in (start, end))  # (R,)
    ahead = lead > 0  # at the start
    ranks = reduction.sure[reduction.row] + np.bincount(owner[ahead], minlength=len(reduction.row))  # (U,)
    turning = np.flatnonzero(ahead != (final > 0))
    first = lead[turning].astype(np.float64)
    where = first / (first - final[turning])  # in [0, 1]: where the rival and the true class are level
    order = np.argsort(2.0 * owner[turning] + where)  # image after image, inside an image along the line
    turned, where = owner[turning][order], where[order]  # the images that the turns belong to
    change = np.where(ahead[turning][order], -1, 1)
    after = np.cumsum(change)
    begins = np.flatnonzero(np.diff(turned, prepend=-1))  # each image's first turn
    before_image = np.repeat((after - change)[begins], np.diff(np.append(begins, len(turned))))
    after += ranks[turned] - before_image  # the rank after each turn
    gain = reduction.steps[np.minimum(after, k)] - reduction.steps[np.minimum(after - change, k)]
    total = float(reduction.steps[np.minimum(ranks, k)].sum()) + reduction.decided_loss
    share, loss = _lowest_part(where[gain != 0], gain[gain != 0])
    return share, (total + loss) / len(reduction.sure)


def _lowest_part(where: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """The middle of the widest of the lowest parts of a step function on [0, 1], and its height above the start."""
    order = np.argsort(where, kind="stable")
    edges = np.concatenate([[0.0], where[order], [1.0]])
    heights = np.concatenate([[0.0], np.cumsum(gain[order])])  # between two edges each
    widths = np.diff(edges)
    wide_enough = np.where(widths > NARROWEST, heights, np.inf)
    lowest = np.flatnonzero(wide_enough <= wide_enough.min() + 1e-9)
    part = lowest[widths[lowest].argmax()]
    return float((edges[part] + edges[part + 1]) / 2), float(heights[part])
