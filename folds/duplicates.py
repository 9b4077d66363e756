"""This file finds copies of one picture: exact ones by their pixels, near ones by perceptual hash and thumbnail.

A hash only proposes: two photographs on white can share 60 of 64 bits. The thumbnails decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

THUMBNAIL = 16  # pixels a side
# Largest share of the thumbnails' own contrast that may differ between copies: see `is_same_picture`.
MOST_DIFFERENCE = 0.15
BANDS, BAND_BITS = 4, 16
PROBED_BITS = 2 * BANDS - 1  # up to here two hashes agree in one of 4 bands but for a bit: 7 // 4 = 1

Thumbnails = Callable[[np.ndarray], np.ndarray]


def find_groups(digests: np.ndarray, hashes: np.ndarray, thumbnails: Thumbnails, *, near_bits: int) -> np.ndarray:
    """A number per image, equal for the copies of one picture: the position of the first of them. (n,) int64.

    digests     (n,) str, of the decoded pixels: equal ones are copies whatever else
    hashes      (n,) uint64, perceptual; pairs within `near_bits` are compared by thumbnail
    thumbnails  gives (m, 16, 16, 3) uint8 for (m,) positions
    """
    _, first, exact = np.unique(digests, return_index=True, return_inverse=True)
    group = first[exact].astype(np.int64)  # the first image with these pixels stands for all of them
    leaders = np.sort(first)
    near = _near_groups(hashes[leaders], lambda rows: thumbnails(leaders[rows]), near_bits=near_bits)
    joined = np.arange(len(digests), dtype=np.int64)
    joined[leaders] = leaders[near]
    return joined[group]


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(16, 16, 3) uint8: the means of the areas of an (S, S, 3) picture."""
    return np.asarray(Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def difference(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far thumbnails are from one, as a share of their contrast; 0 is equal, about 1.4 is unrelated. (m,) float32.

    one  (d,) uint8, flat    others  (m, d) uint8
    The root of the mean squared difference over the root of the mean variance: a small object on white differs from
    another one by few grey levels, but by as much as it has contrast. Blank pictures have a floor of one level.
    """
    a, b = one.astype(np.float32), others.astype(np.float32)
    contrast = (a.var() + b.var(axis=1)) / 2
    return np.sqrt(((a - b) ** 2).mean(axis=1) / np.maximum(contrast, 1.0))


def close_hashes(hashes: np.ndarray, *, near_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of positions i < j whose hashes differ in at most `near_bits` bits, sorted. Two (p,) int64.

    hashes  (n,) uint64, distinct
    """
    search = _probed_pairs if near_bits <= PROBED_BITS else _all_pairs
    keys = [np.empty(0, dtype=np.int64)]
    for i, j in search(hashes):
        near = np.bitwise_count(hashes[i] ^ hashes[j]) <= near_bits
        i, j = i[near], j[near]
        keys.append(np.unique(np.minimum(i, j) * len(hashes) + np.maximum(i, j)))
    pairs = np.unique(np.concatenate(keys))
    return pairs // max(len(hashes), 1), pairs % max(len(hashes), 1)


def _probed_pairs(hashes: np.ndarray, *, most: int = 1 << 22) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that agree in one 16-bit band but for at most one bit: every pair within 7 bits is among them.

    Source: multi-index hashing, Norouzi, Punjani and Fleet 2012.
    """
    for band in range(BANDS):
        key = ((hashes >> np.uint64(band * BAND_BITS)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(key, kind="stable")
        start = np.searchsorted(key[order], np.arange((1 << BAND_BITS) + 1))
        for flip in [0, *(1 << bit for bit in range(BAND_BITS))]:
            probe = key ^ flip
            asks = np.flatnonzero((key < probe) | (flip == 0))  # a pair with one differing bit is met from both sides
            count = (start[probe + 1] - start[probe])[asks]
            for part in _cut(count, most):
                rows, n = asks[part], count[part]
                i = np.repeat(rows, n)
                offset = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
                j = order[np.repeat(start[probe[rows]], n) + offset]
                keep = i < j if flip == 0 else slice(None)
                yield i[keep], j[keep]


def _all_pairs(hashes: np.ndarray, *, most: int = 1 << 22) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair i < j, in blocks."""
    n = len(hashes)
    for part in _cut(np.arange(n - 1, -1, -1), most):
        first, later = np.arange(n)[part], np.arange(part.start + 1, n)
        i, j = np.repeat(first, len(later)), np.tile(later, len(first))
        yield i[i < j], j[i < j]


def _cut(count: np.ndarray, most: int) -> Iterator[slice]:
    """Slices of `count` whose sums stay near `most`, so that a block of pairs stays in bounds."""
    block = (np.cumsum(count) - count) // most
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(count)]
    for begin, end in pairwise(edges):
        if end > begin:
            yield slice(begin, end)


def _near_groups(hashes: np.ndarray, thumbnails: Thumbnails, *, near_bits: int) -> np.ndarray:
    """The position of the first image of each image's group. (n,) int64; `hashes` may be equal."""
    distinct, which = np.unique(hashes, return_inverse=True)
    members = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which, minlength=len(distinct)))[:-1])
    i, j = close_hashes(distinct, near_bits=near_bits)
    neighbours: dict[int, list[int]] = {int(u): [int(u)] for u in np.flatnonzero(np.bincount(which) > 1)}
    for u, v in zip(i.tolist(), j.tolist(), strict=True):
        neighbours.setdefault(u, [u]).append(v)
    asked = {v for u, others in neighbours.items() for v in (u, *others)}
    rows = np.sort(np.concatenate([members[u] for u in asked])) if asked else np.empty(0, dtype=np.int64)
    at = np.full(len(hashes), -1, dtype=np.int64)
    at[rows] = np.arange(len(rows))
    thumbs = thumbnails(rows).reshape(len(rows), THUMBNAIL * THUMBNAIL * 3) if len(rows) else np.empty((0, 1))
    brightness = thumbs.mean(axis=1) if len(rows) else np.empty(0)
    label = np.arange(len(rows))
    for u in sorted(neighbours):
        around = at[np.concatenate([members[v] for v in neighbours[u]])]
        for one in at[members[u]]:
            _join(label, thumbs, brightness, one=int(one), others=around)
    group = np.arange(len(hashes), dtype=np.int64)
    group[rows] = rows[label]
    return group


def _join(label: np.ndarray, thumbs: np.ndarray, brightness: np.ndarray, *, one: int, others: np.ndarray) -> None:
    """Give `one` and all `others` that show the same picture one label: the lowest of theirs. Changes `label`."""
    spread = 2 + MOST_DIFFERENCE * 128  # a thumbnail's contrast is at most 127.5: copies are no farther in brightness
    others = others[(label[others] != label[one]) & (np.abs(brightness[others] - brightness[one]) <= spread)]
    if not len(others):
        return
    same = others[difference(thumbs[one], thumbs[others]) <= MOST_DIFFERENCE]
    joined = np.unique(label[np.append(same, one)])
    if len(joined) > 1:
        label[np.isin(label, joined)] = joined[0]
