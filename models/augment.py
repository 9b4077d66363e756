"""This file draws the random crops and mirrors of an epoch; they depend on seed, fold, epoch and draw alone."""

from __future__ import annotations

import numpy as np

ASPECT_LOW, ASPECT_HIGH = 3 / 4, 4 / 3  # the crop's width / height, in true pixels; RandomResizedCrop's own limits


def random_boxes(
    rng: np.random.Generator, *, width: np.ndarray, height: np.ndarray, crop_scale: float, mirror: bool
) -> np.ndarray:
    """One random crop per draw, in the picture's true aspect ratio. (n, 4) float32, shares of width and height.

    width, height  (n,) true size in pixels
    crop_scale     smallest area of a crop, as a share of the picture's
    Right < left mirrors. Source: RandomResizedCrop (Szegedy et al. 2015), with the crop shortened to the picture's
    edge, where the original draws again up to ten times.
    """
    n = len(width)
    area, aspect, across, down, coin = rng.random((5, n))
    area = (crop_scale + (1 - crop_scale) * area) * width * height
    aspect = np.exp(np.log(ASPECT_LOW) + (np.log(ASPECT_HIGH) - np.log(ASPECT_LOW)) * aspect)
    crop_width = np.minimum(np.sqrt(area * aspect) / width, 1.0)
    crop_height = np.minimum(np.sqrt(area / aspect) / height, 1.0)
    left, top = (1 - crop_width) * across, (1 - crop_height) * down
    boxes = np.stack([left, top, left + crop_width, top + crop_height], axis=1)
    flipped = (coin < 0.5) & mirror
    boxes[flipped] = boxes[flipped][:, [2, 1, 0, 3]]
    return boxes.astype(np.float32)
