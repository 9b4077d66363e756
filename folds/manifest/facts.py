"""Keeps what decoding found out about every file, so that an unchanged file is not decoded again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd

from folds.base.workspace import Workspace, write_bytes
from folds.find.dataset import Item
from folds.find.listing import File
from folds.manifest.manifest import csv_bytes
from folds.pixels.decode import Facts

COLUMNS = ("path", "bytes", "mtime_ns", *(field.name for field in fields(Facts)))
Key = tuple[str, int, int]


def facts_path(workspace: Workspace) -> Path:
    return workspace.folds / "files.csv"


def key_of(file: File) -> Key:
    """What tells an unchanged file: its path below the data, its length in bytes, its time of change."""
    return file.path, file.bytes, file.mtime_ns


def write_facts(workspace: Workspace, items: Sequence[Item], facts: Sequence[Facts]) -> None:
    """Write `files.csv`: one row per item, in their order."""
    rows = [(*key_of(item.file), *vars(fact).values()) for item, fact in zip(items, facts, strict=True)]
    write_bytes(facts_path(workspace), csv_bytes(pd.DataFrame(rows, columns=list(COLUMNS))))


def read_facts(workspace: Workspace) -> dict[Key, Facts]:
    """The facts by file; empty where there are none, or where they were written by another version."""
    try:
        table = pd.read_csv(io.BytesIO(facts_path(workspace).read_bytes()), dtype=str, keep_default_na=False)
    except (OSError, ValueError):  # absent, or not to be read: all files are decoded again
        return {}
    if tuple(table.columns) != COLUMNS:
        return {}
    numbers = {"bytes": "int64", "mtime_ns": "int64", "width": "int64", "height": "int64", "decoded": "float64"}
    rows = table.astype(numbers).to_dict("list")
    names = [field.name for field in fields(Facts)]
    facts = (Facts(**dict(zip(names, values, strict=True))) for values in zip(*(rows[n] for n in names), strict=True))
    return dict(zip(zip(rows["path"], rows["bytes"], rows["mtime_ns"], strict=True), facts, strict=True))
