"""This file scores a submission against true labels, where somebody has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.csvfile import ID_NAMES, LABEL_NAMES, CsvTable, pick_column, read_csv
from folds.errors import UserError, first_few
from folds.workspace import digest
from submissions.layout import Layout
from submissions.lineage import read_lineage

HINT = "`python run.py score FILE --labels LABELS.csv`"


@dataclass(frozen=True)
class SubmissionScore:
    """Errors in [0, 1] over `images` images: the share whose true label is not the first, or not among the three."""

    images: int
    top1_error: float
    top3_error: float

    @property
    def sentence(self) -> str:
        spread = np.sqrt(self.top3_error * (1 - self.top3_error) / self.images)
        return (
            f"on the true labels of {self.images:,} images: top-1 error {self.top1_error:.4f}, "
            f"top-3 error {self.top3_error:.4f} +- {spread:.4f}"
        )


def score_submission(path: Path, labels: Path, layout: Layout) -> SubmissionScore:
    """Compare a CSV in this layout with a CSV of ids and true labels; images without a true label do not count.

    Raises UserError where a file cannot be read or no id has a true label.
    """
    guesses, truth = _read(path), _read(labels)
    if len(guesses.header) < 2:
        raise UserError(f"{path} has one column, not an id and labels", hint=HINT)
    id_column = pick_column(truth, ID_NAMES, what="id", given=None, flag="--labels", position=0)
    label_column = pick_column(truth, LABEL_NAMES, what="label", given=None, flag="--labels", position=1)
    true_label = dict(zip(truth.column(id_column), truth.column(label_column), strict=True))
    known = [(row[0], row[1].split(layout.label_separator)) for row in guesses.rows if row[0] in true_label]
    if not known:
        raise UserError(
            f"none of the ids of {path} has a label in {labels}, which has {first_few(list(true_label))}", hint=HINT
        )
    rank = np.array([labels.index(true_label[name]) if true_label[name] in labels else 3 for name, labels in known])
    return SubmissionScore(len(known), float((rank > 0).mean()), float((rank > 2).mean()))


def promised_error(path: Path) -> float | None:
    """The cross-fitted top-3 error that the lineage beside a CSV names; None where there is none, or of another CSV."""
    said = read_lineage(path)
    return said["oof_top3_error"] if said and said["digest"] == digest(path.read_bytes()) else None


def _read(path: Path) -> CsvTable:
    try:
        return read_csv(path.read_bytes(), name=str(path))
    except OSError as err:
        raise UserError(f"{path} cannot be read: {err.strerror}", hint=HINT) from err
