"""Notices a member whose rows or classes are out of order, by how little it agrees with the others.

Shifted rows are invisible to accuracy where images are sorted by class, and such a member gets a normal weight. But
hard images are hard for every network: inside a class, the members' confidence in the true class rises and falls
together, and that is gone after a shift by one row. After a permutation of classes the first choices no longer agree.
"""

from __future__ import annotations

import numpy as np

from ensemble.members.members import Members

FAR_BELOW = 0.25  # of the median of all members; networks of very different strength stay above a half
LEAST_PROB = 1e-6


def disagreeing_members(members: Members) -> list[str]:
    """A sentence for every member that agrees with the others far less than they do."""
    if len(members) < 3:
        return []
    sentences = []
    choices, confidence = choice_agreement(members.tops), confidence_agreement(members)
    for name, choice, tie in zip(members.names, choices, confidence, strict=True):
        if choice < FAR_BELOW * np.median(choices):
            sentences.append(
                f"{name} makes the others' first choice for {choice:.1%} of the images only"
                f" (median {np.median(choices):.1%}): are its classes in another order?"
            )
        elif tie < FAR_BELOW * np.median(confidence):
            sentences.append(
                f"{name} finds other images hard than the other members do (correlation {tie:.2f},"
                f" median {np.median(confidence):.2f}): are its rows shifted?"
            )
    return sentences


def choice_agreement(tops: np.ndarray) -> np.ndarray:
    """How often a member's first choice is another's, the mean over the others. (M, N) int -> (M,) in [0, 1]."""
    agreement = np.array([(tops == one).mean(axis=1) for one in tops])  # (M, M)
    return (agreement.sum(axis=1) - 1) / (len(tops) - 1)


def confidence_agreement(members: Members) -> np.ndarray:
    """The correlation of each member's confidence, inside classes, with the mean of the others'. (M,) in [-1, 1]."""
    confidence = np.log(members.true_probs.astype(np.float64) + LEAST_PROB)  # (M, N)
    count = np.maximum(np.bincount(members.rows.target), 1)
    for one in confidence:
        one -= (np.bincount(members.rows.target, one) / count)[members.rows.target]
    scaled = confidence / np.maximum(np.linalg.norm(confidence, axis=1, keepdims=True), 1e-12)
    others = scaled.sum(axis=0) - scaled  # (M, N)
    return np.sum(scaled * others, axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-12)
