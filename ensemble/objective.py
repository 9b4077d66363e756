"""This file evaluates a blend's error from what its weights can still change; `ensemble/reduce.py` builds that.

An image whose true class is beaten by too few classes in all members together, or by enough of them in every member,
is decided whatever the (non-negative) weights are. For the others only the classes that beat the true one in some
members but not in all have to be compared with it. The result equals a stable sort of the whole blended matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

Pool = Literal["mean", "log"]
FLOOR = 1e-6  # log pool: log(p + FLOOR), since a member's exact zero must not veto a class; 1e-4 to 1e-8 do the same
BATCH = 16  # weight vectors evaluated side by side: one matrix product, 6 MB of values at 100,000 contests


class Group(NamedTuple):
    """Undecided rows with equally many contests: a (length, rows) block of contests, the rows side by side."""

    length: int
    rows: slice  # among the U undecided rows
    contests: slice  # among the R contests; contest j of row u is contests.start + j * n_rows + u


@dataclass(frozen=True)
class Reduction:
    """All that weights can change about the ranks of N true classes. Shapes: M members, U undecided rows, R contests.

    steps (k + 1,)  the loss of an image whose true class has rank 0, 1, .., k or more; never falling
    sure (N,)       classes that beat the true one in every member
    row (U,)        the undecided rows, ordered by length;  length (U,): the number of contests of each
    lower (R,)      the rival has the lower class number, so that it wins a tie
    rival (M, R)    each member's probability of the rival, float32 or float64;  true (M, U): of the true class
    pool            how the weights act; what is decided stays so under any rising function of each member
    """

    steps: np.ndarray
    sure: np.ndarray
    row: np.ndarray
    length: np.ndarray
    lower: np.ndarray
    rival: np.ndarray
    true: np.ndarray
    pool: Pool = "mean"

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """The mean loss of each weight vector. (B, M) float -> (B,) float64."""
        losses = np.empty(len(weights))
        for start in range(0, len(weights), BATCH):
            ranks = self.contested_ranks(weights[start : start + BATCH])  # (b, U)
            losses[start : start + BATCH] = self.steps[ranks].sum(axis=1)
        return (losses + self.decided_loss) / len(self.sure)

    def outcomes(self, weights: np.ndarray) -> np.ndarray:
        """The loss of each image. (M,) -> (N,) float64."""
        return self.steps[self.ranks(weights)]

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """The rank of each true class, k standing for k or more. (M,) -> (N,) uint8."""
        ranks = np.minimum(self.sure, len(self.steps) - 1)
        ranks[self.row] = self.contested_ranks(weights[None])[0]
        return ranks

    def contested_ranks(self, weights: np.ndarray) -> np.ndarray:
        """The ranks, cut off at k, of the undecided rows' true classes. (B, M) -> (B, U) uint8."""
        assert np.isfinite(weights).all(), "weights hold NaN or infinity"
        assert (weights >= 0).all(), "the reduction holds for weights >= 0 only"
        assert (weights.sum(axis=1) > 0).all(), "no member has weight"
        rival, true = self.scores
        k, scale = len(self.steps) - 1, weights.max(axis=1, keepdims=True)
        scaled = (weights / scale).astype(rival.dtype)
        rivals, trues = scaled @ rival, scaled @ true  # (B, R), (B, U)
        # Sums of M non-negative products are off by at most M + 2 roundings; what lies closer together than that, on
        # either side, is unclear, and is decided below in the one way in which the whole matrix would be blended.
        margin = (2 * (self.rival.shape[0] + 4)) * np.finfo(rival.dtype).epsneg
        low, high = trues * rival.dtype.type(1 + margin), trues * rival.dtype.type(1 - margin)
        least = np.empty(trues.shape, np.uint8)
        most = np.empty(trues.shape, np.uint8)
        for group in self.groups:
            block = rivals[:, group.contests].reshape(len(weights), group.length, -1)  # (B, length, rows)
            surely = block > low[:, None, group.rows]
            maybe = block >= high[:, None, group.rows]
            least[:, group.rows] = surely.view(np.uint8).sum(axis=1, dtype=np.uint8)
            most[:, group.rows] = maybe.view(np.uint8).sum(axis=1, dtype=np.uint8)
        sure = self.sure[self.row]
        least, most = np.minimum(least + sure, k), np.minimum(most + sure, k)
        unclear = least != most
        if unclear.any():
            self._decide(weights, least, *np.nonzero(unclear))
        return least

    def subset(self, rows: np.ndarray) -> Reduction:
        """The same for some of the N images. rows (N,) bool."""
        keep_row = rows[self.row]  # (U,)
        keep = np.concatenate([np.tile(keep_row[group.rows], group.length) for group in self.groups] or [keep_row])
        renumbered = np.cumsum(rows) - 1
        return replace(
            self,
            sure=self.sure[rows],
            row=renumbered[self.row[keep_row]],
            length=self.length[keep_row],
            lower=self.lower[keep],
            rival=np.ascontiguousarray(self.rival[:, keep]),
            true=np.ascontiguousarray(self.true[:, keep_row]),
        )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The undecided rows by number of contests, rising."""
        return tuple(_groups(self.length))

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where a row's first contest lies, and how far it is to the next. (U,) int64 each."""
        first, stride = np.empty(len(self.length), np.int64), np.empty(len(self.length), np.int64)
        for group in self.groups:
            n_rows = group.rows.stop - group.rows.start
            first[group.rows] = group.contests.start + np.arange(n_rows)
            stride[group.rows] = n_rows
        return first, stride

    @cached_property
    def owner(self) -> np.ndarray:
        """The undecided row, in [0, U), that each contest belongs to. (R,) int64."""
        parts = [np.tile(np.arange(group.rows.start, group.rows.stop), group.length) for group in self.groups]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @cached_property
    def decided_loss(self) -> float:
        """The sum of the losses that no weights change."""
        decided = np.ones(len(self.sure), bool)
        decided[self.row] = False
        return float(self.steps[np.minimum(self.sure[decided], len(self.steps) - 1)].sum())

    @cached_property
    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Non-negative scores of rivals and true classes, in the order of the pool's own: (M, R), (M, U)."""
        if self.pool == "mean":
            return self.rival, self.true
        one = self.rival.dtype.type(1 / FLOOR)
        return np.log1p(self.rival * one), np.log1p(self.true * one)  # log(p + FLOOR) - log(FLOOR)

    def _decide(self, weights: np.ndarray, ranks: np.ndarray, batch: np.ndarray, rows: np.ndarray) -> None:
        """Count again, in float64 and member by member as `Recipe.scores` blends, where rounding could matter."""
        length, (first, stride) = self.length[rows], self.places
        owner = np.repeat(np.arange(len(rows)), length)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
        contest = first[rows][owner] + stride[rows][owner] * nth
        rivals, trues = np.zeros(len(contest)), np.zeros(len(rows))
        for member in range(len(self.rival)):
            weight = weights[batch, member].astype(np.float64)
            rivals += weight[owner] * pool_scores(self.rival[member, contest], self.pool)
            trues += weight * pool_scores(self.true[member, rows], self.pool)
        ahead = (rivals > trues[owner]) | ((rivals == trues[owner]) & self.lower[contest])
        count = np.bincount(owner, ahead, minlength=len(rows)).astype(np.int64)
        ranks[batch, rows] = np.minimum(count + self.sure[self.row[rows]], len(self.steps) - 1)


def pool_scores(probs: np.ndarray, pool: Pool) -> np.ndarray:
    """What the members' weights are multiplied with, in float64: probabilities, or their logarithms."""
    probs = probs.astype(np.float64)
    return probs if pool == "mean" else np.log(probs + FLOOR)


def _groups(length: np.ndarray) -> Iterator[Group]:
    lengths, starts = np.unique(length, return_index=True)
    first_contest = 0
    for value, start, stop in zip(lengths, starts, np.append(starts, len(length))[1:], strict=True):
        size = int(value) * (stop - start)
        yield Group(int(value), slice(int(start), int(stop)), slice(first_contest, first_contest + size))
        first_contest += size
