"""Makes the manifest: whether each file is usable, left out or unreadable, and which images are copies of others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from folds.find.dataset import Item
from folds.find.reasons import DAMAGED, TRUNCATED, TWO_LABELS, Reason, to_cell
from folds.manifest.duplicates import Copies, find_copies
from folds.manifest.hashes import thumbnail
from folds.manifest.manifest import COLUMNS, LEFT_OUT, UNREADABLE, USABLE
from folds.pixels.decode import Facts
from folds.pixels.store import Pixels
from folds.settings import PrepareSettings
from folds.split.classes import class_order

KINDS = ("exact", "near", "mirrored")  # of copies, the closest first
COPY = {(kind, where): f"{kind} copy in {where}" for kind in KINDS for where in ("train", "test")}  # codes of reasons


def make_manifest(
    items: Sequence[Item], facts: Sequence[Facts], pixels: Pixels, settings: PrepareSettings
) -> pd.DataFrame:
    """The manifest: a row per item, in their order.

    pixels  (items, S, S, 3) uint8: the picture of each item that decoded
    """
    columns = {name: [getattr(item, name) for item in items] for name in ("image_id", "split", "label")}
    columns |= {name: [getattr(fact, name) for fact in facts] for name in ("format", "mode", "width", "height")}
    table = pd.DataFrame(columns)
    table["path"], table["bytes"] = [item.file.path for item in items], [item.file.bytes for item in items]
    table["digest"] = [fact.digest for fact in facts]
    table["status"] = [_status(item, fact, settings) for item, fact in zip(items, facts, strict=True)]
    reasons = [[*item.reasons, *fact.reasons] for item, fact in zip(items, facts, strict=True)]
    copies = _copies(table, facts, pixels, near_bits=settings.near_bits)
    table["group"] = np.unique(copies.mirrored, return_inverse=True)[1].astype(np.int64)  # dense, by first appearance
    _add_copies(table, reasons, copies, keep_two_labels=settings.keep_two_labels)
    table["reasons"] = list(map(to_cell, reasons))
    return table[list(COLUMNS)]


def _status(item: Item, fact: Facts, settings: PrepareSettings) -> str:
    if fact.decoded == 0:
        return UNREADABLE
    is_damaged = any(reason.code in (TRUNCATED, DAMAGED) for reason in fact.reasons)
    if item.is_left_out or (is_damaged and item.split == "train" and not settings.keep_truncated):
        return LEFT_OUT
    return USABLE


def _copies(table: pd.DataFrame, facts: Sequence[Facts], pixels: Pixels, *, near_bits: int) -> Copies:
    """The copies among the usable rows; every other row is its own.

    Two pictures count as the same pixels where size, perceptual hash and CRC-32 of the square are equal. Chance makes
    two CRC-32 equal in one of 2^32 pairs, and only pairs of one hash are held against each other.
    """
    rows = np.flatnonzero(table["status"] == USABLE)
    used = table.loc[rows, ["width", "height", "digest"]].assign(phash=[facts[row].phash for row in rows.tolist()])
    found = find_copies(
        used.groupby(list(used.columns)).ngroup().to_numpy(),
        np.array([int(facts[row].phash, 16) for row in rows.tolist()], dtype=np.uint64),
        np.array([int(facts[row].mirror_phash, 16) for row in rows.tolist()], dtype=np.uint64),
        lambda positions: np.stack([thumbnail(pixels[int(row)]) for row in rows[positions]]),
        near_bits=near_bits,
    )
    first = np.tile(np.arange(len(table)), (3, 1))
    first[:, rows] = rows[np.stack([found.exact, found.upright, found.mirrored])]
    return Copies(*first)


def _add_copies(table: pd.DataFrame, reasons: list[list[Reason]], copies: Copies, *, keep_two_labels: bool) -> None:
    """Add to `reasons` what each copy is a copy of, and leave pictures with two labels out. Changes both."""
    image_id, split, label, status = (table[name].tolist() for name in ("image_id", "split", "label", "status"))
    exact, upright = copies.exact.tolist(), copies.upright.tolist()
    order = np.argsort(copies.mirrored, kind="stable")
    edges = np.flatnonzero(np.diff(copies.mirrored[order], prepend=-1))
    groups = (order[start:stop].tolist() for start, stop in pairwise([*edges.tolist(), len(order)]) if stop - start > 1)
    for rows in groups:
        for row in rows:
            labels = class_order(label[r] for r in rows if split[r] == "train" and upright[r] == upright[row])
            if split[row] == "train" and len(labels) > 1:
                reasons[row].append(Reason(TWO_LABELS, " and ".join(labels)))
                status[row] = status[row] if keep_two_labels else LEFT_OUT
            for where in ("train", "test"):
                others = [other for other in rows if other != row and split[other] == where]
                ranked = [(0 if exact[o] == exact[row] else 1 if upright[o] == upright[row] else 2, o) for o in others]
                if ranked:
                    kind, other = min(ranked)
                    reasons[row].append(Reason(COPY[KINDS[kind], where], image_id[other]))
    table["status"] = status
