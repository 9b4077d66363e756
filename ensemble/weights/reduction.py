"""Computes a loss of the true class's rank for any weights, from the few comparisons that weights can change.

An image is decided whatever the non-negative weights are if too few classes beat its true class in any member, or
enough of them in every member. For the others only those classes matter that beat the true one in some members and not
in all: each is a contest between a rival and the true class. The result equals a stable sort of the whole blended
matrix, ties included. At 15 members x 88,220 images x 103 classes one weight vector takes 0.2 to 0.3 ms instead of 100.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np

from ensemble.weights.recipe import Pool, pool_scores

BATCH_CONTESTS = 1 << 18  # contests x weight vectors compared at a time: 1 MB of float32
PRUNING_WORK = 3e8  # comparisons, about 0.2 s; images with many contests come last: weak, diverse members have many
MOST_PRUNED = 64  # contests of an image


@dataclass(frozen=True)
class Reduction:
    """What weights can change about the ranks of N true classes. Shapes: M members, U undecided images, R contests.

    steps (k + 1,)   the loss of an image whose true class has rank 0, 1, .., k or more; never falling
    sure (N,) int32  classes that beat the true one in every member, k at most
    row (U,) int64   the undecided images, those with the most contests first
    starts (L + 1,)  contest j of undecided image u is number starts[j] + u: images with more than j contests come first
    lower (R,) bool  the rival has the lower class number, so that it wins a tie
    rival (M, R)     each member's probability of each rival    true (M, U)  and of the true class; float32 or float64
    pool             how weights act: what is decided stays so under any rising function of a member's probabilities
    """

    steps: np.ndarray
    sure: np.ndarray
    row: np.ndarray
    starts: np.ndarray
    lower: np.ndarray
    rival: np.ndarray
    true: np.ndarray
    pool: Pool = "mean"

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """The mean loss of each weight vector. (B, M) float >= 0 -> (B,) float64."""
        batch = max(1, BATCH_CONTESTS // max(len(self.lower), 1))
        parts = [self.contested_ranks(weights[i : i + batch]) for i in range(0, len(weights), batch)]
        counts = [np.bincount(ranks, minlength=len(self.steps)) for part in parts for ranks in part]
        return np.array([self.decided_loss + count @ self.steps for count in counts]) / len(self.sure)

    def outcomes(self, weights: np.ndarray) -> np.ndarray:
        """The loss of each image. (M,) -> (N,) float64."""
        ranks = self.sure.copy()  # of a decided image the least rank that has the image's loss
        ranks[self.row] = self.contested_ranks(weights[None])[0]
        return self.steps[ranks]

    def contested_ranks(self, weights: np.ndarray) -> np.ndarray:
        """The ranks, k at most, of the undecided images' true classes. (B, M) -> (B, U) int32."""
        assert ((weights >= 0) & (weights < np.inf)).all(), "weights must be finite and >= 0"
        assert (weights.sum(axis=1) > 0).all(), "no member has weight"
        lead = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32) @ self.leads  # (B, R)
        ahead = lead > 0
        # Leads are at most 1, so that a sum of M of them is off by at most M + 4 roundings. What lies closer to 0 is
        # decided in float64, added member by member as `blend_scores` blends the whole matrix.
        close = np.abs(lead, out=lead) <= (len(self.true) + 4) * np.finfo(np.float32).eps
        if close.any():
            vector, contest = np.nonzero(close)
            rivals = weights[vector].T * pool_scores(self.rival[:, contest], self.pool)  # (M, n)
            trues = weights[vector].T * pool_scores(self.true[:, self.owner[contest]], self.pool)
            rivals, trues = reduce(np.add, rivals), reduce(np.add, trues)  # `sum` would add in another order
            ahead[vector, contest] = (rivals > trues) | ((rivals == trues) & self.lower[contest])
        longest = len(self.starts) - 1
        count = np.zeros((len(weights), len(self.row)), np.uint8 if longest < 256 else np.int32)
        for start, stop in zip(self.starts, self.starts[1:], strict=False):
            count[:, : stop - start] += ahead[:, start:stop].view(np.uint8)
        return np.minimum(count + self.sure[self.row], len(self.steps) - 1)

    def subset(self, rows: np.ndarray) -> Reduction:
        """The same for some of the N images. rows (N,) bool."""
        keep = rows[self.row]  # (U,)
        kept = keep[self.owner]  # (R,)
        sizes = np.append(0, np.cumsum(keep))[np.diff(self.starts)]  # images left that have more than j contests
        made = replace(
            self,
            sure=self.sure[rows],
            row=(np.cumsum(rows) - 1)[self.row[keep]],
            starts=np.append(0, np.cumsum(sizes[sizes > 0])),
            lower=self.lower[kept],
            rival=np.compress(kept, self.rival, axis=1),
            true=np.compress(keep, self.true, axis=1),
        )
        made.__dict__["leads"] = np.compress(kept, self.leads, axis=1)  # the value of its cached property
        return made

    @property
    def undecided(self) -> float:
        """The share of images whose loss weights can change."""
        return len(self.row) / len(self.sure)

    @cached_property
    def leads(self) -> np.ndarray:
        """How far each member has each rival ahead, in units of its image's largest such lead. (M, R) float32"""
        true = pool_scores(self.true, self.pool)
        leads = pool_scores(self.rival, self.pool) - true[:, self.owner]
        size = np.zeros(len(self.row))
        np.maximum.at(size, self.owner, np.abs(leads).max(axis=0, initial=0))
        size = np.maximum(size, np.abs(true).max(axis=0, initial=0) * 2.0**-20)  # rounding of float64 sums stays small
        return (leads / (size + np.finfo(np.float64).tiny)[self.owner]).astype(np.float32)

    @cached_property
    def owner(self) -> np.ndarray:
        """The undecided image, in [0, U), of each contest. (R,) int64"""
        return np.concatenate([np.empty(0, np.int64), *(np.arange(size) for size in np.diff(self.starts))])

    @cached_property
    def decided_loss(self) -> float:
        """The sum of the losses that no weights change."""
        decided = np.ones(len(self.sure), bool)
        decided[self.row] = False
        return float(np.bincount(self.sure[decided], minlength=len(self.steps)) @ self.steps)


