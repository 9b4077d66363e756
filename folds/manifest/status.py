"""Judges every file by the facts: usable, left out or unreadable, and which images are copies of others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from folds.find.dataset import Item
from folds.manifest.duplicates import Copies, find_copies
from folds.manifest.likeness import thumbnail
from folds.manifest.manifest import COLUMNS, LEFT_OUT, UNREADABLE, USABLE
from folds.pixels.decode import Facts
from folds.pixels.store import Pixels
from folds.settings import PrepareSettings
from folds.split.classes import class_order


def make_manifest(
    items: Sequence[Item], facts: Sequence[Facts], pixels: Pixels, settings: PrepareSettings
) -> pd.DataFrame:
    """The manifest: a row per item, in their order.

    pixels  (items, S, S, 3) uint8: the picture of each item that decoded
    """
    table = pd.DataFrame(
        {
            "image_id": [item.image_id for item in items],
            "path": [item.file.path for item in items],
            "split": [item.split for item in items],
            "label": [item.label for item in items],
            "status": [_status(item, fact, settings) for item, fact in zip(items, facts, strict=True)],
            "reason": [
                "; ".join(filter(None, (i.left_out, i.note, f.notes))) for i, f in zip(items, facts, strict=True)
            ],
            "format": [fact.format for fact in facts],
            "mode": [fact.mode for fact in facts],
            "width": [fact.width for fact in facts],
            "height": [fact.height for fact in facts],
            "bytes": [item.file.bytes for item in items],
            "digest": [fact.digest for fact in facts],
        }
    )
    copies = _copies(table, facts, pixels, near_bits=settings.near_bits)
    table["group"] = np.unique(copies.mirrored, return_inverse=True)[1].astype(np.int64)  # dense, by first appearance
    _name_copies(table, copies, keep_two_labels=settings.keep_two_labels)
    return table[list(COLUMNS)]


def _status(item: Item, fact: Facts, settings: PrepareSettings) -> str:
    if fact.decoded == 0:
        return UNREADABLE
    is_damaged = fact.notes.startswith(("truncated", "damaged")) or "; truncated" in fact.notes
    is_damaged |= "; damaged" in fact.notes
    if item.left_out or (is_damaged and item.split == "train" and not settings.keep_truncated):
        return LEFT_OUT
    return USABLE


def _copies(table: pd.DataFrame, facts: Sequence[Facts], pixels: Pixels, *, near_bits: int) -> Copies:
    """The copies among the usable rows; every other row is its own."""
    rows = np.flatnonzero(table["status"] == USABLE)

    def thumbnails(positions: np.ndarray) -> np.ndarray:
        return np.stack([thumbnail(pixels[row]) for row in rows[positions]])

    found = find_copies(
        table["digest"].to_numpy(dtype=str)[rows],
        np.array([int(facts[row].phash, 16) for row in rows.tolist()], dtype=np.uint64),
        np.array([int(facts[row].mirror_phash, 16) for row in rows.tolist()], dtype=np.uint64),
        thumbnails,
        near_bits=near_bits,
    )
    upright, mirrored = np.arange(len(table)), np.arange(len(table))
    upright[rows], mirrored[rows] = rows[found.upright], rows[found.mirrored]
    return Copies(upright, mirrored)


def _name_copies(table: pd.DataFrame, copies: Copies, *, keep_two_labels: bool) -> None:
    """Write into `reason` what each copy is a copy of, and leave out pictures with two labels. Changes `table`."""
    columns = {name: table[name].tolist() for name in ("image_id", "split", "label", "status", "reason", "digest")}
    upright = copies.upright.tolist()
    order = np.argsort(copies.mirrored, kind="stable")
    edges = np.flatnonzero(np.diff(copies.mirrored[order], prepend=-1))
    for start, stop in pairwise([*edges.tolist(), len(order)]):
        if stop - start > 1:
            rows = order[start:stop].tolist()
            for row in rows:
                _name_one(columns, row, [r for r in rows if r != row], upright, keep_two_labels=keep_two_labels)
    table["reason"], table["status"] = columns["reason"], columns["status"]


def _name_one(
    columns: dict[str, list[str]], row: int, others: list[int], upright: list[int], *, keep_two_labels: bool
) -> None:
    clauses = [columns["reason"][row]] if columns["reason"][row] else []
    split, label, digest = columns["split"], columns["label"], columns["digest"]
    labels = class_order(label[r] for r in (row, *others) if split[r] == "train" and upright[r] == upright[row])
    if split[row] == "train" and len(labels) > 1:
        clauses.append(f"two labels: {' and '.join(labels)}")
        if not keep_two_labels:
            columns["status"][row] = LEFT_OUT
    for where in ("train", "test"):
        twins = [other for other in others if split[other] == where]
        # The closest kind is named: an exact copy before a near one before a mirrored one.
        ranked = [(0 if digest[o] == digest[row] else 1 if upright[o] == upright[row] else 2, o) for o in twins]
        if ranked:
            kind, other = min(ranked)
            name = columns["image_id"][other].replace(";", ",")  # `; ` ends a clause
            clauses.append(f"{('exact', 'near', 'mirrored')[kind]} copy in {where}: {name}")
    columns["reason"][row] = "; ".join(clauses)
