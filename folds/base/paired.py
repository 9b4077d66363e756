"""Compares two ways of predicting on the same images: the mean difference of their losses and its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WITHIN_95 = 1.96  # standard errors


@dataclass(frozen=True)
class Difference:
    """The mean over images of one way's loss minus another's; below 0 the first one is better."""

    mean: float
    standard_error: float
    images: int

    @property
    def low(self) -> float:
        """The lower end of the 95% interval."""
        return self.mean - WITHIN_95 * self.standard_error

    @property
    def high(self) -> float:
        """The upper end of the 95% interval."""
        return self.mean + WITHIN_95 * self.standard_error

    @property
    def is_above_error(self) -> bool:
        """The first way is worse by more than one standard error, an image more or less not counted.

        A lead of one image is as large as its own standard error. Source of the correction: Edwards 1948, for McNemar.
        """
        return self.mean - 1 / self.images > self.standard_error


def paired_difference(one: np.ndarray, other: np.ndarray, group: np.ndarray) -> Difference:
    """The mean of `one - other` with its standard error, from the differences of the single images.

    one, other  (N,) the loss of each image: 0 or 1 for an error, a mean of such, or any other loss
    group       (N,) int: images with one number are copies, and count as one draw (Liang, Zeger 1986)
    """
    assert len(one) == len(other) == len(group) > 0, f"{len(one)}, {len(other)} and {len(group)} images"
    apart = one.astype(np.float64) - other
    mean = float(apart.mean())
    _, draw = np.unique(group, return_inverse=True)
    off = np.bincount(draw, apart - mean)  # (G,)
    few = len(off) / max(len(off) - 1, 1)
    return Difference(mean, float(np.sqrt(few * (off**2).sum())) / len(apart), len(apart))
