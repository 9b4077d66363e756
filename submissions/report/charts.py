"""Says what a chart shows: plain numbers and words, which stand in report.json as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """key: unique on the page; title: above the chart; alt: what is seen, for those who cannot see it."""

    key: str
    title: str
    alt: str


@dataclass(frozen=True)
class Bars(Chart):
    """A bar per label, standing."""

    labels: tuple[str, ...]
    values: Numbers
    y_title: str
    is_log: bool = False


@dataclass(frozen=True)
class Series:
    """One line. role: `train`, `valid` or `plain`; is_faint: one of several of the same kind."""

    name: str
    role: str
    x: Numbers
    y: Numbers
    is_faint: bool = False


@dataclass(frozen=True)
class Lines(Chart):
    series: tuple[Series, ...]
    x_title: str
    y_title: str
    is_log_x: bool = False
    has_diagonal: bool = False
    marks: tuple[tuple[str, float], ...] = ()  # upright lines with their words
    is_small: bool = False  # one of three side by side


@dataclass(frozen=True)
class Points(Chart):
    """A point per label; the labels at `named` stand beside their points."""

    labels: tuple[str, ...]
    x: Numbers
    y: Numbers
    x_title: str
    y_title: str
    is_log: bool = False  # the x axis, and with a diagonal the y axis too
    has_diagonal: bool = False
    named: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ranges(Chart):
    """A value per label with its interval, lying; hollow: a second value; strong: the labels that stand out."""

    labels: tuple[str, ...]
    values: Numbers
    low: Numbers
    high: Numbers
    x_title: str
    strong: tuple[int, ...] = ()
    hollow: Numbers | None = None
    zero: float | None = None  # where a line is drawn that the values are held against


@dataclass(frozen=True)
class Heat(Chart):
    """A square of numbers in [-1, 1]."""

    labels: tuple[str, ...]
    matrix: tuple[Numbers, ...]


def numbers(values: Sequence[float]) -> Numbers:
    return tuple(float(value) for value in values)
