"""Finds copies of one picture: exact ones by their pixels, near and mirrored ones by hash and thumbnail.

A hash only proposes: two photographs on white can share 60 of 64 bits. The thumbnails decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from folds.find.reasons import TWO_LABELS, Reason
from folds.manifest.hashes import THUMBNAIL, close_hashes, difference, thumbnail
from folds.manifest.manifest import LEFT_OUT, USABLE, class_order
from folds.pixels.store import Pixels
from folds.settings import PrepareSettings

# Share of their contrast by which thumbnails of copies may differ. Pictures saved again at quality 30, or shrunk to
# 90% and saved at 70, stay below 0.11; the nearest different pictures of Caltech-101 (one motorcycle in two colours,
# each on black) begin at 0.136, photographs of one person in one room at 0.19.
MOST_DIFFERENCE = 0.13
COARSE = 4  # pixels a side of the means that are compared first
BLOCK = 4096  # thumbnails compared at a time: 50 MB

KINDS = ("exact", "near", "mirrored")  # of copies, the closest first
COPY = {(kind, where): f"{kind} copy in {where}" for kind in KINDS for where in ("train", "test")}  # codes of reasons


def mark_copies(table: pd.DataFrame, reasons: list[list[Reason]], pixels: Pixels, settings: PrepareSettings) -> None:
    """Number the groups of copies, say of each what it is a copy of, and leave pictures with two labels out.

    table    the manifest to be, with both hashes: `group` is added, `status` changed     reasons  of each row: added to
    """
    copies = _copies_in(table, pixels, near_bits=settings.near_bits)
    table["group"] = np.unique(copies.mirrored, return_inverse=True)[1].astype(np.int64)  # dense, by first appearance
    image_id, split, label, status = (table[name].tolist() for name in ("image_id", "split", "label", "status"))
    exact, upright = copies.exact.tolist(), copies.upright.tolist()
    in_groups = np.flatnonzero(table.duplicated("group", keep=False)).tolist()
    alike = list(zip(exact, upright, table["group"].tolist(), strict=True))  # what each row shares, by kind of copy
    first_two: dict[tuple[str, int, int], list[int]] = {}  # rows of a split that share it: one may be the row itself
    labels: dict[int, set[str]] = {}  # of the training images that show one picture
    for row in in_groups:
        for kind, shared in enumerate(alike[row]):
            first_two.setdefault((split[row], kind, shared), []).append(row)
            del first_two[split[row], kind, shared][2:]
        if split[row] == "train":
            labels.setdefault(upright[row], set()).add(label[row])
    for row in in_groups:
        if split[row] == "train" and len(labels[upright[row]]) > 1:
            reasons[row].append(Reason(TWO_LABELS, " and ".join(class_order(labels[upright[row]]))))
            status[row] = status[row] if settings.keep_two_labels else LEFT_OUT
        for where in ("train", "test"):
            fit = ((k, other) for k, shared in enumerate(alike[row]) for other in first_two.get((where, k, shared), ()))
            if found := next(((kind, other) for kind, other in fit if other != row), None):
                reasons[row].append(Reason(COPY[KINDS[found[0]], where], image_id[found[1]]))
    table["status"] = status


def _copies_in(table: pd.DataFrame, pixels: Pixels, *, near_bits: int) -> Copies:
    """The copies among the usable rows; every other row is its own.

    Two pictures count as the same pixels where size, perceptual hash and CRC-32 of the square are equal. Chance makes
    two CRC-32 equal in one of 2^32 pairs, and only pairs of one hash are held against each other.
    """
    rows = np.flatnonzero(table["status"] == USABLE)
    used = table.loc[rows]
    hashes, mirror_hashes = (
        np.array([int(text, 16) for text in used[name]], dtype=np.uint64) for name in ("phash", "mirror_phash")
    )
    found = find_copies(
        used.groupby(["width", "height", "digest", "phash"]).ngroup().to_numpy(),
        hashes,
        mirror_hashes,
        lambda positions: np.stack([thumbnail(pixels[int(row)]) for row in rows[positions]]),
        near_bits=near_bits,
    )
    first = np.tile(np.arange(len(table)), (3, 1))
    first[:, rows] = rows[np.stack([found.exact, found.upright, found.mirrored])]
    return Copies(*first)


@dataclass(frozen=True)
class Copies:
    """Numbers per image, equal for copies: the position of the first of them. Three (n,) int64.

    exact     images with the same pixels
    upright   exact and near copies
    mirrored  these and mirror images: they must share a fold too, but may rightly stand under two labels (a left and
              a right arrow)
    """

    exact: np.ndarray
    upright: np.ndarray
    mirrored: np.ndarray


def find_copies(
    exact: np.ndarray,
    hashes: np.ndarray,
    mirror_hashes: np.ndarray,
    thumbnails: Callable[[np.ndarray], np.ndarray],
    *,
    near_bits: int,
) -> Copies:
    """Which of n images are copies of each other; copies of copies count as copies.

    exact       (n,) of any type, equal for images with the same pixels
    hashes      (n,) uint64, perceptual, of the picture; mirror_hashes of its mirror image
    thumbnails  gives (m, 32, 32, 3) uint8 for (m,) positions; asked once
    near_bits   pairs whose hashes differ in at most so many bits are compared by thumbnail
    """
    _, first, number = np.unique(exact, return_index=True, return_inverse=True)
    leaders = np.sort(first)  # one image stands for all that have its pixels
    leader_of = np.searchsorted(leaders, first[number])  # (n,) position among the leaders
    h, m = hashes[leaders], mirror_hashes[leaders]
    near = list(_candidates(h, h, near_bits=near_bits))
    mirrored = list(_candidates(m, h, near_bits=near_bits))
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *(part for pair in near + mirrored for part in pair)]))
    nothing = np.empty((0, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    compared = _Thumbnails(rows, thumbnails(leaders[rows]) if len(rows) else nothing)
    compared.join(near, is_mirrored=False)
    upright = compared.first_of_group(len(leaders))
    compared.join(mirrored, is_mirrored=True)
    both = compared.first_of_group(len(leaders))
    return Copies(*(leaders[first_of][leader_of] for first_of in (np.arange(len(leaders)), upright, both)))


def _candidates(
    asking: np.ndarray, answering: np.ndarray, *, near_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(positions with one hash in `asking`, positions whose hash in `answering` is near); alone ones are left out.

    Equal hashes are met as one: thousands of blank pictures cost one search.
    """
    asking_hash, ask, n_asking = np.unique(asking, return_inverse=True, return_counts=True)
    answering_hash, answer, n_answering = np.unique(answering, return_inverse=True, return_counts=True)
    i, j = close_hashes(asking_hash, answering_hash, near_bits=near_bits)  # sorted by i
    askers, answerers = np.argsort(ask, kind="stable"), np.argsort(answer, kind="stable")
    ask_edge, answer_edge = np.append(0, np.cumsum(n_asking)), np.append(0, np.cumsum(n_answering))
    starts = np.flatnonzero(np.diff(i, prepend=-1))
    stops = np.append(starts[1:], len(i))
    itself = askers[ask_edge[i[starts]]] == answerers[answer_edge[j[starts]]]
    alone = itself & (stops - starts == 1) & (n_asking[i[starts]] == 1) & (n_answering[j[starts]] == 1)
    for start, stop in zip(starts[~alone].tolist(), stops[~alone].tolist(), strict=True):
        found = [answerers[answer_edge[v] : answer_edge[v + 1]] for v in j[start:stop]]
        yield askers[ask_edge[i[start]] : ask_edge[i[start] + 1]], np.concatenate(found)


