"""What can be said of a CSV: its faults, the lineage that `submit` wrote beside it, its error on known labels."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blend.blend_json import Blend, frozen
from ensemble.blend.expected import ExpectedScore
from ensemble.members.external import refuse_repeated
from folds.base.csvfile import ID_NAMES, LABEL_NAMES, pick_column, read_csv, read_given
from folds.base.errors import UserError, first_few
from folds.base.interval import rate_interval
from folds.base.metrics import top_classes
from folds.base.workspace import digest, read_json
from folds.find.listing import composed
from submissions.csv_form import Layout

BOM = "\ufeff"
Row = tuple[int, list[str]]  # line number and cells


@dataclass(frozen=True)
class CheckResult:
    """What is wrong with a CSV: one sentence a fault, none if it is valid."""

    path: Path
    rows: int
    faults: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """One line. Raises UserError, with all faults, where the CSV is not valid."""
        if self.faults:
            hint = "`python run.py submit` writes a valid one"
            raise UserError(f"{self.path} is not valid: {'; '.join(self.faults)}", hint=hint)
        return f"{self.path}: {self.rows:,} rows, valid"


def check_submission(path: Path, layout: Layout) -> CheckResult:
    """Compare a CSV with a layout, and with its own lineage. Raises UserError where a file cannot be read."""
    data = read_given(path, hint="`python run.py submit` writes one")
    faults = list(faults_of(data, layout))
    if is_changed(path):  # other bytes may be valid, and are still not those of the blend
        faults.append(f"it was changed after `submit` wrote it: {path.with_suffix('.json').name} has another checksum")
    return CheckResult(path, max(_without_quoted(data).count(b"\n") - 1, 0), tuple(faults))


def faults_of(data: bytes, layout: Layout) -> Iterator[str]:
    """All faults of a CSV, from its bytes to its labels; the list ends where it cannot be read any further."""
    if data.startswith(BOM.encode()):
        yield "it begins with a byte-order mark, which becomes part of the first column's name"
    bare = _without_quoted(data)
    if b"\r" in bare:
        yield f"{bare.count(bytes([13])):,} of its lines end in CR LF, not LF"
    empty = [number for number, line in enumerate(bare.split(b"\n")[:-1], start=1) if not line.strip()]
    if empty:
        yield f"line {first_few(empty)} is empty"
    if data and not data.endswith(b"\n"):
        yield "its last line does not end, as if the file were cut off"
    try:
        text = data.decode().removeprefix(BOM)
    except UnicodeDecodeError as err:
        yield f"it is not UTF-8: byte {err.start:,} is {data[err.start]:#04x}"
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
        yield f"its header is `{text.splitlines()[0]}`, not `{expected}`"
    whole = [row for row in rows[1:] if len(row[1]) == len(layout.header)]
    wrong = f"rows without {len(layout.header)} cells"
    yield from _offenders({wrong: [row for row in rows[1:] if len(row[1]) != len(layout.header)]})
    yield from _id_faults([cells[0] for _, cells in whole], layout.image_id)
    yield from _offenders(_label_faults(whole, layout))
    needless = text.count('"') - sum(layout.line(cells).count('"') for _, cells in rows)
    if needless > 0:  # some checkers take them for a part of the cell
        yield f"it has {needless:,} quotation marks around cells that need none"


def valid_csv(
    layout: Layout, best: Mapping[str, np.ndarray], images_per_class: Sequence[int], *, hint: str | None = None
) -> bytes:
    """A CSV of the classes of each id, the most frequent ones where `best` lacks it. Refuses one with faults."""
    otherwise = top_classes(np.array([images_per_class], np.float64), k=layout.n_labels)[0]
    data = layout.text(best, otherwise=otherwise).encode()
    fault = next(faults_of(data, layout), None)
    if fault is not None:  # the last valid CSV stays where it is
        raise UserError(f"the submission would not be valid, and was not written: {fault}", hint=hint)
    return data


def _without_quoted(data: bytes) -> bytes:
    """Line ends inside of quotes belong to an id."""
    return re.sub(rb'"[^"]*"', b'""', data)


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


def _label_faults(rows: Sequence[Row], layout: Layout) -> Mapping[str, Sequence[Row]]:
    """Rows without exactly n distinct known labels."""
    known, n, separator = set(layout.labels), layout.n_labels, layout.label_separator
    split = [(row, layout.labels_of(row[1])) for row in rows]
    full = [(row, labels) for row, labels in split if len(labels) == n]
    return {
        f"rows without {n} labels separated by `{separator}`": [row for row, labels in split if len(labels) != n],
        "rows with labels that are not among the classes": [row for row, some in full if not known.issuperset(some)],
        "rows with the same label twice": [row for row, labels in full if len(set(labels)) < n],
    }


def _offenders(faults: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    for what, rows in faults.items():
        if rows:
            shown = [f"line {number} `{' | '.join(cells)[:60]}`" for number, cells in rows]
            yield f"{len(rows):,} {what if len(rows) > 1 else what.replace('rows', 'row', 1)}: {first_few(shown)}"


TYPES: Mapping[str, tuple[type, ...]] = {  # of a lineage, and hardly of another JSON of that name
    "csv": (str,),
    "digest": (str,),
    "unreadable_test_images": (list,),
    "oof_top3_error": (float, type(None)),  # none where one run was submitted
}


def read_lineage(csv: Path) -> Mapping[str, Any]:
    """The JSON beside a CSV; empty where there is none, or where it is something else by that name.

    Raises UserError where it is damaged.
    """
    path = csv.with_suffix(".json")
    if not path.is_file():
        return {}
    lineage = read_json(path, hint="`python run.py submit` writes the CSV and its lineage again")
    if not isinstance(lineage, dict) or not all(isinstance(lineage.get(key), kind) for key, kind in TYPES.items()):
        return {}
    return lineage


def is_changed(csv: Path) -> bool:
    """Whether the bytes of a CSV are other ones than `submit` wrote; False where it has no lineage."""
    lineage = read_lineage(csv)
    return lineage.get("csv") == csv.name and lineage["digest"] != digest(csv.read_bytes())


def is_of_blend(csv: Path, blend: Blend) -> bool | None:
    """Whether a CSV was made from this blend or from another; None for that of a single run, or without a lineage."""
    lineage = read_lineage(csv)
    if "weights" not in lineage:
        return None
    return all(frozen(lineage.get(name)) == getattr(blend, name) for name in ("candidate", "weights", "files"))


def expected_top3(csv: Path) -> ExpectedScore | None:
    """The top-3 error to expect of a blend's CSV; None where no lineage is of these very bytes, or it has none."""
    lineage = read_lineage(csv)
    is_of_blend = "expected_top3" in lineage and lineage["digest"] == digest(csv.read_bytes())
    return ExpectedScore(**lineage["expected_top3"]) if is_of_blend else None


