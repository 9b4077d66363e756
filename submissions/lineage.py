"""Reads the lineage that `submit` writes beside a CSV: where its rows come from, and what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from folds.base.workspace import read_json

TYPES: Mapping[str, tuple[type, ...]] = {  # of a lineage, and hardly of another JSON that lies there by chance
    "csv": (str,),
    "digest": (str,),
    "unreadable_test_images": (list,),
    "oof_top3_error": (float, type(None)),  # none where one run was submitted
}


def read_lineage(path: Path) -> Mapping[str, Any]:
    """What the JSON beside a CSV says of it; empty where there is none, or where it is something else by that name.

    Raises UserError where it is damaged.
    """
    lineage = path.with_suffix(".json")
    if not lineage.is_file():
        return {}
    said = read_json(lineage, hint="`python run.py submit` writes the CSV and its lineage again")
    if not isinstance(said, dict) or not all(isinstance(said.get(key), kind) for key, kind in TYPES.items()):
        return {}
    return said
