"""Evaluates macro-F1, which needs the first choice of a blend: all members agree on most images.

A class can be the first choice of a non-negative weighting only if it is ahead of a reference class, here the first
member's choice, in at least one member. Where there is no such class the reference is the choice of every blend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.members.oof_file import CHUNK_ROWS
from ensemble.weights.metric import macro_f1
from ensemble.weights.objective import Pool, pool_scores
from ensemble.weights.reduction import Reader


@dataclass(frozen=True)
class Argmax:
    """The images whose first choice depends on the weights. Shapes: M members, N images, U open ones, R rivals.

    target (N,)   reference (N,) the first choice unless a rival is ahead
    row (U,) open images   starts (U,) the first rival of each   rivals (R,) classes, rising inside a row
    probs (M, R)  of the rivals, each row's reference class among them
    """

    target: np.ndarray
    reference: np.ndarray
    row: np.ndarray
    starts: np.ndarray
    rivals: np.ndarray
    probs: np.ndarray
    pool: Pool = "mean"

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """1 - macro-F1 of each weight vector. (B, M) -> (B,) float64."""
        return np.array([1 - macro_f1(self.choices(one), self.target) for one in weights])

    def outcomes(self, weights: np.ndarray) -> np.ndarray:
        """The predicted class of each image. (M,) -> (N,) float64."""
        return self.choices(weights).astype(np.float64)

    def choices(self, weights: np.ndarray) -> np.ndarray:
        """The class with the highest blended score, ties to the lower class. (M,) -> (N,) int64."""
        choices = self.reference.copy()
        if len(self.row):
            scores = np.zeros(len(self.rivals))
            for weight, probs in zip(weights, self.probs, strict=True):
                scores += weight * pool_scores(probs, self.pool)
            owner = np.repeat(np.arange(len(self.row)), np.diff(np.append(self.starts, len(scores))))
            first = np.flatnonzero(scores == np.maximum.reduceat(scores, self.starts)[owner])[::-1]
            choices[self.row[owner[first]]] = self.rivals[first]  # the lowest class of a tie is written last
        return choices

    def subset(self, rows: np.ndarray) -> Argmax:
        """The same for some of the N images. rows (N,) bool."""
        owner = np.repeat(np.arange(len(self.row)), np.diff(np.append(self.starts, len(self.rivals))))
        keep_row = rows[self.row]
        keep = keep_row[owner]
        length = np.bincount(owner, minlength=len(self.row))[keep_row]
        return Argmax(
            target=self.target[rows],
            reference=self.reference[rows],
            row=(np.cumsum(rows) - 1)[self.row[keep_row]],
            starts=np.cumsum(length) - length,
            rivals=self.rivals[keep],
            probs=np.ascontiguousarray(self.probs[:, keep]),
            pool=self.pool,
        )


def build_argmax(readers: Sequence[Reader], target: np.ndarray, reference: np.ndarray, *, n_classes: int) -> Argmax:
    """Two passes over the members, one at a time: which classes are ever ahead of the reference, and their values."""
    ever = np.zeros((len(target), n_classes), bool)
    lower = np.arange(n_classes) < reference[:, None]  # (N, C)
    for read in readers:
        for piece, probs in _pieces(read, len(target)):
            own = np.take_along_axis(probs, reference[piece, None], axis=1)
            ever[piece] |= (probs > own) | ((probs == own) & lower[piece])
    ever[np.arange(len(target)), reference] = ever.any(axis=1)
    row, rivals = np.nonzero(ever)
    values = [
        np.concatenate([_picked(probs, piece, row, rivals) for piece, probs in _pieces(read, len(target))])
        for read in readers
    ]
    open_rows, starts = np.unique(row, return_index=True)
    return Argmax(target, reference, open_rows, starts, rivals, np.stack(values))


def _pieces(read: Reader, n: int) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, n, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, n)
        yield slice(start, stop), read(start, stop)


def _picked(probs: np.ndarray, piece: slice, row: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    here = slice(*np.searchsorted(row, [piece.start, piece.stop]))
    return probs[row[here] - piece.start, rivals[here]]
