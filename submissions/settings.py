"""This file declares the settings of `submit`; it imports no numpy, since `run.py --help` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True)
class SubmitSettings:
    csv_name: Annotated[
        str | None, Parameter(help="name of the CSV in work/submissions; `blend` or the run's name if not given")
    ] = None
