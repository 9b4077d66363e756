"""95% intervals of error rates, of losses, of paired differences of losses, and of rates on new images.

Copies of an image count once.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

WITHIN_95 = 1.96  # standard errors
POINTS = 400  # values of a rate that stand for its distribution: its 95% interval is off by less than 1% of its length


@dataclass(frozen=True)
class Difference:
    """The mean over images of one way's loss minus another's, and its 95% interval; below 0 the first one is better."""

    mean: float
    standard_error: float
    images: int

    @property
    def low(self) -> float:
        return self.mean - WITHIN_95 * self.standard_error

    @property
    def high(self) -> float:
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


def wilson_interval(rate: float, n: float) -> tuple[float, float]:
    """The 95% interval of a rate in [0, 1] that was measured on n independent images; n need not be whole.

    Right also where few or no errors were seen. Source: Wilson 1927, Probable inference, the law of succession, and
    statistical inference.
    """
    assert n > 0, f"{n} images"
    assert 0 <= rate <= 1, f"a rate of {rate}"
    z2 = WITHIN_95**2
    centre, reach = rate + z2 / (2 * n), WITHIN_95 * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n**2))
    low, high = ((centre + side * reach) / (1 + z2 / n) for side in (-1, 1))
    return (0.0 if rate == 0 else float(low)), (1.0 if rate == 1 else float(high))


def rate_interval(outcomes: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean of outcomes in [0, 1]: an error rate, a loss made of ranks.

    outcomes  (N,) a number for each image    group  (N,) int: images with one number are copies
    """
    rate = min(max(float(np.mean(outcomes, dtype=np.float64)), 0.0), 1.0)
    return wilson_interval(rate, effective_images(outcomes, group))


def mean_interval(outcomes: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean of outcomes that have no upper limit, such as log loss: normal, cut off at 0."""
    apart = paired_difference(outcomes, np.zeros(len(outcomes)), group)
    return max(apart.low, 0.0), apart.high


def effective_images(outcomes: np.ndarray, group: np.ndarray) -> float:
    """How many independent images would tell a rate as well as these, of which some are copies of each other.

    It is the n at which a rate has the variance that the sums over the groups have, or that of the single images where
    this is larger: by copies nothing is known better. Where no outcome differs there is no variance, and copies are
    taken to agree: N^2 / sum of squared group sizes, which is the number of groups where all are equally large.
    Source of both: Kish 1965, Survey sampling (design effect).
    """
    values = np.asarray(outcomes, np.float64)
    rate, zeros = float(values.mean()), np.zeros(len(values))
    variance = float(values.var()) / len(values)
    if not 0 < rate < 1 or variance <= 0:
        return agreeing_images(group)
    by_group, alone = (paired_difference(values, zeros, one).standard_error for one in (group, np.arange(len(values))))
    return rate * (1 - rate) / variance / max((by_group / alone) ** 2, 1.0)


def agreeing_images(group: np.ndarray) -> float:
    """How many independent images these amount to where copies agree. group (N,) int, as in `effective_images`."""
    size = np.unique(group, return_counts=True)[1].astype(np.float64)
    return float(size.sum() ** 2 / (size**2).sum())


def rate_points(rate: float, n: float) -> np.ndarray:
    """Equally likely values of the true rate, ascending, where `rate` was measured on n independent images. (POINTS,)

    They are quantiles of the posterior Beta(n rate + 1/2, n (1 - rate) + 1/2), which is right also where few or no
    errors were seen. Source: Jeffreys 1946; Brown, Cai, DasGupta 2001, Interval estimation for a binomial proportion.
    """
    from scipy.special import betaincinv

    return betaincinv(n * rate + 0.5, n * (1 - rate) + 0.5, (np.arange(POINTS) + 0.5) / POINTS)


def predictive_interval(rates: np.ndarray, trials: int) -> tuple[float, float]:
    """The 95% interval of the share of errors among so many new images. rates (n,): equally likely true rates.

    The number of errors is binomial for each rate, beta-binomial over all. Of the two counts at the ends half counts
    as inside (mid-P, Lancaster 1961): ends that are wholly inside would hold 97 to 99 of 100 where errors are few.
    """
    from scipy.special import bdtr

    assert trials > 0, f"{trials} images"

    def below(count: int) -> float:
        upto = bdtr(float(count), trials, rates).mean()
        return float(upto + (bdtr(float(count - 1), trials, rates).mean() if count else 0.0)) / 2

    # The least counts of which more than these shares lie below.
    low, above = (bisect_right(range(trials), share, key=below) for share in (0.025, 0.975))
    high = max(above - 1, 0)
    return min(low, high) / trials, high / trials
