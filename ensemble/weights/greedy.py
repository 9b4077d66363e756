"""Selects members greedily, with replacement, and counts how often each was taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STEPS = 50  # the score stops improving after 25 to 100; a member's weight is a multiple of 1/50


Losses = Callable[[np.ndarray], np.ndarray]  # weights (B, M) -> losses (B,)


def greedy_weights(losses_of: Losses, log_losses_of: Losses, n_members: int, *, steps: int = STEPS) -> np.ndarray:
    """The mean of the members taken, each step taking the one that helps most; ties by log loss, then by name. (M,)

    Of all steps the best is kept, and the shortest of equals.
    Source: Caruana et al. 2004, Ensemble selection from libraries of models.
    """
    counts, best, best_loss = np.zeros(n_members), np.zeros(n_members), np.inf
    for step in range(steps):
        tries = (counts + np.eye(n_members)) / (step + 1)  # (M, M): one more of each
        losses = losses_of(tries)
        tied = np.flatnonzero(losses == losses.min())
        taken = tied[log_losses_of(tries[tied]).argmin()] if len(tied) > 1 else tied[0]
        counts[taken] += 1
        if losses[taken] < best_loss:
            best, best_loss = counts / counts.sum(), losses[taken]
    return best
