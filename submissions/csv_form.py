"""The form of a submission: header, separators and ids, as the sample submission has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from folds.base.csvfile import ID_NAMES, CsvTable, pick_column, read_csv
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from folds.manifest.manifest import natural_key, test_ids
from folds.split.assign import load_folds

PREDICTED = 3  # labels per image
HEADER = ("id", "predicted")
LABEL_SEPARATORS = (" ", ";", "|", "/", ",")
GIVE_SAMPLE = "`python run.py prepare DATA --sample FILE`"


@dataclass(frozen=True)
class Layout:
    """What a valid submission looks like.

    image_id: every test id in the order of the rows; labels: in target order; separator: between cells;
    label_separator: between the labels of one image; n_labels: how many each image gets;
    in_columns: whether each label has a column of its own, so that both separators are one;
    shown: what is in the sample where it shows no such separator; way_out: what takes another sample
    """

    header: tuple[str, ...]
    image_id: tuple[str, ...]
    labels: tuple[str, ...]
    separator: str
    label_separator: str
    shown: str | None = None
    way_out: str = GIVE_SAMPLE

    @property
    def n_labels(self) -> int:
        return min(PREDICTED, len(self.labels))

    @property
    def in_columns(self) -> bool:
        return len(self.header) > 2

    def labels_of(self, row: Sequence[str]) -> list[str]:
        """The labels in the cells of a row behind its id."""
        return list(row[1:]) if self.in_columns else row[1].split(self.label_separator)

    def warning(self) -> str | None:
        """A sentence where the separator of labels is not the sample's; None where it is, or without a sample."""
        if self.shown is None:
            return None
        return (
            f"warning: {self.shown}, but each image gets {self.n_labels} labels, best first, separated by"
            f" `{self.label_separator}`; if the organiser wants another separator, {self.way_out} takes a sample whose"
            f" rows show it"
        )

    def line(self, cells: Sequence[str]) -> str:
        """One row of the CSV, with quotes only where a cell needs them."""
        text = io.StringIO(newline="")
        # Python 3.11 leaves a lone carriage return without quotes.
        quoting: Literal[0, 1] = csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL
        csv.writer(text, delimiter=self.separator, lineterminator="\n", quoting=quoting).writerow(cells)
        return text.getvalue()

    def text(self, best: Mapping[str, np.ndarray], *, otherwise: np.ndarray) -> str:
        """The whole CSV. best: the classes of each id, best first; otherwise: those of ids that it lacks."""
        names = np.array(self.labels, dtype=object)
        rows = ((name, names[best.get(name, otherwise)]) for name in self.image_id)
        cells = ((name, *some) if self.in_columns else (name, self.label_separator.join(some)) for name, some in rows)
        return self.line(self.header) + "".join(map(self.line, cells))


def read_layout(
    workspace: Workspace, *, image_id: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> Layout:
    """The layout of this work folder's sample submission; `id,predicted` and `0 1 2` where there is none.

    image_id: the ids where the work folder has no manifest; labels: the classes where it has no folds.
    Raises UserError where a label cannot be told apart.
    """
    labels = load_folds(workspace).classes if labels is None else labels
    if not workspace.sample.is_file():
        ids = test_ids(workspace) if image_id is None else sorted(image_id, key=natural_key)
        return Layout(HEADER, tuple(ids), tuple(labels), ",", _free_separator(labels))
    sample = read_csv(workspace.sample.read_bytes(), name="the sample submission")
    way_out = GIVE_SAMPLE if workspace.manifest.is_file() else "`--sample-csv FILE`"  # without: a blend of files
    return sample_layout(sample, labels, image_id=test_ids(workspace) if image_id is None else None, way_out=way_out)


def sample_layout(
    sample: CsvTable, labels: Sequence[str], *, image_id: Sequence[str] | None = None, way_out: str = GIVE_SAMPLE
) -> Layout:
    """The layout of a sample submission; its ids unless others are given. Raises UserError as `read_layout`.

    way_out  what takes another sample
    """
    id_column = pick_column(sample, ID_NAMES, what="id", flag="--id-column", position=0)
    others = [name for name in sample.header if name != id_column]
    known, n_labels = set(labels), min(PREDICTED, len(labels))
    ids = sample.column(id_column) if image_id is None else image_id
    # A column for each label; where they are called like classes, or hold numbers, they are for probabilities.
    of_labels = [name for name in others if name not in known and {*sample.column(name)[:1000]} <= {*known, ""}]
    if len(of_labels) == len(others) == n_labels and sample.header[0] == id_column:
        layout = (sample.header, tuple(ids), tuple(labels), sample.separator, sample.separator)
        return Layout(*layout, way_out=way_out)
    if len(others) != 1 or sample.header[0] != id_column:
        raise UserError(
            f"{sample.name} has the columns {first_few(sample.header, most=5)}, "
            f"not an id and one column for the labels, nor {n_labels} columns with a label each",
            hint=f"{way_out} takes another sample",
        )
    cells = sample.column(others[0])[:1000]

    def fitting(separator: str) -> int:
        """How many cells hold nothing but known labels, so separated."""
        split = [cell.split(separator) for cell in cells if separator in cell and cell not in known]
        return sum(known.issuperset(part.strip() for part in parts) for parts in split)

    used, shown = max(LABEL_SEPARATORS, key=fitting), None
    if not fitting(used):
        what = "one label a row" if known.issuperset(cells) else "no separator between labels of DATA"
        first = [sample.separator.join(row)[:60] for row in sample.rows[:1]]
        shown, used = f"{sample.name} shows {what} (`{first_few(first)}`)", _free_separator(labels)
    elif torn := [label for label in labels if used in label]:
        raise UserError(
            f"{sample.name} separates labels by `{used}`, which stands inside labels too: {first_few(torn)}",
            hint=f"{way_out} takes another sample, such as one with `{_free_separator(labels)}` between the labels",
        )
    return Layout(sample.header, tuple(ids), tuple(labels), sample.separator, used, shown, way_out)


def _free_separator(labels: Sequence[str]) -> str:
    """The first separator that stands in no label."""
    free = [separator for separator in LABEL_SEPARATORS if not any(separator in label for label in labels)]
    if not free:
        odd = [label for label in labels if " " in label]
        raise UserError(
            f"nothing can separate the labels of an image: blank ; | / , all occur in labels such as {first_few(odd)}",
            hint="`python run.py prepare DATA --relabel FILE` gives other labels",
        )
    return free[0]
