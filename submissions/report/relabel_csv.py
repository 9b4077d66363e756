"""Writes `relabel.csv`: suspected labels, to be edited and given to `prepare`; earlier decisions stay in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from folds.base.workspace import digest, write_bytes
from folds.find.reasons import RELABELLED, UNLABELLED, Reason
from folds.manifest.manifest import csv_bytes
from folds.manifest.summary import reason_rows
from submissions.report.workfolder import WorkFolder

COLUMNS = ("image_id", "label", "suggested", "label_probability", "suggested_probability", "note")


def write_relabel_csv(
    work: WorkFolder, suspects: Sequence[Mapping[str, Any]], *, written: str | None
) -> dict[str, Any]:
    """Write the CSV, unless it has edits that `prepare` has not seen; returns {"path", "digest", "is_kept"}.

    written  the digest of the one that the last report wrote, None where there was none
    An unedited file given to `prepare` changes nothing: `label` is the label that the image has. Images that were
    relabelled before stand first, since the file is the whole difference to DATA.
    """
    path = work.workspace.report / "relabel.csv"
    decided = _decided(work)
    table = pd.DataFrame([*decided, *map(_row, suspects)], columns=list(COLUMNS)).astype(str)
    data = csv_bytes(table.drop_duplicates("image_id"))
    is_unedited = not path.is_file() or digest(path.read_bytes()) in (written, digest(data))
    if not is_unedited and not _is_applied(path, work, decided):
        return {"path": str(path), "digest": written or "", "is_kept": True}
    write_bytes(path, data)
    return {"path": str(path), "digest": digest(data), "is_kept": False}


def _is_applied(path: Path, work: WorkFolder, decided: Sequence[tuple[str, ...]]) -> bool:
    """Whether the manifest has every label of the file: `prepare` was given it, and a new file repeats it."""
    try:
        edited = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("image_id")["label"]
    except (ValueError, KeyError, OSError):
        return False  # it is no such file any more
    train = work.manifest[work.manifest["split"] == "train"]
    now = dict(zip(train["image_id"], train["label"], strict=True))
    now |= {image_id: label for image_id, label, *_ in decided}
    return all(now.get(image_id) == label for image_id, label in edited.items())


def _row(suspect: Mapping[str, Any]) -> tuple[str, ...]:
    suggested, prob = suspect["top"][0]
    return suspect["image"]["image_id"], suspect["label"], suggested, f"{suspect['true_prob']:.4f}", f"{prob:.4f}", ""


def _decided(work: WorkFolder) -> list[tuple[str, ...]]:
    """The images that `prepare --relabel` changed: without them in it, the next file would undo that."""
    rows = reason_rows(work.manifest)
    rows = rows[rows["code"].isin([RELABELLED, UNLABELLED])]
    cells = (rows[name].tolist() for name in ("image_id", "label", "code", "detail"))
    return [
        (image_id, "" if code == UNLABELLED else label, "", "", "", str(Reason(code, detail)))
        for image_id, label, code, detail in zip(*cells, strict=True)
    ]
