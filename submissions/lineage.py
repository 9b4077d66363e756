"""Reads the lineage that `submit` writes beside a CSV: what it was made from, its checksum, its expected score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.blend.expected import ExpectedScore
from folds.base.errors import UserError
from folds.base.workspace import digest, read_json

TYPES: Mapping[str, tuple[type, ...]] = {  # of a lineage, and hardly of another JSON of that name
    "csv": (str,),
    "digest": (str,),
    "unreadable_test_images": (list,),
    "oof_top3_error": (float, type(None)),  # none where one run was submitted
}


def read_lineage(csv: Path) -> Mapping[str, Any]:
    """The JSON beside a CSV; empty where there is none, or where it is something else by that name.

    Raises UserError where it is damaged.
    """
    path = csv.with_suffix(".json")
    if not path.is_file():
        return {}
    lineage = read_json(path, hint="`python run.py submit` writes the CSV and its lineage again")
    if not isinstance(lineage, dict) or not all(isinstance(lineage.get(key), kind) for key, kind in TYPES.items()):
        return {}
    return lineage


def is_changed(csv: Path) -> bool:
    """Whether the bytes of a CSV are other ones than `submit` wrote; False where it has no lineage."""
    lineage = read_lineage(csv)
    return lineage.get("csv") == csv.name and lineage["digest"] != digest(csv.read_bytes())


def expected_top3(csv: Path) -> ExpectedScore | None:
    """The top-3 error to expect of a blend's CSV; None where no lineage is of these very bytes, or it has none."""
    lineage = read_lineage(csv)
    if not lineage or lineage["digest"] != digest(csv.read_bytes()):
        return None
    try:
        return ExpectedScore(**lineage.get("expected_top3", {}))
    except TypeError:  # a single run was submitted, or an older version of the kit wrote it
        return None


def is_early(csv: Path) -> bool:
    """Whether a CSV was made from the probes alone, before `all` trained; False where the lineage is damaged."""
    try:
        return read_lineage(csv).get("is_early") is True
    except UserError:
        return False
