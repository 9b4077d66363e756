"""Measures how alike two pictures are: a perceptual hash that proposes, and thumbnails that decide."""

from __future__ import annotations

import numpy as np
from PIL import Image

HASH_SIDE, HASH_BITS = 32, 8  # pixels a side, and low frequencies a side: 8 x 8 = 64 bits
THUMBNAIL = 32  # pixels a side
# Share of their contrast by which thumbnails of copies may differ. Pictures saved again at quality 30, or shrunk to
# 90% and saved at 70, stay below 0.11; the nearest different pictures of Caltech-101 (one motorcycle in two colours,
# each on black) begin at 0.136, photographs of one person in one room at 0.19.
MOST_DIFFERENCE = 0.13

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
