"""Class maps: where in a picture a network finds what speaks for a class. It needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassMaps:
    """What one network of a run sees in one picture, for each of some classes.

    heat  (classes, h, w) float32 in [0, 1]: 1 where most speaks for the class, all 0 where nothing does
    box   of the part of the picture that it sees, in shares of it: left, top, right, bottom
    """

    run: str
    fold: int
    classes: tuple[str, ...]
    heat: np.ndarray
    box: tuple[float, float, float, float]
