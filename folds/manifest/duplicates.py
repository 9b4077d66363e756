"""Finds copies of one picture: exact ones by their pixels, near and mirrored ones by hash and thumbnail.

A hash only proposes: two photographs on white can share 60 of 64 bits. The thumbnails decide (`likeness`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from folds.manifest.likeness import MOST_DIFFERENCE, THUMBNAIL, difference
from folds.manifest.near import close_hashes

COARSE = 4  # pixels a side of the means that are compared first
BLOCK = 4096  # thumbnails compared at a time: 50 MB

Thumbnails = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Copies:
    """Numbers per image, equal for copies: the position of the first of them. Two (n,) int64.

    upright   exact and near copies
    mirrored  these and mirror images: they must share a fold too, but may rightly stand under two labels (a left and
              a right arrow)
    """

    upright: np.ndarray
    mirrored: np.ndarray


def find_copies(
    digests: np.ndarray, hashes: np.ndarray, mirror_hashes: np.ndarray, thumbnails: Thumbnails, *, near_bits: int
) -> Copies:
    """Which of n images are copies of each other; copies of copies count as copies.

    digests     (n,) str, of the decoded pixels: equal ones are copies whatever else
    hashes      (n,) uint64, perceptual, of the picture; mirror_hashes of its mirror image
    thumbnails  gives (m, 32, 32, 3) uint8 for (m,) positions; asked once
    near_bits   pairs whose hashes differ in at most so many bits are compared by thumbnail
    """
    _, first, exact = np.unique(digests, return_index=True, return_inverse=True)
    leaders = np.sort(first)  # one image stands for all that have its pixels
    h, m = hashes[leaders], mirror_hashes[leaders]
    near = list(_candidates(h, h, near_bits=near_bits))
    mirrored = list(_candidates(m, h, near_bits=near_bits))
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *(part for pair in near + mirrored for part in pair)]))
    gallery = _Gallery(rows, thumbnails(leaders[rows]) if len(rows) else np.empty((0, THUMBNAIL, THUMBNAIL, 3)))
    gallery.join(near, mirror=False)
    upright = gallery.first_of_group(len(leaders))
    gallery.join(mirrored, mirror=True)
    both = gallery.first_of_group(len(leaders))
    leader_of = np.searchsorted(leaders, first[exact])  # (n,) position among the leaders
    return Copies(leaders[upright][leader_of], leaders[both][leader_of])


def _candidates(
    asking: np.ndarray, answering: np.ndarray, *, near_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(positions with one hash in `asking`, positions whose hash in `answering` is near); alone ones are left out.

    Equal hashes are met as one: thousands of blank pictures cost one search.
    """
    asking_hash, ask = np.unique(asking, return_inverse=True)
    answering_hash, answer = np.unique(answering, return_inverse=True)
    i, j = close_hashes(asking_hash, answering_hash, near_bits=near_bits)  # sorted by i
    askers, answerers = _Members(ask, len(asking_hash)), _Members(answer, len(answering_hash))
    starts = np.flatnonzero(np.diff(i, prepend=-1))
    stops = np.append(starts[1:], len(i))
    alone = (
        (stops - starts == 1) & (askers.only[i[starts]] == answerers.only[j[starts]]) & (askers.only[i[starts]] >= 0)
    )
    for start, stop in zip(starts[~alone].tolist(), stops[~alone].tolist(), strict=True):
        yield askers[i[start]], np.concatenate([answerers[v] for v in j[start:stop]])


class _Members:
    """The positions of each of n values, each of which occurs; cut out when asked for, since few of a million are."""

    def __init__(self, which: np.ndarray, n: int) -> None:
        self.order = np.argsort(which, kind="stable")
        count = np.bincount(which, minlength=n)
        self.edges = np.append(0, np.cumsum(count))
        self.only = np.where(count == 1, self.order[self.edges[:-1]], -1)  # (n,): the one position, -1 for several

    def __getitem__(self, value: int) -> np.ndarray:
        return self.order[self.edges[value] : self.edges[value + 1]]


class _Gallery:
    """Thumbnails of the images that have candidates, and the growing groups of those that are copies."""

    def __init__(self, rows: np.ndarray, thumbs: np.ndarray) -> None:
        """rows: (m,) int64 positions, ascending; thumbs: (m, 32, 32, 3) uint8."""
        self.rows = rows
        self.thumbs = thumbs.astype(np.uint8, copy=False)
        cell = THUMBNAIL // COARSE
        self.coarse = np.empty((len(rows), COARSE, COARSE, 3), dtype=np.float32)
        self.contrast = np.empty(len(rows), dtype=np.float32)  # variance, grey levels squared
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            block = self.thumbs[part].astype(np.float32)
            self.coarse[part] = block.reshape(-1, COARSE, cell, COARSE, cell, 3).mean(axis=(2, 4))
            self.contrast[part] = block.var(axis=(1, 2, 3))
        self.group = np.arange(len(rows))

    def join(self, candidates: list[tuple[np.ndarray, np.ndarray]], *, mirror: bool) -> None:
        """Give all pairs that show the same picture (one of them mirrored, if so asked) one group."""
        for ones, others in candidates:
            at = np.searchsorted(self.rows, others)
            for one in np.searchsorted(self.rows, ones):
                self._join(int(one), at, mirror=mirror)

    def first_of_group(self, n: int) -> np.ndarray:
        """(n,) int64: the first position of each position's group."""
        first = np.arange(n, dtype=np.int64)
        first[self.rows] = self.rows[self.group]
        return first

    def _join(self, one: int, others: np.ndarray, *, mirror: bool) -> None:
        flip = slice(None, None, -1) if mirror else slice(None)
        others = others[self.group[others] != self.group[one]]
        # Averaging brings pictures closer, so those that differ too much as 4 x 4 means differ too much.
        coarse = ((self.coarse[one][:, flip] - self.coarse[others]) ** 2).mean(axis=(1, 2, 3))
        limit = MOST_DIFFERENCE**2 * np.maximum((self.contrast[one] + self.contrast[others]) / 2, 1.0)
        others = others[coarse <= limit + 1e-3]
        thumb = self.thumbs[one][:, flip].reshape(-1)
        for start in range(0, len(others), BLOCK):
            part = others[start : start + BLOCK]
            same = part[difference(thumb, self.thumbs[part].reshape(len(part), -1)) <= MOST_DIFFERENCE]
            joined = np.unique(self.group[np.append(same, one)])
            if len(joined) > 1:
                self.group[np.isin(self.group, joined)] = joined[0]
