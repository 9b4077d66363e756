"""Decides what a column is: numbers, a category, dates or times; and which columns can teach nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "-", "?"})  # in any letter case
MOST_CODES = 255  # scikit-learn's trees put the values of a category into so many bins
LEAST_ROWS = 50  # training images from which values that repeat too little are names or a numbering
CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?")
EXIF_DATE = re.compile(r"^(\d{4}):(\d\d):(\d\d)")
TIME_ZONE = re.compile(r"(?<=[0-9])\s*(Z|UTC|[+-]\d\d:?\d\d)$")  # the light and the habits follow the clock on site
TIME = re.compile(r"\d[ T]\d\d:?\d\d")  # without one, -9999 is no time zone
DAY_FORMATS = {"%d.%m.%Y": "day.month.year", "%d/%m/%Y": "day/month/year", "%m/%d/%Y": "month/day/year"}
DATE_FORMATS = {"ISO8601": ""} | {  # where all cells fit several, the first one
    f"{day}{time}": order for time in ("", " %H:%M", " %H:%M:%S") for day, order in DAY_FORMATS.items()
}


Kind: TypeAlias = tuple[str, np.ndarray | None]  # in words, with the numbers (values, d); None: it is left out


@dataclass(frozen=True)
class Column:
    """A column, and the numbers that the trees see of it.

    kind      for a person: number, category of 12 values, ..; or why it is left out
    train (N, d), test (T, d) float64, NaN where missing: one number, or the parts of a date; none where it is left out
    n_values  how many distinct ones there are    is_category: the numbers are codes of 0 to 254
    """

    name: str
    kind: str
    n_values: int
    train: np.ndarray
    test: np.ndarray
    is_category: bool = False

    @property
    def is_left_out(self) -> bool:
        return self.train.shape[1] == 0

    @property
    def missing(self) -> tuple[int, int]:
        """How many training and test images have no value."""
        return int(np.isnan(self.train[:, 0]).sum()), int(np.isnan(self.test[:, 0]).sum())


def make_column(name: str, cells: pd.Series, label: np.ndarray) -> Column:
    """What a column of text is taken for.

    cells  of N training, then T test images    label (N,) str of the training images: what repeats it is left out
    Text of more than 255 values keeps the most frequent ones, and the others share a code. Where most images have a
    value of their own or one of the others, it is left out.
    """
    codes, texts = pd.factorize(cells.mask(cells.str.lower().isin(MISSING)), sort=True)  # what is missing is -1
    values, n = texts.tolist(), len(label)
    found: Kind | None
    if len(np.unique(codes[:n])) < 2:
        found = "left out: one value in all training images", None
    elif (cells.to_numpy()[:n] == label).all():
        found = "left out: it is the label", None
    else:
        found = _number(values, codes[:n]) or _clock(values) or _dates(values)
    kind, parts = found or _category(values, np.bincount(codes[codes >= 0], minlength=len(values)))
    parts = np.empty((len(values), 0)) if parts is None else parts
    known = np.vstack([parts, np.full(parts.shape[1], np.nan)])  # the last for the code -1
    return Column(name, kind, len(values), known[codes[:n]], known[codes[n:]], is_category=found is None)


def _number(values: Sequence[str], codes: np.ndarray) -> Kind | None:
    """What is not finite is missing. codes (N,): which value each training image has, -1 for none"""
    try:
        numbers = np.array([float(value.replace("_", "x")) for value in values])  # Python reads 1_11 and 11_1 as 111
    except ValueError:
        return None
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    seen = numbers[codes[codes >= 0]]
    is_whole_and_once = (seen == np.round(seen)).all() and len(np.unique(seen)) == len(seen)
    # The numbers between are those of test images, or so.
    if len(seen) >= LEAST_ROWS and is_whole_and_once and np.ptp(seen) < 2 * len(seen):
        return "left out: it numbers the images", None
    return "number", numbers[:, None]


def _clock(values: Sequence[str]) -> Kind | None:
    """Times of the day as hours, (values, 1)."""
    if not all(CLOCK.fullmatch(value) for value in values):
        return None
    parts = [[float(part) for part in value.split(":")] for value in values]
    return "time: hour", np.array([sum(part / 60**i for i, part in enumerate(one)) for one in parts])[:, None]


def _dates(values: Sequence[str]) -> Kind | None:
    """Dates as day count, day of the year and, where there are times, hour. (values, 2 or 3)"""
    dated = [EXIF_DATE.sub(r"\1-\2-\3", value) for value in values]
    written = [TIME_ZONE.sub("", value) if TIME.search(value) else value for value in dated]
    for style, order in DATE_FORMATS.items():
        try:
            dates = pd.DatetimeIndex(pd.to_datetime(written, format=style))
        except ValueError:  # pandas' OutOfBoundsDatetime is one too
            continue
        hour = dates.hour + dates.minute / 60 + dates.second / 3600
        day = (dates.normalize() - pd.Timestamp("1970-01-01")).days
        parts = {"day": day, "day of the year": dates.day_of_year, **({"hour": hour} if (hour > 0).any() else {})}
        kind = f"date{f' ({order})' if order else ''}: {', '.join(parts)}"
        return kind, np.column_stack(list(parts.values())).astype(np.float64)
    return None


def _category(values: Sequence[str], count: np.ndarray) -> Kind:
    """Codes in the order of the values; count (values,): how many images have each."""
    frequent = np.argsort(-count, kind="stable")
    kept = np.sort(frequent[: MOST_CODES - 1] if len(values) > MOST_CODES else frequent)
    repeated = int(count[kept][count[kept] > 1].sum())
    if count.sum() >= LEAST_ROWS and 2 * repeated < count.sum():
        return f"left out: {len(values):,} values in {count.sum():,} images are too many, and no numbers", None
    codes = np.full((len(values), 1), float(MOST_CODES - 1))
    codes[kept, 0] = np.arange(len(kept))
    if len(kept) < len(values):
        return f"category: the {len(kept)} most frequent values, the others as one", codes
    return f"category of {len(values)} values", codes
