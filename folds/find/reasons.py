"""Why a file is not used, or what is odd about it, as data; the text is made where it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

TRUNCATED, DAMAGED, NO_DECODER, TWO_LABELS = "truncated", "damaged", "no decoder", "two labels"
RELABELLED, UNLABELLED = "relabelled", "unlabelled"  # by `prepare --relabel`: another label, or none
NOT_LISTED, NO_FILE = "not listed", "no file of this name"
BROKEN_LINK, BARRED_LINK, NOT_REGULAR = "a broken link", "a link that cannot be followed", "not a regular file"
NOT_UTF8 = "its name is not UTF-8"
NEVER_OPENED = (NO_FILE, BROKEN_LINK, BARRED_LINK, NOT_REGULAR, NOT_UTF8)
CRASHED, TOO_SLOW, UNREAD = "decoder crashed", "decoder took too long", "cannot be read"


class Reason(NamedTuple):
    """code: the kind, the same text for all files that have it; detail: what is particular to this file."""

    code: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


def to_cell(reasons: Iterable[Reason]) -> str:
    """The reasons as a cell of a CSV: a JSON list of [code, detail], empty if there are none."""
    listed = list(reasons)
    return json.dumps(listed, ensure_ascii=False) if listed else ""


def from_cell(cell: str) -> tuple[Reason, ...]:
    """The reasons in a cell; text that somebody wrote instead of such a list is one reason."""
    try:
        return tuple(Reason(*pair) for pair in json.loads(cell)) if cell else ()
    except (ValueError, TypeError):
        return (Reason(cell),)


def reason_text(reasons: Iterable[Reason] | str) -> str:
    """The reasons, or those in a cell, for people: `truncated: 54% decoded; exact copy in test: 7`."""
    return "; ".join(map(str, from_cell(reasons) if isinstance(reasons, str) else reasons))
