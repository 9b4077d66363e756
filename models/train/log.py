"""Writes and reads the lines of `log.jsonl`: one row of figures per epoch, as JSON, which knows no NaN."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from models.watch.events import EpochRow


def log_line(row: EpochRow) -> str:
    """A row as a line; NaN is null."""
    figures = dataclasses.asdict(row).items()
    known: dict[str, Any] = {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in figures
    }
    return json.dumps(known) + "\n"


def read_log_line(line: str) -> EpochRow:
    """The row of a line that `log_line` wrote."""
    known: dict[str, Any] = json.loads(line)
    figures: dict[str, Any] = {key: math.nan if value is None else value for key, value in known.items()}
    return EpochRow(**figures)
