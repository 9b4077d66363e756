"""Counts what the tests of faults tried; pytest prints the sums at its end."""

from __future__ import annotations

from collections import Counter

TRIED: Counter[str] = Counter()


def count(what: str, n: int = 1) -> None:
    """Add to a sum: `count("kills")`, `count("mutated files", 1000)`."""
    TRIED[what] += n
