"""Hashes and thumbnails of pictures, how alike two of them are, and the search for hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb

import numpy as np
from PIL import Image

HASH_SIDE, HASH_BITS = 32, 8  # pixels a side, and low frequencies a side: 8 x 8 = 64 bits
THUMBNAIL = 32  # pixels a side
WORD = 64  # bits of a hash
PAIR = 0.5  # cost of a look at one pair of hashes, in costs of sorting one hash
BLOCK = 1 << 22  # pairs looked at in one go: 100 MB

_frequency = np.arange(HASH_BITS)[:, None] * (2 * np.arange(HASH_SIDE)[None] + 1)
_COSINES = np.cos(np.pi * _frequency / (2 * HASH_SIDE))  # (8, 32): the lowest frequencies of the DCT, type 2
_MIRRORED = np.where(np.arange(HASH_BITS) % 2, -1.0, 1.0)  # a mirror turns the sign of the odd ones


def perceptual_hashes(picture: Image.Image) -> tuple[int, int]:
    """64 bits that survive saving and scaling, of an RGB picture and of its mirror image.

    picture  square. A bit is set where one of the 8 x 8 lowest DCT frequencies of the 32 x 32 grey picture is above
    their median, as in `imagehash.phash`.
    """
    # Symmetric: shrinking by whole factors alone lost a fifth of the mirrored copies at 112 and 299 pixels.
    small = picture.convert("L").resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    low = _COSINES @ np.asarray(small, dtype=np.float64) @ _COSINES.T  # (8, 8)
    return _bits(low), _bits(low * _MIRRORED)


def _bits(low: np.ndarray) -> int:
    ordered = np.sort(low, axis=None)  # np.median takes ten times as long for 64 numbers
    median = (ordered[ordered.size // 2 - 1] + ordered[ordered.size // 2]) / 2
    return int.from_bytes(np.packbits(low > median).tobytes(), "big")


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(32, 32, 3) uint8: the means of the areas of an (S, S, 3) uint8 picture."""
    # Where the sides are no multiple of 32, BOX shifts the picture, and so parts it from its mirror image.
    symmetric = Image.Resampling.HAMMING if len(pixels) % THUMBNAIL else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), symmetric))


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
    Exact, by the pigeonhole principle: of `near_bits + k` blocks of bits, at least k have no bit that differs. Each
    choice of k blocks makes a key, and hashes with equal keys lie side by side once they are sorted. The more hashes,
    the larger k and the longer the keys, so that few meet by chance.
    Source: multi-index hashing, Norouzi, Punjani and Fleet 2012, here with several blocks to a key.
    """
    n, is_one_set = len(one), np.array_equal(one, other)
    hashes = one if is_one_set else np.concatenate([one, other])
    blocks, agreeing = _blocks(near_bits, n_hashes=len(hashes))
    width = max(len(other), 1)
    found = [np.arange(n) * (width + 1) if is_one_set else np.empty(0, dtype=np.int64)]
    for chosen in combinations(range(len(blocks)), agreeing):
        key = np.zeros(len(hashes), dtype=np.uint64)  # the bits of the chosen blocks, side by side
        for shift, mask in (blocks[at] for at in chosen):
            key = (key << np.bitwise_count(mask)) | ((hashes >> shift) & mask)
        passed_over = [blocks[at] for at in range(max(chosen, default=0)) if at not in chosen]
        for a, b in _equal_pairs(key):
            apart = hashes[a] ^ hashes[b]
            near = np.flatnonzero(np.bitwise_count(apart) <= near_bits)
            for shift, mask in passed_over:  # a pair that is equal there too was met by an earlier choice
                near = near[(apart[near] >> shift) & mask != 0]
            i, j = np.minimum(a[near], b[near]), np.maximum(a[near], b[near])
            if is_one_set:
                found += [i * width + j, j * width + i]
            else:
                crosses = (i < n) & (j >= n)
                found.append(i[crosses] * width + j[crosses] - n)
    pairs = np.sort(np.concatenate(found))
    return pairs // width, pairs % width


def _blocks(near_bits: int, *, n_hashes: int) -> tuple[list[tuple[np.uint64, np.uint64]], int]:
    """(where it begins, its bits at the right end) of each block of a hash, and how many of them make a key.

    Those that take the least work: few blocks make many pairs meet by chance, many are many keys to sort by.
    """
    most_bits = WORD - n_hashes.bit_length()  # of a key, which shares a word with the place of its hash

    def work(agreeing: int) -> float:
        key_bits = min(agreeing * WORD // (near_bits + agreeing), most_bits) if agreeing else 0
        return comb(near_bits + agreeing, agreeing) * (n_hashes + PAIR * n_hashes**2 / 2 ** (key_bits + 1))

    agreeing = min(range(WORD - near_bits), key=work)
    if agreeing == 0:
        return [], 0  # one empty key: every pair is looked at
    edges = [WORD * block // (near_bits + agreeing) for block in range(near_bits + agreeing + 1)]
    widths = [min(stop - start, most_bits // agreeing) for start, stop in pairwise(edges)]
    return [(np.uint64(start), np.uint64(2**width - 1)) for start, width in zip(edges, widths, strict=False)], agreeing


def _equal_pairs(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places whose keys are equal, each once, in blocks. The highest bits of a key are 0."""
    place_bits = np.uint64(len(keys).bit_length())
    ordered = np.sort((keys << place_bits) | np.arange(len(keys), dtype=np.uint64))  # three times as fast as argsort
    place = (ordered & (np.uint64(1) << place_bits) - np.uint64(1)).astype(np.int64)
    ordered >>= place_bits
    is_last = np.append(ordered[1:] != ordered[:-1], True)
    at, last = np.flatnonzero(~is_last), np.flatnonzero(is_last)
    count = last[np.searchsorted(last, at)] - at  # of the equal ones behind each
    block = (np.cumsum(count) - count) // BLOCK
    for begin, end in pairwise([0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(count)]):
        n = count[begin:end]
        a = np.repeat(at[begin:end], n)
        yield place[a], place[a + 1 + np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)]
