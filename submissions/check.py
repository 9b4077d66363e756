"""Compares any CSV with what the organiser expects, and names the first offenders."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from submissions.csv_form import Layout, read_layout
from submissions.lineage import is_changed

BOM = b"\xef\xbb\xbf"
Row = tuple[int, list[str]]  # line number and cells


@dataclass(frozen=True)
class CheckResult:
    """What is wrong with a CSV: one sentence a fault, none if it is valid."""

    path: Path
    rows: int
    faults: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        return not self.faults

    @property
    def sentence(self) -> str:
        """One line if it is valid, and one a fault if it is not."""
        if self.is_valid:
            return f"{self.path}: {self.rows:,} rows, valid"
        return "\n".join(f"{self.path}: {fault}" for fault in self.faults)

    def refuse_faults(self) -> None:
        """Raises UserError, with all faults, where the CSV is not valid."""
        if not self.is_valid:
            hint = "`python run.py submit` writes a valid one"
            raise UserError(f"{self.path} is not valid: {'; '.join(self.faults)}", hint=hint)


def check_submission(path: Path, workspace: Workspace) -> CheckResult:
    """Compare a CSV with the sample submission, test ids and classes of a work folder, and with its own lineage.

    Raises UserError where the file cannot be read or the work folder is not prepared.
    """
    result = check_layout(path, read_layout(workspace))
    if not is_changed(path):  # other bytes may be valid, and are still not those of the blend
        return result
    fault = f"it was changed after `submit` wrote it: {path.with_suffix('.json').name} has another checksum"
    return replace(result, faults=(*result.faults, fault))


def check_layout(path: Path, layout: Layout) -> CheckResult:
    """Compare a CSV with a layout. Raises UserError where the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise UserError(f"cannot read {path}: {err.strerror}", hint="`python run.py submit` writes one") from err
    return CheckResult(path, max(data.count(b"\n") - 1, 0), tuple(faults_of(data, layout)))


def faults_of(data: bytes, layout: Layout) -> Iterator[str]:
    """All faults of a CSV, from its bytes to its labels; the list ends where it cannot be read any further."""
    yield from _byte_faults(data)
    try:
        text = data.removeprefix(BOM).decode()
    except UnicodeDecodeError as err:
        yield f"it is not UTF-8: byte {err.start:,} is {data[err.start] if err.start < len(data) else 0:#04x}"
        return
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=layout.separator, strict=True))
    except csv.Error as err:
        yield f"it cannot be read as CSV: {err}"
        return
    rows = [(number, cells) for number, cells in enumerate(lines, start=1) if cells]
    if not rows:
        yield "it is empty"
        return
    if tuple(rows[0][1]) != layout.header:
        expected = layout.line(layout.header).rstrip("\n")
        yield f"its header is `{text.splitlines()[0] if text else ''}`, not `{expected}`"
    whole = [row for row in rows[1:] if len(row[1]) == len(layout.header)]
    yield from _offenders([row for row in rows[1:] if len(row[1]) != len(layout.header)], "rows without two cells")
    yield from _id_faults([cells[0] for _, cells in whole], layout.image_id)
    yield from _label_faults(whole, layout)
    needless = text.count('"') - sum(layout.line(cells).count('"') for _, cells in rows)
    if needless > 0:  # some checkers take them for a part of the cell
        yield f"it has {needless:,} quotation marks around cells that need none"


def _byte_faults(data: bytes) -> Iterator[str]:
    if data.startswith(BOM):
        yield "it begins with a byte-order mark, which becomes part of the first column's name"
    bare = re.sub(rb'"[^"]*"', b'""', data)  # line ends inside of quotes belong to an id
    if b"\r" in bare:
        yield f"{bare.count(bytes([13])):,} of its lines end in CR LF, not LF"
    empty = [number for number, line in enumerate(bare.split(b"\n")[:-1], start=1) if not line.strip()]
    if empty:
        yield f"line {first_few(empty)} is empty"
    if data and not data.endswith(b"\n"):
        yield "its last line does not end, as if the file were cut off"


def _id_faults(ids: Sequence[str], expected: Sequence[str]) -> Iterator[str]:
    """Missing, strange, doubled and disordered ids."""
    known, count = set(expected), Counter(ids)
    faults = {
        "missing": [one for one in expected if one not in count],
        "not in the test set": [one for one in count if one not in known],
        "there more than once": [one for one, times in count.items() if times > 1],
    }
    for what, names in faults.items():
        if names:
            yield f"{len(names):,} {'id is' if len(names) == 1 else 'ids are'} {what}: {first_few(names)}"
    if not any(faults.values()) and list(ids) != list(expected):
        first = next(i for i, (one, other) in enumerate(zip(ids, expected, strict=True)) if one != other)
        yield f"its ids are in another order: row {first + 1:,} is {ids[first]} where {expected[first]} is expected"


def _label_faults(rows: Sequence[Row], layout: Layout) -> Iterator[str]:
    """Rows without exactly n distinct known labels."""
    known, n, separator = set(layout.labels), layout.n_labels, layout.label_separator
    split = [(row, row[1][1].split(separator)) for row in rows]
    full = [(row, labels) for row, labels in split if len(labels) == n]
    yield from _offenders(
        [row for row, labels in split if len(labels) != n], f"rows without {n} labels separated by `{separator}`"
    )
    yield from _offenders(
        [row for row, labels in full if not known.issuperset(labels)], "rows with labels that are not among the classes"
    )
    yield from _offenders([row for row, labels in full if len(set(labels)) < n], "rows with the same label twice")


def _offenders(rows: Sequence[Row], what: str) -> Iterator[str]:
    if rows:
        shown = [f"line {number} `{' | '.join(cells)[:60]}`" for number, cells in rows[:3]]
        what = what if len(rows) > 1 else what.replace("rows", "row", 1)
        yield f"{len(rows):,} {what}: {first_few(shown + [''] * (len(rows) - 3))}"
