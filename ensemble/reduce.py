"""This file builds the `Reduction`: two passes over the members, read one at a time and piece by piece.

The first pass counts, per image and class, the members in which the class beats the true one. The second gathers the
probabilities of the contests that the counts leave open. Besides the table, memory holds one byte per image and class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ensemble.objective import Reduction
from ensemble.stored import CHUNK_ROWS

Reader = Callable[[int, int], np.ndarray]  # (start, stop) -> (stop - start, C) probabilities of one member
LONGEST_PRUNED = 16  # longer lists of contests come from weak, diverse members: there pruning costs more than it saves


def build_reduction(
    readers: Sequence[Reader], target: np.ndarray, *, n_classes: int, steps: np.ndarray, prune: bool = True
) -> Reduction:
    """The exact reduction of M members over N images for a loss of the true class's rank.

    readers  one per member; probabilities float32 or float64, the same for all
    target   (N,) int in [0, C)
    steps    (k + 1,) float: the loss at rank 0, 1, .., k or more; never falling
    """
    assert (np.diff(steps) >= 0).all(), f"{steps} falls somewhere"
    assert len(readers) < 256, f"{len(readers)} members do not fit into a byte"
    count = _count_members(readers, target, n_classes)  # (N, C) uint8
    sure, row, rival = _find_contests(count, len(readers), steps)
    del count
    undecided, length = np.unique(row, return_counts=True)
    order = np.argsort(length, kind="stable")
    empty = Reduction(steps, sure, undecided[order], length[order], np.empty(0, bool), *(np.empty((0, 0)),) * 2)
    place = _places(empty, row)
    lower = np.empty(len(row), bool)
    lower[place] = rival < target[row]
    values = _read_contests(readers, target, empty.row, row=row, rival=rival, place=place)
    reduction = replace(empty, lower=lower, rival=values[0], true=values[1])
    return _pruned(reduction) if prune else reduction


def _count_members(readers: Sequence[Reader], target: np.ndarray, n_classes: int) -> np.ndarray:
    """In how many members each class beats the true one, ties going to the lower class. (N, C) uint8."""
    count = np.zeros((len(target), n_classes), np.uint8)
    classes = np.arange(n_classes)
    for read in readers:
        for start in range(0, len(target), CHUNK_ROWS):
            piece = slice(start, min(start + CHUNK_ROWS, len(target)))
            probs = read(piece.start, piece.stop)  # (n, C)
            true = np.take_along_axis(probs, target[piece, None], axis=1)  # (n, 1)
            ahead = probs > true
            tied = probs == true
            if np.count_nonzero(tied) > len(true):  # more than each true class with itself
                ahead |= tied & (classes < target[piece, None])
            count[piece] += ahead.view(np.uint8)
    return count


def _find_contests(count: np.ndarray, n_members: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sure (N,), and row and rival class of each contest (R,), sorted by row and class."""
    k = len(steps) - 1
    sure = np.empty(len(count), np.uint8)
    rows, rivals = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(count), CHUNK_ROWS):
        piece = count[start : start + CHUNK_ROWS]
        always = np.minimum(np.count_nonzero(piece == n_members, axis=1), k)
        ever = np.minimum(np.count_nonzero(piece, axis=1), k)
        sure[start : start + len(piece)] = always
        undecided = np.flatnonzero(steps[always] != steps[ever])
        row, rival = np.nonzero((piece[undecided] > 0) & (piece[undecided] < n_members))
        rows.append(start + undecided[row])
        rivals.append(rival)
    return sure, np.concatenate(rows), np.concatenate(rivals)


def _places(reduction: Reduction, row: np.ndarray) -> np.ndarray:
    """Where each contest, sorted by row, lies in the table, which is sorted by length. (R,) int64."""
    first, stride = reduction.places
    by_row = np.argsort(reduction.row)
    begins = np.searchsorted(row, reduction.row[by_row])  # (U,) each row's first contest
    length = reduction.length[by_row]
    nth = np.arange(len(row)) - np.repeat(begins, length)
    return np.repeat(first[by_row], length) + np.repeat(stride[by_row], length) * nth


def _read_contests(
    readers: Sequence[Reader],
    target: np.ndarray,
    undecided: np.ndarray,
    *,
    row: np.ndarray,
    rival: np.ndarray,
    place: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Each member's probabilities of the rivals, (M, R) in the order of the table, and of the true classes, (M, U)."""
    dtype = readers[0](0, 1).dtype
    rivals, trues = np.empty((len(readers), len(row)), dtype), np.empty((len(readers), len(undecided)), dtype)
    by_row = np.argsort(undecided)
    rows = undecided[by_row]
    for member, read in enumerate(readers):
        for start in range(0, len(target), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, len(target))
            probs = read(start, stop)
            here, own = (slice(*np.searchsorted(index, [start, stop])) for index in (row, rows))
            rivals[member, place[here]] = probs[row[here] - start, rival[here]]
            trues[member, by_row[own]] = probs[rows[own] - start, target[rows[own]]]
    return rivals, trues


def _pruned(reduction: Reduction) -> Reduction:
    """Without the rivals that cannot matter: enough others are ahead of them in every member.

    If such a rival beat the true class, those others would too, and the image would have rank k or more without it.
    Contests of a row lie in the order of their classes, so that the earlier of two wins a tie.
    """
    k = len(reduction.steps) - 1
    keep = np.ones(reduction.rival.shape[1], bool)
    for length, rows, contests in reduction.groups:
        if length > LONGEST_PRUNED:
            continue
        block = reduction.rival[:, contests].reshape(len(reduction.rival), length, -1)  # (M, length, rows)
        need = k - reduction.sure[reduction.row[rows]].astype(np.int64)  # (rows,)
        kept = keep[contests].reshape(length, -1)
        for nth in range(length):
            ahead = np.count_nonzero((block[:, :nth] >= block[:, nth, None]).all(axis=0), axis=0)
            ahead += np.count_nonzero((block[:, nth + 1 :] > block[:, nth, None]).all(axis=0), axis=0)
            kept[nth] = ahead < need
    return _regrouped(reduction, keep)


def _regrouped(reduction: Reduction, keep: np.ndarray) -> Reduction:
    """The contests that are kept (R,), rows ordered anew by how many each has left."""
    first, stride = reduction.places
    row = np.repeat(np.arange(len(reduction.row)), reduction.length)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(reduction.length) - reduction.length, reduction.length)
    old = first[row] + stride[row] * nth  # places in the table, row by row
    row, old = row[keep[old]], old[keep[old]]
    length = np.bincount(row, minlength=len(reduction.row))
    order = np.argsort(length, kind="stable")
    empty = replace(
        reduction, row=reduction.row[order], length=length[order], true=np.ascontiguousarray(reduction.true[:, order])
    )
    new = _places(replace(empty, row=order), row)  # here a row is known by its place before
    rival, lower = np.empty((len(reduction.rival), len(old)), reduction.rival.dtype), np.empty(len(old), bool)
    rival[:, new], lower[new] = reduction.rival[:, old], reduction.lower[old]
    return replace(empty, rival=rival, lower=lower)
