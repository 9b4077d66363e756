"""Writes `relabel.csv`: suspected labels, to be edited and fed back; what was decided before stays in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from folds.base.workspace import digest, write_bytes
from folds.find.reasons import RELABELLED, UNLABELLED, Reason
from folds.manifest.manifest import csv_bytes
from folds.manifest.summary import reason_rows
from submissions.report.mistakes import Guessed
from submissions.report.source import Source

COLUMNS = ("image_id", "label", "suggested", "label_probability", "suggested_probability", "note")


@dataclass(frozen=True)
class RelabelCsv:
    """The file, and the digest by which a later report knows whether it was edited.

    is_kept  it was edited and not fed back since a report wrote it, and was left as it is
    """

    path: str
    digest: str
    is_kept: bool


def write_relabel_csv(source: Source, suspects: Sequence[Guessed], *, written: str | None) -> RelabelCsv:
    """Write the CSV, unless there are edits in it that `prepare` has not seen.

    written  the digest of the one that the last report wrote, None where there was none
    A file fed back unedited changes nothing, since `label` is the label that the image has. Images that were
    relabelled before stand first: the file is all that is to differ from DATA.
    """
    path = source.workspace.report / "relabel.csv"
    decided = _decided(source)
    table = pd.DataFrame([*decided, *map(_row, suspects)], columns=list(COLUMNS)).astype(str)
    data = csv_bytes(table.drop_duplicates("image_id"))
    is_ours = not path.is_file() or digest(path.read_bytes()) in (written, digest(data))
    if not is_ours and not _is_obeyed(path, source):
        return RelabelCsv(str(path), written or "", is_kept=True)
    write_bytes(path, data)
    return RelabelCsv(str(path), digest(data), is_kept=False)


def _is_obeyed(path: Path, source: Source) -> bool:
    """Whether the manifest has all that the file says: `prepare` was given it, and a new file will say it too."""
    try:
        said = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("image_id")["label"]
    except (ValueError, KeyError, OSError):
        return False  # no file of ours any more
    train = source.manifest[source.manifest["split"] == "train"]
    now = dict(zip(train["image_id"], train["label"], strict=True))
    now |= {image_id: label for image_id, label, *_ in _decided(source)}
    return all(now.get(image_id) == label for image_id, label in said.items())


def _row(one: Guessed) -> tuple[str, ...]:
    (suggested, prob), *_ = one.guesses
    return one.picture.image_id, one.label, suggested, f"{one.true_prob:.4f}", f"{prob:.4f}", ""


def _decided(source: Source) -> list[tuple[str, ...]]:
    """The images that `prepare --relabel` changed: without them in it, the next file would undo that."""
    rows = reason_rows(source.manifest)
    rows = rows[rows["code"].isin([RELABELLED, UNLABELLED])]
    cells = (rows[name].tolist() for name in ("image_id", "label", "code", "detail"))
    return [
        (image_id, "" if code == UNLABELLED else label, "", "", "", str(Reason(code, detail)))
        for image_id, label, code, detail in zip(*cells, strict=True)
    ]
