"""The error of a submission whose true labels are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.base.csvfile import ID_NAMES, LABEL_NAMES, CsvTable, pick_column, read_csv
from folds.base.errors import UserError, first_few
from folds.base.interval import rate_interval
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, usable_rows
from submissions.csv_form import Layout

HINT = "`python run.py score FILE --labels LABELS.csv`"


@dataclass(frozen=True)
class SubmissionScore:
    """Errors in [0, 1] over `images` images: the share whose true label is not the first, or not among the three.

    low, high: 95% interval of the top-3 error
    """

    images: int
    top1_error: float
    top3_error: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        return (
            f"on the true labels of {self.images:,} images: top-1 error {self.top1_error:.4f}, "
            f"top-3 error {self.top3_error:.4f} ({self.low:.4f} to {self.high:.4f})"
        )


def score_submission(
    path: Path, labels: Path, layout: Layout, *, copies: Mapping[str, int] | None = None
) -> SubmissionScore:
    """Compare a CSV in this layout with a CSV of ids and true labels; images without a true label do not count.

    copies  the group of each image, as `copies_of_test_images` has it; an image that is not there is nobody's copy

    Raises UserError where a file cannot be read or no id has a true label.
    """
    guesses, truth = _read(path), _read(labels)
    if len(guesses.header) < 2:
        raise UserError(f"{path} has one column, not an id and labels", hint=HINT)
    id_column = pick_column(truth, ID_NAMES, what="id", flag="--labels", position=0)
    label_column = pick_column(truth, LABEL_NAMES, what="label", flag="--labels", position=1)
    true_label = dict(zip(truth.column(id_column), truth.column(label_column), strict=True))
    known = [(row[0], row[1].split(layout.label_separator)) for row in guesses.rows if row[0] in true_label]
    if not known:
        raise UserError(
            f"none of the ids of {path} has a label in {labels}, which has {first_few(list(true_label))}", hint=HINT
        )
    rank = np.array([labels.index(true_label[name]) if true_label[name] in labels else 3 for name, labels in known])
    group = np.array([(copies or {}).get(name, -1 - row) for row, (name, _) in enumerate(known)])
    low, high = rate_interval(rank > 2, group)
    return SubmissionScore(len(known), float((rank > 0).mean()), float((rank > 2).mean()), low, high)


def copies_of_test_images(workspace: Workspace) -> Mapping[str, int]:
    """The group of copies that each usable test image belongs to; none where there is no manifest."""
    if not workspace.manifest.is_file():
        return {}
    images = usable_rows(read_manifest(workspace), split="test")
    return dict(zip(images["image_id"], images["group"].tolist(), strict=True))


def _read(path: Path) -> CsvTable:
    try:
        return read_csv(path.read_bytes(), name=str(path))
    except OSError as err:
        raise UserError(f"{path} cannot be read: {err.strerror}", hint=HINT) from err
