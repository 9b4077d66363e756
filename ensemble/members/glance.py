"""Looks through a member once: its values are checked, and what the blender always needs is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.members.oof_file import CHUNK_ROWS
from ensemble.members.run_checks import again
from ensemble.members.training_rows import Rows
from folds.base.errors import UserError, first_few
from models.predict.predictions import ROW_SUM_TOLERANCE


@dataclass(frozen=True)
class Glance:
    """What one pass over a member's values leaves in memory."""

    true_prob: np.ndarray  # (N,) float32: of each true class
    top: np.ndarray  # (N,) int16: the first choice


def look_through(name: str, read: Callable[[int, int], np.ndarray], *, rows: Rows, root: Path) -> Glance:
    """One pass over a member's out-of-fold probabilities, which is also their check. root: of its first run.

    Raises UserError for NaN (a hit, wherever ranks are counted), infinity, and rows that do not sum to 1.
    """
    glance = Glance(np.empty(len(rows), np.float32), np.empty(len(rows), np.int16))
    for start in range(0, len(rows), CHUNK_ROWS):
        piece = slice(start, min(start + CHUNK_ROWS, len(rows)))
        probs = read(piece.start, piece.stop)
        _refuse_bad_rows(name, probs, rows.image_id[piece], root=root)
        glance.true_prob[piece] = np.take_along_axis(probs, rows.target[piece, None], axis=1)[:, 0]
        glance.top[piece] = probs.argmax(axis=1)
    return glance


def _refuse_bad_rows(name: str, probs: np.ndarray, image_id: np.ndarray, *, root: Path) -> None:
    sums = probs.sum(axis=1)  # NaN and +infinity spread to the sum; -infinity of a logarithm is a probability of 0
    bad = ~(np.abs(sums - 1) <= ROW_SUM_TOLERANCE)
    if bad.any():
        fault = "do not sum to 1" if np.isfinite(sums[bad]).all() else "are NaN or infinite"
        images = first_few(list(image_id[bad]))
        raise UserError(f"{name}: the probabilities of {images} {fault}", hint=again(root))
