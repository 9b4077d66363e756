"""This file selects members greedily, with replacement, and counts how often each was taken."""

from __future__ import annotations

import numpy as np

from ensemble.evidence import Evidence

STEPS = 50  # the score stops improving after 25 to 100; a member's weight is a multiple of 1/50


def greedy_weights(evidence: Evidence, *, steps: int = STEPS) -> np.ndarray:
    """The mean of the members taken, each step taking the one that helps most; ties by log loss, then by name. (M,)

    Of all steps the best is kept, and the shortest of equals.
    Source: Caruana et al. 2004, Ensemble selection from libraries of models.
    """
    n_members = len(evidence.likelihood.true_probs)
    counts, best, best_loss = np.zeros(n_members), np.zeros(n_members), np.inf
    for step in range(steps):
        tries = (counts + np.eye(n_members)) / (step + 1)  # (M, M): one more of each
        losses = evidence.objective.losses(tries)
        tied = np.flatnonzero(losses == losses.min())
        taken = tied[evidence.likelihood.losses(tries[tied]).argmin()] if len(tied) > 1 else tied[0]
        counts[taken] += 1
        if losses[taken] < best_loss:
            best, best_loss = counts / counts.sum(), losses[taken]
    return best
