"""This file declares the settings of `submit`; it imports no numpy, since `run.py --help` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter


def _is_name(type_: Any, value: Any) -> None:
    if value is not None and (value.startswith(".") or not value or any(one in value for one in "/\\:")):
        raise ValueError("must be a name and no path")


@dataclass(frozen=True)
class SubmitSettings:
    csv_name: Annotated[
        str | None,
        Parameter(validator=_is_name, help="name of the CSV in work/submissions; `blend` or the run's name by default"),
    ] = None
