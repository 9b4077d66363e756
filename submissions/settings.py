"""Declares the settings of `submit` and `report`; it imports no numpy, since `run.py --help` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from folds.settings import at_least


def _is_name(type_: Any, value: Any) -> None:
    if value is not None and (value.startswith(".") or not value or any(one in value for one in "/\\:")):
        raise ValueError("must be a name and no path")


@Parameter(name="*", group="submit")
@dataclass(frozen=True)
class SubmitSettings:
    csv_name: Annotated[
        str | None,
        Parameter(validator=_is_name, help="name of the CSV in work/submissions; `blend` or the run's name by default"),
    ] = None
    match_test: Annotated[
        bool, Parameter(help="weigh the classes by the mix of the test images where it is estimated to be another one")
    ] = False


@Parameter(name="*", group="report")
@dataclass(frozen=True)
class ReportSettings:
    contact_pictures: Annotated[int, at_least(0, at_most=100, help="pictures of each class on its contact sheet")] = 6
    thumbnail_pixels: Annotated[int, at_least(32, at_most=512, help="longer side of the report's pictures")] = 112
    confused_pairs: Annotated[int, at_least(0, at_most=100, help="most confused pairs of classes that are shown")] = 8
    hardest_images: Annotated[
        int, at_least(0, at_most=500, help="images shown of each kind: hardest, uncertain ..")
    ] = 18
    suspects: Annotated[int, at_least(0, at_most=500, help="suspected label errors that are shown; all are listed")] = (
        24
    )
