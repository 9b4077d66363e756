"""Knows how far work is and how fast it goes, without drawing anything."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Pace:
    """Work of so many units, some of them done. Its speed counts from the first piece on, which takes longer."""

    what: str
    total: int
    unit: str = "images"
    done: int = 0
    _first: tuple[float, int] | None = None  # when the first units were done, and how many
    _last: float = 0.0

    def advance(self, units: int) -> None:
        """So many more units are done, at most all."""
        self.done, self._last = min(self.done + units, self.total), time.monotonic()
        if self._first is None:
            self._first = self._last, self.done

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 1.0

    @property
    def per_second(self) -> float | None:
        """None before two pieces are done."""
        if self._first is None or self._last <= self._first[0]:
            return None
        return (self.done - self._first[1]) / (self._last - self._first[0]) or None

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.per_second if self.per_second else None
