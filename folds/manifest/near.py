"""Finds the pairs of 64-bit hashes that differ in few bits, without looking at all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

BANDS, BAND_BITS = 4, 16
PROBED_BITS = 2 * BANDS - 1  # up to here two hashes agree in one of 4 bands but for one bit: 7 // 4 = 1
BLOCK = 1 << 22  # pairs looked at in one go: 100 MB


def close_hashes(one: np.ndarray, other: np.ndarray, *, near_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with one[i] and other[j] at most `near_bits` bits apart, sorted by i, then j. Two (p,) int64.

    one  (n,) uint64    other  (m,) uint64
    """
    search = _probed_pairs if near_bits <= PROBED_BITS else _all_pairs
    width = max(len(other), 1)
    keys = [np.empty(0, dtype=np.int64)]
    for i, j in search(one, other):
        near = np.bitwise_count(one[i] ^ other[j]) <= near_bits
        keys.append(np.unique(i[near] * width + j[near]))
    pairs = np.unique(np.concatenate(keys))
    return pairs // width, pairs % width


def _probed_pairs(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that agree in one 16-bit band but for at most one bit: every pair within 7 bits is among them.

    Source: multi-index hashing, Norouzi, Punjani and Fleet 2012.
    """
    for band in range(BANDS):
        asked, there = _band(one, band), _band(other, band)
        order = np.argsort(there, kind="stable")
        start = np.searchsorted(there[order], np.arange((1 << BAND_BITS) + 1))
        for flip in [0, *(1 << bit for bit in range(BAND_BITS))]:
            probe = asked ^ flip
            begin, count = start[probe], start[probe + 1] - start[probe]
            for part in _cut(count):
                n = count[part]
                offset = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
                i = np.repeat(np.arange(part.start, part.start + len(n)), n)
                yield i, order[np.repeat(begin[part], n) + offset]


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return ((hashes >> np.uint64(band * BAND_BITS)) & np.uint64((1 << BAND_BITS) - 1)).astype(np.int64)


def _all_pairs(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair, in blocks: for distances that probing does not cover."""
    for part in _cut(np.full(len(one), len(other))):
        i = np.arange(part.start, min(part.stop, len(one)))
        yield np.repeat(i, len(other)), np.tile(np.arange(len(other)), len(i))


def _cut(count: np.ndarray) -> Iterator[slice]:
    """Slices of `count` whose sums stay near BLOCK."""
    block = (np.cumsum(count) - count) // BLOCK
    for begin, end in pairwise([0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(count)]):
        if end > begin:
            yield slice(begin, end)
