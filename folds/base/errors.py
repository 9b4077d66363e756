"""What a user may see of a mistake that the user can mend: an exception, or a complaint while a command goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class UserError(Exception):
    """A mistake that the user can mend: one sentence, and the next command as a hint.

    `run.py` prints `error:` and `hint:` and exits with 2; everything else is a bug and shows its traceback.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CannotWriteError(UserError):
    """The disk is full or the folder is read-only: no other job will fare better."""


def first_few(names: Sequence[object], *, most: int = 3) -> str:
    """The first offenders and the count of the others: `a, b, c and 4 more`."""
    shown = ", ".join(visible(str(name)) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def counted(n: int, one: str, many: str) -> str:
    """A number with its noun: `1 file`, `1,234 files`."""
    return f"{n:,} {one if n == 1 else many}"


def visible(text: str) -> str:
    """The text on one line: what a name may hold of line ends, escape codes and the like is spelled out."""
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


@dataclass(frozen=True)
class Complaint:
    """A mistake that stops only a part of a command: it is shown, and the command goes on.

    trace     of a bug
    is_error  whether the command will fail at its end; all others are warnings, for scripts look at exit codes
    """

    message: str
    hint: str | None = None
    trace: str | None = None
    is_error: bool = False


@dataclass(frozen=True)
class Next:
    """The command to type next, such as `blend --partial`, where it depends on what was found."""

    command: str
