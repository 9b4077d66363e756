"""A blend's error from what its weights can still change; `ensemble/weights/reduction.py` builds that.

An image whose true class is beaten by too few classes in all members together, or by enough of them in every member,
is decided whatever the (non-negative) weights are. For the others only the classes that beat the true one in some
members but not in all have to be compared with it. The result equals a stable sort of the whole blended
matrix, for k up to 127 and up to 2^20 classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ensemble.weights.contests import Group, Layout, layout_of

Pool = Literal["mean", "log"]
FLOOR = 1e-6  # log pool: log(p + FLOOR), since a member's exact zero must not veto a class; 1e-4 to 1e-8 do the same
MOST_K = 127  # ranks are bytes: k of `sure` and k of the contests fit into one
MOST_COUNTED = (
    255 - MOST_K
)  # rivals ahead that a byte holds beside `sure`; no fewer than any k, so that it means a miss
BATCH = 16  # weight vectors evaluated side by side: one matrix product per block


@dataclass(frozen=True)
class Reduction:
    """All that weights can change about the ranks of N true classes. Shapes: M members, U undecided rows, R contests.

    steps (k + 1,)  the loss of an image whose true class has rank 0, 1, .., k or more; never falling
    sure (N,) uint8 classes that beat the true one in every member, k at most
    layout          the undecided rows and their contests
    lower (R,)      the rival has the lower class number, so that it wins a tie
    rival (M * R,)  each member's probability of each rival, group after group, each group an (M, contests) block
    true (M, U)     each member's probability of the true class; float32 or float64 as rival
    pool            how the weights act; what is decided stays so under any rising function of each member
    """

    steps: np.ndarray
    sure: np.ndarray
    layout: Layout
    lower: np.ndarray
    rival: np.ndarray
    true: np.ndarray
    pool: Pool = "mean"

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """The mean loss of each weight vector. (B, M) float -> (B,) float64."""
        losses, ones = np.full(len(weights), self.decided_loss), np.ones(len(self.layout.row), np.float32)
        for start in range(0, len(weights), BATCH):
            ranks = self.contested_ranks(weights[start : start + BATCH])  # (U, b)
            losses[start : start + BATCH] += len(ranks) * self.steps[0]
            for rank, rise in enumerate(np.diff(self.steps)):
                if rise > 0:  # counted by a product, which is exact up to 2^24 images and five times as fast
                    losses[start : start + BATCH] += rise * (ones @ (ranks > rank).astype(np.float32))
        return losses / len(self.sure)

    def outcomes(self, weights: np.ndarray) -> np.ndarray:
        """The loss of each image. (M,) -> (N,) float64."""
        return self.steps[self.ranks(weights)]

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """The rank of each true class, k standing for k or more. (M,) -> (N,) uint8.

        Of a decided image it is the least rank that has the image's loss.
        """
        ranks = self.sure.copy()
        ranks[self.layout.row] = self.contested_ranks(weights[None])[:, 0]
        return ranks

    def contested_ranks(self, weights: np.ndarray) -> np.ndarray:
        """The ranks, k at most, of the undecided rows' true classes. (B, M) -> (U, B) uint8."""
        assert np.isfinite(weights).all(), "weights hold NaN or infinity"
        assert (weights >= 0).all(), "the reduction holds for weights >= 0 only"
        assert (weights.sum(axis=1) > 0).all(), "no member has weight"
        rival, true = self.scores
        scaled = (weights / weights.max(axis=1, keepdims=True)).T.astype(rival.dtype)  # (M, B)
        trues = true.T @ scaled  # (U, B)
        # Sums of M non-negative products are off by at most M + 2 roundings; what lies closer together than that, on
        # either side, is unclear, and is decided below in the one way in which the whole matrix would be blended.
        margin = (2 * (len(true) + 4)) * np.finfo(rival.dtype).epsneg
        low, high = trues * rival.dtype.type(1 + margin), trues * rival.dtype.type(1 - margin)
        least, most = np.empty(trues.shape, np.uint8), np.empty(trues.shape, np.uint8)
        for group in self.layout.groups:
            rivals, ahead = self._room(group, trues.shape[1])
            np.matmul(self.block(rival, group).T, scaled, out=rivals)  # (contests, B)
            rivals = rivals.reshape(group.length, -1)  # (length, rows * B)
            for bound, beats, count in ((low, np.greater, least), (high, np.greater_equal, most)):
                beats(rivals, bound[group.rows].reshape(-1), out=ahead)
                into = count[group.rows].reshape(-1)
                if group.length <= MOST_COUNTED:
                    ahead.view(np.uint8).sum(axis=0, dtype=np.uint8, out=into)
                else:  # more rivals than a byte counts: five times as slow, and only above 127 contested classes
                    np.minimum(ahead.sum(axis=0, dtype=np.int32), MOST_COUNTED, out=into, casting="unsafe")
        sure, k = self._repeated_sure(least.shape[1]), len(self.steps) - 1
        least, most = np.minimum(least + sure, k), np.minimum(most + sure, k)
        unclear = least != most
        if unclear.any():
            self._decide(weights, least, *np.nonzero(unclear))
        return least

    @cached_property
    def leads(self) -> np.ndarray:
        """How far each member has each rival ahead of the true class, up to rounding. (M, R)"""
        rival, true = self.scores
        leads = np.empty((len(true), self.layout.n_contests), rival.dtype)
        for group in self.layout.groups:
            leads[:, group.contests] = self.block(rival, group)
        leads -= true[:, self.layout.owner]
        return leads

    def block(self, values: np.ndarray, group: Group) -> np.ndarray:
        """A group's part of `rival`, or of anything laid out like it. (M, contests)"""
        n_members = len(self.true)
        return values[n_members * group.contests.start : n_members * group.contests.stop].reshape(n_members, -1)

    def subset(self, rows: np.ndarray) -> Reduction:
        """The same for some of the N images. rows (N,) bool."""
        keep = rows[self.layout.row]  # (U,)
        tiled = [np.tile(keep[group.rows], group.length) for group in self.layout.groups]
        blocks = [
            self.block(self.rival, group)[:, kept].ravel()
            for group, kept in zip(self.layout.groups, tiled, strict=True)
        ]
        nothing = np.empty(0, bool)
        return Reduction(
            steps=self.steps,
            sure=self.sure[rows],
            layout=layout_of((np.cumsum(rows) - 1)[self.layout.row[keep]], self.layout.length[keep]),
            lower=self.lower[np.concatenate([nothing, *tiled])],
            rival=np.concatenate([self.rival[:0], *blocks]),
            true=np.ascontiguousarray(self.true[:, keep]),
            pool=self.pool,
        )

    @cached_property
    def decided_loss(self) -> float:
        """The sum of the losses that no weights change."""
        decided = np.ones(len(self.sure), bool)
        decided[self.layout.row] = False
        return float(self.steps[self.sure[decided]].sum())

    @cached_property
    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Non-negative scores of rivals and true classes, in the order of the pool's own. Shapes as rival and true."""
        if self.pool == "mean":
            return self.rival, self.true
        one = self.rival.dtype.type(1 / FLOOR)
        return np.log1p(self.rival * one), np.log1p(self.true * one)  # log(p + FLOOR) - log(FLOOR)

    def _room(self, group: Group, n_vectors: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a group's products (contests, B) and comparisons (length, rows * B) go, the same memory every time.

        Fresh memory costs more than the product: the system hands it out page by page, filled with zeros.
        """
        size = (group.contests.stop - group.contests.start) * n_vectors
        products, comparisons = self._memory
        return products[:size].reshape(-1, n_vectors), comparisons[:size].reshape(group.length, -1)

    def _repeated_sure(self, n_vectors: int) -> np.ndarray:
        """`sure` of the undecided rows, side by side for each vector: broadcasting so short an axis is slow. (U, B)"""
        if n_vectors not in self._sure_by_width:
            self._sure_by_width[n_vectors] = np.repeat(self.sure[self.layout.row], n_vectors).reshape(-1, n_vectors)
        return self._sure_by_width[n_vectors]

    @cached_property
    def _sure_by_width(self) -> dict[int, np.ndarray]:
        return {}

    @cached_property
    def _memory(self) -> tuple[np.ndarray, np.ndarray]:
        size = BATCH * max((group.contests.stop - group.contests.start for group in self.layout.groups), default=0)
        return np.empty(size, self.rival.dtype), np.empty(size, bool)

    def _decide(self, weights: np.ndarray, ranks: np.ndarray, rows: np.ndarray, batch: np.ndarray) -> None:
        """Count again, in float64 and member by member as `Recipe.scores` blends, where rounding could matter."""
        layout, n_members = self.layout, len(self.true)
        owner = np.repeat(np.arange(len(rows)), layout.length[rows])
        nth = np.arange(len(owner)) - np.searchsorted(owner, owner)
        contest = layout.first[rows][owner] + layout.stride[rows][owner] * nth
        start, width = self._block_starts[:, rows][:, owner]  # the group's first contest, and how many it has
        member = np.arange(n_members)[:, None]
        place = start * n_members + member * width + (contest - start)  # (M, contests)
        weight = weights[batch].T.astype(np.float64)  # (M, rows)
        # Sums over the first axis add member after member; over the last one numpy would add pairwise.
        rivals = (weight[:, owner] * pool_scores(self.rival[place], self.pool)).sum(axis=0)
        trues = (weight * pool_scores(self.true[:, rows], self.pool)).sum(axis=0)
        ahead = (rivals > trues[owner]) | ((rivals == trues[owner]) & self.lower[contest])
        count = np.bincount(owner, ahead, minlength=len(rows)).astype(np.int64)
        ranks[rows, batch] = np.minimum(count + self.sure[layout.row[rows]], len(self.steps) - 1)

    @cached_property
    def _block_starts(self) -> np.ndarray:
        """Each undecided row's group: number of its first contest, and of contests. (2, U) int64"""
        sizes = [group.rows.stop - group.rows.start for group in self.layout.groups]
        ends = [(group.contests.start, group.contests.stop - group.contests.start) for group in self.layout.groups]
        return np.repeat(np.array(ends, np.int64).reshape(-1, 2).T, sizes, axis=1)


def pool_scores(probs: np.ndarray, pool: Pool) -> np.ndarray:
    """What the members' weights are multiplied with, in float64: probabilities, or their logarithms."""
    probs = probs.astype(np.float64)
    return probs if pool == "mean" else np.log(probs + FLOOR)
