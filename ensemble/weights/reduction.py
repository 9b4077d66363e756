"""Builds the `Reduction`: two passes over the members, read one at a time and piece by piece.

The first pass counts, per image and class, the members in which the class beats the true one. The second gathers the
probabilities of the contests that the counts leave open. Besides the table, memory holds one byte per image and class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ensemble.members.oof_file import CHUNK_ROWS
from ensemble.weights.contests import Layout, layout_of
from ensemble.weights.objective import MOST_K, Reduction

Reader = Callable[[int, int], np.ndarray]  # (start, stop) -> (stop - start, C) probabilities of one member
LENGTHS = np.array([*range(7), 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, *(256 << n for n in range(13))])
PRUNING_WORK = 3e8  # comparisons, about 0.2 s: rows with long lists come last, and weak, diverse members have many


def build_reduction(readers: Sequence[Reader], target: np.ndarray, *, n_classes: int, steps: np.ndarray) -> Reduction:
    """The exact reduction of M members over N images for a loss of the true class's rank.

    readers  one per member; probabilities float32 or float64, the same for all
    target   (N,) int in [0, C)
    steps    (k + 1,) float: the loss at rank 0, 1, .., k or more; never falling
    """
    assert (np.diff(steps) >= 0).all(), f"{steps} falls somewhere"
    assert len(readers) < 256, f"{len(readers)} members do not fit into a byte"
    assert len(steps) <= MOST_K + 1, f"k is {len(steps) - 1}, and ranks above {MOST_K} do not fit into a byte"
    assert n_classes <= LENGTHS[-1], f"{n_classes} classes, and rows are laid out for {LENGTHS[-1]} at most"
    count = _count_members(readers, target, n_classes)  # (N, C) uint8
    sure, row, rival = _find_contests(count, len(readers), steps)
    del count
    layout = layout_of(*np.unique(row, return_counts=True))
    rivals, trues = _read_contests(readers, target, layout.row, row=row, rival=rival)
    needed = _needed(layout, rivals, row, need=(len(steps) - 1) - sure[layout.row].astype(np.int64))
    row, lower = row[needed], (rival < target[row])[needed]
    final, place = _final_layout(row)
    order = np.argsort(layout.row)[np.searchsorted(np.sort(layout.row), final.row)]
    return Reduction(
        steps=np.asarray(steps, np.float64),
        sure=sure,
        layout=final,
        lower=_spread(lower[None], place, final)[0],
        rival=_in_blocks(_spread(rivals[:, needed], place, final), final),
        true=np.ascontiguousarray(trues[:, order]),
    )


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
    """sure (N,) uint8, and row and rival class of each contest (R,), sorted by row and class."""
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


def _read_contests(
    readers: Sequence[Reader], target: np.ndarray, undecided: np.ndarray, *, row: np.ndarray, rival: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each member's probabilities of the rivals, (M, R) as row, and of the undecided rows' true classes, (M, U)."""
    dtype = readers[0](0, 1).dtype
    rivals, trues = np.empty((len(readers), len(row)), dtype), np.empty((len(readers), len(undecided)), dtype)
    by_row = np.argsort(undecided)
    rows = undecided[by_row]
    for member, read in enumerate(readers):
        for start in range(0, len(target), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, len(target))
            probs = read(start, stop)
            here, own = (slice(*np.searchsorted(index, [start, stop])) for index in (row, rows))
            rivals[member, here] = probs[row[here] - start, rival[here]]
            trues[member, by_row[own]] = probs[rows[own] - start, target[rows[own]]]
    return rivals, trues


def _needed(layout: Layout, rivals: np.ndarray, row: np.ndarray, *, need: np.ndarray) -> np.ndarray:
    """Which contests matter: not those of a rival that is behind enough others in every member. (R,) bool, as row.

    If such a rival beat the true class, those others would too, and the image would have rank k or more without it.
    Contests of a row lie in the order of their classes, so that the earlier of two wins a tie.
    need (U,): so many rivals ahead of the true class make rank k
    """
    place = layout.places(row)
    values, keep = _spread(rivals, place, layout), np.ones(len(row), bool)
    work = 0
    for length, rows, contests in layout.groups:
        work += length * (contests.stop - contests.start) * len(values)
        if work > PRUNING_WORK:
            break
        block = values[:, contests].reshape(len(values), length, -1)  # (M, length, rows)
        kept = keep[contests].reshape(length, -1)
        for nth in range(length):
            ahead = np.count_nonzero((block[:, :nth] >= block[:, nth, None]).all(axis=0), axis=0)
            ahead += np.count_nonzero((block[:, nth + 1 :] > block[:, nth, None]).all(axis=0), axis=0)
            kept[nth] = ahead < need[rows]
    return keep[place]


def _final_layout(row: np.ndarray) -> tuple[Layout, np.ndarray]:
    """A layout with few groups, and the places in it of contests that come sorted by their image.

    Shorter rows are filled up with contests whose rival has probability 0 and the higher class: never ahead.
    """
    images, length = np.unique(row, return_counts=True)
    layout = layout_of(images, LENGTHS[np.searchsorted(LENGTHS, length)])
    return layout, layout.places(row)


def _spread(values: np.ndarray, place: np.ndarray, layout: Layout) -> np.ndarray:
    """Values (.., contests) at their places, and 0 where a row is filled up. (.., R)"""
    spread = np.zeros((len(values), layout.n_contests), values.dtype)
    spread[:, place] = values
    return spread


def _in_blocks(values: np.ndarray, layout: Layout) -> np.ndarray:
    """(M, R) as one array in which each group's (M, contests) block is contiguous: a third of the time per product."""
    return np.concatenate([values[0, :0], *(values[:, group.contests].ravel() for group in layout.groups)])
