"""Decides the order of classes: natural order, so that `2` comes before `10`."""

from __future__ import annotations

import re
from collections.abc import Iterable


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key under which runs of ASCII digits compare as numbers; `1` and `01` fall back to the text."""
    parts = re.split(r"([0-9]+)", text)
    key = tuple((0, int(part), "") if part[:1].isdigit() and part.isascii() else (1, 0, part) for part in parts if part)
    return key, text


def class_order(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels in natural order; the position of a label is its target."""
    return tuple(sorted(set(labels), key=natural_key))
