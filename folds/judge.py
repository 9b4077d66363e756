"""This file judges every file by the facts: usable, left out or unreadable, and which images are copies of others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from folds.classes import class_order
from folds.dataset import Item
from folds.decode import Facts
from folds.duplicates import find_groups, thumbnail
from folds.manifest import COLUMNS, LEFT_OUT, UNREADABLE, USABLE
from folds.settings import PrepareSettings


def make_manifest(
    items: Sequence[Item], facts: Sequence[Facts], pixels: np.ndarray, settings: PrepareSettings
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
            "reason": ["; ".join(filter(None, (i.left_out, f.notes))) for i, f in zip(items, facts, strict=True)],
            "format": [fact.format for fact in facts],
            "mode": [fact.mode for fact in facts],
            "width": [fact.width for fact in facts],
            "height": [fact.height for fact in facts],
            "bytes": [item.file.bytes for item in items],
            "digest": [fact.digest for fact in facts],
        }
    )
    hashes = np.array([int(fact.phash or "0", 16) for fact in facts], dtype=np.uint64)
    table["group"] = _groups(table, hashes, pixels, near_bits=settings.near_bits)
    _name_copies(table, keep_two_labels=settings.keep_two_labels)
    return table[list(COLUMNS)]


def _status(item: Item, fact: Facts, settings: PrepareSettings) -> str:
    if fact.decoded == 0:
        return UNREADABLE
    is_damaged = fact.notes.startswith(("truncated", "damaged")) or "; truncated" in fact.notes
    is_damaged |= "; damaged" in fact.notes
    if item.left_out or (is_damaged and item.split == "train" and not settings.keep_truncated):
        return LEFT_OUT
    return USABLE


def _groups(table: pd.DataFrame, hashes: np.ndarray, pixels: np.ndarray, *, near_bits: int) -> np.ndarray:
    """(rows,) int64: one number for the copies of a picture among the usable rows, dense, by first appearance."""
    rows = np.flatnonzero(table["status"] == USABLE)

    def thumbnails(positions: np.ndarray) -> np.ndarray:
        return np.stack([thumbnail(pixels[row]) for row in rows[positions]])

    digests = table["digest"].to_numpy(dtype=str)[rows]
    first = np.arange(len(table))
    first[rows] = rows[find_groups(digests, hashes[rows], thumbnails, near_bits=near_bits)]
    return np.unique(first, return_inverse=True)[1].astype(np.int64)


def _name_copies(table: pd.DataFrame, *, keep_two_labels: bool) -> None:
    """Write into `reason` what each copy is a copy of, and leave out pictures with two labels. Changes `table`."""
    group = table["group"].to_numpy()
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order], prepend=-1))
    columns = {name: table[name].tolist() for name in ("image_id", "split", "label", "status", "reason", "digest")}
    for start, stop in pairwise([*edges.tolist(), len(order)]):
        if stop - start > 1:
            _name_group(columns, order[start:stop].tolist(), keep_two_labels=keep_two_labels)
    table["reason"], table["status"] = columns["reason"], columns["status"]


def _name_group(columns: dict[str, list[str]], rows: list[int], *, keep_two_labels: bool) -> None:
    labels = class_order(columns["label"][row] for row in rows if columns["split"][row] == "train")
    for row in rows:
        clauses = [columns["reason"][row]] if columns["reason"][row] else []
        others = [other for other in rows if other != row]
        if columns["split"][row] == "train" and len(labels) > 1:
            clauses.append(f"two labels: {' and '.join(labels)}")
            if not keep_two_labels:
                columns["status"][row] = LEFT_OUT
        for kind in ("train", "test"):
            twin = next((other for other in others if columns["split"][other] == kind), None)
            if twin is not None:
                exact = columns["digest"][twin] == columns["digest"][row]
                clauses.append(f"{'exact' if exact else 'near'} copy in {kind}: {columns['image_id'][twin]}")
        columns["reason"][row] = "; ".join(clauses)