def build_reduction(pieces: Iterable[tuple[slice, np.ndarray]], target: np.ndarray, *, steps: np.ndarray) -> Reduction:
    """The exact reduction of M members over N images for a loss of the true class's rank.

    pieces  (rows, probabilities (M, n, C) float32 or float64), all rows once and in order
    target  (N,) int in [0, C)
    steps   (k + 1,) float: the loss at rank 0, 1, .., k or more; never falling
    """
    assert (np.diff(steps) >= 0).all(), f"{steps} falls somewhere"
    parts = [_contests(probs, target[piece], first=piece.start, steps=steps) for piece, probs in pieces]
    sure, row, lower = (np.concatenate([part[i] for part in parts]) for i in range(3))
    rival, true = (np.concatenate([part[i] for part in parts], axis=1) for i in (3, 4))  # (M, R) each
    needed = _needed(rival, row, need=len(steps) - 1 - sure)
    row, lower, rival, true = row[needed], lower[needed], rival[:, needed], true[:, needed]
    images, starts, place = _layout(row)
    order = np.empty_like(place)
    order[place] = np.arange(len(place))  # contest i of the layout is contest order[i] of those sorted by image
    first = order[: len(images)]
    return Reduction(np.asarray(steps, np.float64), sure, images, starts, lower[order], rival[:, order], true[:, first])


def _contests(probs: np.ndarray, target: np.ndarray, *, first: int, steps: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of n images: sure (n,); of each contest its image, whether the rival is lower, and both probabilities (M, r)."""
    n_members, n, n_classes = probs.shape
    k, true = len(steps) - 1, probs[:, np.arange(n), target]  # (M, n)
    ahead, tied = probs > true[:, :, None], probs == true[:, :, None]
    if np.count_nonzero(tied) > true.size:  # more than each true class with itself
        ahead |= tied & (np.arange(n_classes) < target[:, None])
    count = np.add.reduce(ahead.view(np.uint8), axis=0, dtype=np.uint16)  # (n, C): members in which it is ahead
    sure = np.minimum(np.count_nonzero(count == n_members, axis=1), k)
    undecided = steps[sure] != steps[np.minimum(np.count_nonzero(count, axis=1), k)]
    row, rival = np.nonzero((count > 0) & (count < n_members) & undecided[:, None])
    return sure.astype(np.int32), first + row, rival < target[row], probs[:, row, rival], true[:, row]


def _layout(row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images of contests that come sorted by image, most contests first; `starts`; the place of each contest."""
    images, first, length = np.unique(row, return_index=True, return_counts=True)
    by_length = np.argsort(-length, kind="stable")
    sizes = np.searchsorted(-length[by_length], -np.arange(length.max(initial=0)))  # images with more than j contests
    starts = np.append(0, np.cumsum(sizes))
    rank = np.empty_like(by_length)
    rank[by_length] = np.arange(len(images))
    nth = np.arange(len(row)) - np.repeat(first, length)
    return images[by_length], starts, starts[nth] + np.repeat(rank, length)


def _needed(rival: np.ndarray, row: np.ndarray, *, need: np.ndarray) -> np.ndarray:
    """Which contests matter: not those of a rival that is behind enough others in every member. (R,) bool

    If such a rival beat the true class, those others would too, and the image would have rank k or more without it.
    Contests of an image lie in the order of their classes, so that the earlier of two wins a tie.
    need (N,): so many rivals ahead of the true class make rank k
    """
    images, starts, place = _layout(row)
    values = np.empty_like(rival)
    values[:, place] = rival
    sizes = np.diff(starts)
    length = np.searchsorted(-sizes, -np.arange(len(images)))  # contests of each image, falling
    work = np.cumsum(length[::-1].astype(np.float64) ** 2) * len(rival)
    pruned = len(images) - int(np.searchsorted(work, PRUNING_WORK))  # images from this one on
    if len(sizes) > MOST_PRUNED:  # every pair of contests costs a call of numpy, however few images have so many
        pruned = max(pruned, int(sizes[MOST_PRUNED]))
    behind = np.zeros(len(row), np.int32)
    for later in range(len(sizes)):
        for earlier in range(later if sizes[later] > pruned else 0):
            one, other = (slice(starts[j] + pruned, starts[j] + sizes[later]) for j in (earlier, later))
            behind[other] += (values[:, one] >= values[:, other]).all(axis=0)
            behind[one] += (values[:, other] > values[:, one]).all(axis=0)
    return behind[place] < need[row]
