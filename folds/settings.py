"""Declares the settings of `prepare` and `split`: one field, one flag, one TOML key, one check.

It imports neither torch nor numpy, since `run.py --help` reads it. No file of settings has `from __future__ import
annotations`: cyclopts would evaluate each annotation anew in every command, which takes a fifth of a second.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

MOST_FOLDS = 100
LEFT_SHARE = 0.1  # of the hours given is left for the blend and the submission, but at most:
LEFT_SECONDS = 600.0
StoreForm: TypeAlias = Literal["raw", "jpeg"]


def _split_at_commas(type_: Any, tokens: Sequence[Any]) -> tuple[str, ...]:
    return tuple(part.strip() for token in tokens for part in token.value.split(",") if part.strip())


# A list of names: `--views centre,mirror` on the command line, ["centre", "mirror"] in TOML.
COMMA_LIST = Parameter(converter=_split_at_commas, n_tokens=1, negative=())


def _is_finite(type_: Any, value: Any) -> None:
    if isinstance(value, float) and math.isinf(value):
        raise ValueError("must be finite")


def at_least(low: float, *, below: float | None = None, at_most: float | None = None, **kwargs: Any) -> Parameter:
    """The flag of a number with limits; `kwargs` are cyclopts' own (`help`)."""
    return Parameter(validator=(Number(gte=low, lt=below, lte=at_most), _is_finite), **kwargs)


@Parameter(name="*", group="prepare")
@dataclass(frozen=True)
class PrepareSettings:
    train_folder: Annotated[str | None, Parameter(help="training images below DATA; found by rule if not given")] = None
    train_csv: Annotated[str | None, Parameter(help="CSV below DATA with ids and labels, instead of class folders")] = (
        None
    )
    test_folder: Annotated[str | None, Parameter(help="test images below DATA; found by rule if not given")] = None
    sample: Annotated[
        str | None, Parameter(help="sample submission, in DATA or elsewhere; found by rule if not given")
    ] = None
    id_column: Annotated[str | None, Parameter(help="column of the ids in --train-csv")] = None
    label_column: Annotated[str | None, Parameter(help="column of the labels in --train-csv")] = None
    relabel: Annotated[
        Path | None, Parameter(help="CSV of image_id,label: other labels than DATA has; an empty one leaves it out")
    ] = None
    store_size: Annotated[
        int | None,
        at_least(16, at_most=1024, help="side of the pixel store, in pixels; if not given what the runs need, or less"),
    ] = None
    store: Annotated[
        StoreForm | None,
        Parameter(help="form of the pixel store: raw, or jpeg in a sixth of the bytes; raw or the one that is there"),
    ] = None
    keep_truncated: Annotated[bool, Parameter(help="train on images that are cut off, as far as they decode")] = False
    keep_two_labels: Annotated[bool, Parameter(help="train on pictures that stand under two labels")] = False
    near_bits: Annotated[
        int, at_least(0, at_most=16, help="perceptual hashes this close (of 64 bits) are compared as near duplicates")
    ] = 6
    workers: Annotated[int | None, at_least(1, help="decoding processes; all cores if not given")] = None


@Parameter(name="*", group="split")
@dataclass(frozen=True)
class SplitSettings:
    n_folds: Annotated[int, at_least(2, at_most=MOST_FOLDS, help="number of folds")] = 5
    group_column: Annotated[
        str | None, Parameter(help="column of the labels' CSV: images of one value (patient, place) share a fold")
    ] = None
    group_regex: Annotated[
        str | None, Parameter(help="pattern in the image's path: images with one match of its first ( ) share a fold")
    ] = None
    fold_column: Annotated[
        str | None, Parameter(help="column of the labels' CSV with the folds, to be taken as they are")
    ] = None
    groups: Annotated[Path | None, Parameter(help="CSV with ids and these columns, instead of DATA's labels")] = None


@Parameter(name="*", group="limit")
@dataclass(frozen=True)
class LimitSettings:
    max_hours: Annotated[
        float | None,
        at_least(0, help="stop after so many hours, with time left to write a submission from the folds that are done"),
    ] = None

    def deadline(self) -> float | None:
        """When a command that begins now is to stop training, in seconds of `time.monotonic`; None for never."""
        if self.max_hours is None:
            return None
        seconds = self.max_hours * 3600
        return time.monotonic() + seconds - min(LEFT_SHARE * seconds, LEFT_SECONDS)
