"""Hashes and thumbnails of pictures, how alike two of them are, and the search for hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

HASH_SIDE, HASH_BITS = 32, 8  # pixels a side, and low frequencies a side: 8 x 8 = 64 bits
THUMBNAIL = 32  # pixels a side
BANDS, BAND_BITS = 4, 16
PROBED_BITS = 2 * BANDS - 1  # up to here two hashes agree in one of 4 bands but for one bit: 7 // 4 = 1
BLOCK = 1 << 22  # pairs looked at in one go: 100 MB

_frequency = np.arange(HASH_BITS)[:, None] * (2 * np.arange(HASH_SIDE)[None] + 1)
_COSINES = np.cos(np.pi * _frequency / (2 * HASH_SIDE))  # (8, 32): the lowest frequencies of the DCT, type 2
_MIRRORED = np.where(np.arange(HASH_BITS) % 2, -1.0, 1.0)  # a mirror turns the sign of the odd ones


def perceptual_hashes(picture: Image.Image) -> tuple[int, int]:
    """64 bits that survive saving and scaling, of an RGB picture and of its mirror image.

    picture  square. A bit is set where one of the 8 x 8 lowest DCT frequencies of the 32 x 32 grey picture is above
    their median: what `imagehash.phash` gives for the picture shrunk by a whole factor, in a fifth of its time.
    """
    small = picture.reduce(max(1, picture.width // HASH_SIDE)).convert("L")
    if small.width != HASH_SIDE:
        small = small.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.float64)
    low = _COSINES @ grey @ _COSINES.T  # (8, 8)
    return _bits(low), _bits(low * _MIRRORED)


def _bits(low: np.ndarray) -> int:
    ordered = np.sort(low, axis=None)  # np.median takes ten times as long for 64 numbers
    median = (ordered[ordered.size // 2 - 1] + ordered[ordered.size // 2]) / 2
    return int.from_bytes(np.packbits(low > median).tobytes(), "big")


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(32, 32, 3) uint8: the means of the areas of an (S, S, 3) uint8 picture."""
    return np.asarray(Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def difference(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far pictures are from one, as a share of their contrast: 0 is equal, about 1.4 unrelated. (m,) float32.

    one  (d,), flat    others  (m, d), any scale of 0 to 255
    The root of the mean squared difference over the root of the mean variance: a small object on white differs from
    another one by few grey levels, but by as much as it has contrast. Blank pictures have a floor of one level.
    """
    a, b = one.astype(np.float32), others.astype(np.float32)
    contrast = (a.var() + b.var(axis=1)) / 2
    return np.sqrt(((a - b) ** 2).mean(axis=1) / np.maximum(contrast, 1.0))


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