def is_early(csv: Path) -> bool:
    """Whether a CSV was made from the probes alone, before `all` trained; False where the lineage is damaged."""
    try:
        return read_lineage(csv).get("is_early") is True
    except UserError:
        return False


HINT = "`python run.py score FILE --labels LABELS.csv`"


@dataclass(frozen=True)
class SubmissionScore:
    """Errors in [0, 1] over `images` images: the share whose true label is not the first, or not among the three.

    rows       of the CSV, with and without a true label
    low, high: 95% interval of the top-3 error
    """

    images: int
    rows: int
    top1_error: float
    top3_error: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        of_all = "" if self.images == self.rows else f" of {self.rows:,}"
        return (
            f"on the true labels of {self.images:,}{of_all} images: top-1 error {self.top1_error:.4f}, "
            f"top-3 error {self.top3_error:.4f} ({self.low:.4f} to {self.high:.4f})"
        )


def score_submission(
    path: Path, labels: Path, layout: Layout, *, copies: Mapping[str, int] | None = None
) -> SubmissionScore:
    """Compare a CSV in this layout with a CSV of ids and true labels; images without a true label do not count.

    copies  the group of each image, as `copies_of_test_images` has it; an image that is not there has no copies

    Raises UserError where a file cannot be read, no id has a true label, one stands twice in a file, or no guess is a
    known label.
    """
    try:
        guesses, truth = (read_csv(one.read_bytes(), name=str(one)) for one in (path, labels))
    except OSError as err:
        raise UserError(f"{err.filename} cannot be read: {err.strerror}", hint=HINT) from err
    if len(guesses.header) < 2:
        raise UserError(f"{path} has one column, not an id and labels", hint=HINT)
    id_column = pick_column(truth, ID_NAMES, what="id", flag="--labels", position=0)
    label_column = pick_column(truth, LABEL_NAMES, what="label", flag="--labels", position=1)
    ids, classes = truth.column(id_column), set(map(composed, layout.labels))
    refuse_repeated(np.array(ids), name=str(labels))
    refuse_repeated(np.array([row[0] for row in guesses.rows]), name=str(path))
    labelled = zip(ids, truth.column(label_column), strict=True)
    true_label = {name: composed(label) for name, label in labelled if label}
    rows = [row for row in guesses.rows if row[0] in true_label]
    known = [(row[0], list(map(composed, layout.labels_of(row)))) for row in rows]
    if not known:
        raise UserError(
            f"none of the ids of {path} has a label in {labels}, whose ids are {first_few(list(true_label))}", hint=HINT
        )
    if classes.isdisjoint(true_label.values()):
        shown, there = first_few(list(dict.fromkeys(true_label.values()))), first_few(layout.labels)
        raise UserError(
            f"column {label_column} of {labels} holds no class: it has {shown}, and the classes are {there}", hint=HINT
        )
    if not any(classes.intersection(guessed) for _, guessed in known):
        raise UserError(
            f"no row of {path} holds a known label, separated by `{layout.label_separator}`: "
            f"the first are `{guesses.rows[0][1][:60]}`",
            hint=f"`python run.py check {shlex.quote(str(path))}` says what its form should be",
        )
    rank = np.array([labels.index(true_label[name]) if true_label[name] in labels else 3 for name, labels in known])
    group = np.array([(copies or {}).get(name, -1 - row) for row, (name, _) in enumerate(known)])
    low, high = rate_interval(rank > 2, group)
    return SubmissionScore(len(known), len(guesses.rows), float((rank > 0).mean()), float((rank > 2).mean()), low, high)
