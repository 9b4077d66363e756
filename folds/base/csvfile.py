"""Reads a CSV that somebody else wrote: any separator, quotes, byte-order mark, CRLF; cells stay text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from folds.base.errors import UserError, first_few

ID_NAMES = ("id", "imageid", "image", "imagename", "filename", "file", "filepath", "path", "imagepath", "name", "imgid")
LABEL_NAMES = ("label", "labels", "class", "classid", "classname", "target", "category", "categoryid", "landmarkid")
SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class CsvTable:
    """name: for messages; header: column names; rows: the cells as text, as many in each row as in the header.

    numbers  of each row in the file, where the header, or an empty line before it, is row 1
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    separator: str

    def column(self, name: str) -> list[str]:
        """The cells of a column. Raises UserError, naming the columns that there are, where it is none of them."""
        if name not in self.header:
            raise UserError(f"{self.name} has no column {name}; it has {first_few(self.header, most=10)}")
        at = self.header.index(name)
        return [row[at] for row in self.rows]

    def full_column(self, name: str, *, what: str, hint: str | None = None) -> list[str]:
        """A column whose cells all have text. Raises UserError, naming the row, where one has no such `what`."""
        cells = self.column(name)
        if "" in cells:
            raise UserError(f"row {self.numbers[cells.index('')]} of {self.name} has no {what}", hint=hint)
        return cells


def read_given(path: Path, *, hint: str) -> bytes:
    """The bytes of a file that the user names. Raises UserError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as err:
        raise UserError(f"cannot read {path}: {err.strerror or err}", hint=hint) from err


def read_csv(data: bytes, *, name: str) -> CsvTable:
    """The cells of a CSV without the blanks around them; empty lines are skipped.

    Raises UserError where it is not UTF-8, has no header, or a line has more or fewer cells than the header.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise UserError(f"{name} is not UTF-8 text", hint="save it as UTF-8 CSV") from err
    first_line = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(SEPARATORS, key=first_line.count)
    # Strict: an open quote would swallow all that follows, rows and all.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(number, tuple(cell.strip() for cell in row)) for number, row in enumerate(reader, start=1)]
    except csv.Error as err:
        raise UserError(f"{name} cannot be read as CSV: {err}, in line {reader.line_num:,}") from err
    lines = [(number, row) for number, row in lines if any(row)]
    if not lines:
        raise UserError(f"{name} is empty")
    header = lines[0][1]
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise UserError(f"row {number} of {name} has {len(row)} cells where its header has {len(header)}")
    numbers, rows = zip(*lines[1:], strict=True) if lines[1:] else ((), ())
    return CsvTable(name, header, rows, numbers, separator)


def pick_column(table: CsvTable, names: Sequence[str], *, what: str, flag: str, position: int | None = None) -> str:
    """The column of the ids or labels: the first with a usual name, else the one at `position`.

    Raises UserError, naming the columns that there are, where none fits.
    """
    if (usual := usual_column(table.header, names)) is not None:
        return usual
    if position is not None and position < len(table.header):
        return table.header[position]
    raise UserError(
        f"{table.name} has no {what} column; it has {first_few(table.header, most=10)}",
        hint=f"name it with `{flag} COLUMN`",
    )


def usual_column(header: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that is called by the first of these names that any is called by, letter case and signs aside."""
    known = [plain(column) for column in header]
    return next((header[known.index(name)] for name in names if name in known), None)


def plain(name: str) -> str:
    """Letters and digits only, in lower case: `Image_ID` is `imageid`."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
