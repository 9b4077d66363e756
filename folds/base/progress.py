"""Lets long work show its progress without printing: the caller hands in a wrapper for iterables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable and passes its items on; `run.py` draws a bar around it."""

    def __call__(
        self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1
    ) -> Iterator[T]:
        """what: the words beside the bar; total: units in all; each: units that one item stands for."""
        ...


def silently(items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
    """The tracker of a caller that shows nothing."""
    yield from items
