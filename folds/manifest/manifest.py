"""Reads and writes `manifest.csv`: one row per file of the data, with its status and the reasons.

Order of the rows: training images before test images, each by `image_id` in code point order (numpy's and Python's
order of text), so that row i, which is row i of the pixel store, never depends on how a disk lists its files.
Order of the classes: the natural one, so that `2` comes before `10`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

import pandas as pd

from folds.base.csvfile import ID_NAMES, pick_column, read_csv
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, write_bytes

COLUMNS = (
    *("image_id", "path", "split", "label", "status", "reasons"),
    *("format", "mode", "width", "height", "bytes", "digest", "group"),
)
NUMBERS = dict.fromkeys(("width", "height", "bytes", "group"), "int64")
USABLE, LEFT_OUT, UNREADABLE = "usable", "left out", "unreadable"
PREPARE_HINT = "`python run.py prepare DATA`"


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as CSV: UTF-8, `\\n`, no index, quotes where a cell needs them."""
    data = table.to_csv(index=False, lineterminator="\n").encode()
    if b"\r" in data:  # Python 3.11 leaves a lone carriage return in a name without quotes
        data = table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL).encode()
    return data


def parse_table(data: bytes, numbers: dict[str, str]) -> pd.DataFrame:
    """The table in a CSV of ours: text as str, `numbers` (column: type) as such. Raises ValueError where it is none."""
    table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    return table.astype({name: kind for name, kind in numbers.items() if name in table.columns})


def write_manifest(workspace: Workspace, manifest: pd.DataFrame) -> None:
    assert tuple(manifest.columns) == COLUMNS, f"{tuple(manifest.columns)}, not {COLUMNS}"
    write_bytes(workspace.manifest, csv_bytes(manifest))


def read_manifest(workspace: Workspace) -> pd.DataFrame:
    """The manifest with its columns: text as str, `width`, `height`, `bytes`, `group` as int64.

    Raises UserError where it is absent, damaged, or of another version.
    """
    data = read_manifest_bytes(workspace)
    try:
        table = parse_table(data, NUMBERS)
    except ValueError as err:  # pandas' ParserError is one too
        raise UserError(f"{workspace.manifest} is damaged: {err}", hint=PREPARE_HINT) from err
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{workspace.manifest} was written by another version", hint=PREPARE_HINT)
    return table


def read_manifest_bytes(workspace: Workspace) -> bytes:
    """The bytes of `manifest.csv`. Raises UserError where there is none."""
    try:
        return workspace.manifest.read_bytes()
    except FileNotFoundError as err:
        raise UserError(f"{workspace.manifest} does not exist", hint=PREPARE_HINT) from err


def usable_rows(manifest: pd.DataFrame, *, split: str) -> pd.DataFrame:
    """The rows of a split whose images are used, in the order of the manifest, numbered anew."""
    return manifest[(manifest["status"] == USABLE) & (manifest["split"] == split)].reset_index(drop=True)


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key under which runs of ASCII digits compare as numbers; `1` and `01` fall back to the text."""
    parts = re.split(r"([0-9]+)", text)
    key = tuple((0, int(part), "") if part[:1].isdigit() and part.isascii() else (1, 0, part) for part in parts if part)
    return key, text


def class_order(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels in natural order; the position of a label is its target."""
    return tuple(sorted(set(labels), key=natural_key))


def test_ids(workspace: Workspace) -> list[str]:
    """Every test id in order, unreadable images included: the sample submission's order, or natural order without one.

    Raises UserError where the manifest is absent or does not know an id of the sample.
    """
    manifest = read_manifest(workspace)
    known = manifest.loc[manifest["split"] == "test", "image_id"].tolist()
    if not workspace.sample.exists():
        return sorted(known, key=natural_key)
    table = read_csv(workspace.sample.read_bytes(), name=str(workspace.sample))
    ids = table.column(pick_column(table, ID_NAMES, what="id", flag="--id-column", position=0))
    strange = sorted(set(ids) - set(known))
    if strange:
        raise UserError(f"{workspace.manifest} does not know {first_few(strange)} of the sample", hint=PREPARE_HINT)
    return ids