class _Thumbnails:
    """Thumbnails of the images that have candidates, and which of them show the same picture."""

    def __init__(self, rows: np.ndarray, thumbs: np.ndarray) -> None:
        """rows: (m,) int64 positions, ascending; thumbs: (m, 32, 32, 3) uint8."""
        self.rows, self.thumbs = rows, thumbs
        cell = THUMBNAIL // COARSE
        self.coarse = np.empty((len(rows), COARSE, COARSE, 3), dtype=np.float32)
        self.contrast = np.empty(len(rows), dtype=np.float32)  # variance, grey levels squared
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            block = self.thumbs[part].astype(np.float32)
            self.coarse[part] = block.reshape(-1, COARSE, cell, COARSE, cell, 3).mean(axis=(2, 4))
            self.contrast[part] = block.var(axis=(1, 2, 3))
        self.joined_to = np.arange(len(rows))  # equal for two of which it is known that they are in one group
        self.pairs: list[np.ndarray] = []  # (2, p) of the same picture

    def join(self, candidates: list[tuple[np.ndarray, np.ndarray]], *, is_mirrored: bool) -> None:
        """Record all pairs that show the same picture, one of them mirrored if so asked."""
        flip = slice(None, None, -1) if is_mirrored else slice(None)
        for ones, others in candidates:
            at = np.searchsorted(self.rows, others)
            for one in np.searchsorted(self.rows, ones).tolist():
                apart = at[self.joined_to[at] != self.joined_to[one]]
                # Averaging brings pictures closer, so those that differ too much as 4 x 4 means differ too much.
                coarse = ((self.coarse[one][:, flip] - self.coarse[apart]) ** 2).mean(axis=(1, 2, 3))
                limit = MOST_DIFFERENCE**2 * np.maximum((self.contrast[one] + self.contrast[apart]) / 2, 1.0)
                apart = apart[coarse <= limit + 1e-3]
                thumb = self.thumbs[one][:, flip].reshape(-1)
                for part in (apart[start : start + BLOCK] for start in range(0, len(apart), BLOCK)):
                    same = part[difference(thumb, self.thumbs[part].reshape(len(part), -1)) <= MOST_DIFFERENCE]
                    self.pairs.append(np.stack([np.full(len(same), one), same]))
                    self.joined_to[same] = self.joined_to[one]

    def first_of_group(self, n: int) -> np.ndarray:
        """(n,) int64: the first position of each position's group."""
        m = len(self.rows)
        group = linked(m, *np.concatenate([np.empty((2, 0), np.int64), *self.pairs], axis=1))
        first = np.arange(n, dtype=np.int64)
        first[self.rows] = self.rows[np.unique(group, return_index=True)[1][group]]
        return first


def linked(n: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A number for each of n things, equal for those that pairs (i, j) link, whatever the chain. (n,) int64"""
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)
