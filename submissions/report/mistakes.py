"""Section 4, the mistakes: errors by class, confused pairs, the hardest images, labels that may be wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from folds.base.csvfile import read_csv
from folds.base.errors import UserError
from folds.base.workspace import digest, read_json, write_bytes
from folds.find.reasons import RELABELLED, UNLABELLED, Reason
from folds.manifest.manifest import csv_bytes
from folds.manifest.summary import reason_rows
from submissions.report.data import UNEVEN
from submissions.report.plots import points
from submissions.report.workfolder import Image, Oof, WorkFolder
from submissions.settings import ReportSettings

TYPICAL, CONFUSED = 2, 3  # pictures of a class, and of those taken for another, beside a confused pair
NAMED = 6  # classes whose names stand in the chart
WORST = 12  # classes in the table
COLUMNS = ("image_id", "label", "suggested", "label_probability", "suggested_probability", "note")  # of relabel.csv


def mistakes_section(work: WorkFolder, oof: Oof, settings: ReportSettings) -> dict[str, Any]:
    """What the blend (or the best run) gets wrong. suspects: all of them, most suspicious first."""
    missed = {"top1_error": oof.rank >= 1, "top3_error": oof.rank >= 3}
    by_class = pd.DataFrame(missed).groupby(oof.rows.target)
    labels = [oof.rows.classes[c] for c in np.unique(oof.rows.target)]
    classes = by_class.mean().assign(label=labels, images=by_class.size(), missed=by_class["top3_error"].sum())
    errors = classes["top3_error"].to_numpy()
    worst = np.argsort(-errors, kind="stable")[:NAMED].tolist()
    chart = points(
        "class-errors",
        "Top-3 error of each class",
        rows=classes[["label", "images", "top3_error"]].to_records(index=False).tolist(),
        x_title="training images of the class",
        y_title="top-3 error",
        is_log=bool(classes["images"].max() >= UNEVEN * classes["images"].min()),
        named=[i for i in worst if errors[i] > 0],
    )
    table = classes[classes["missed"] > 0].sort_values(["top3_error", "missed"], ascending=False, kind="stable")
    hardest = np.argsort(oof.true_prob, kind="stable")
    hardest = hardest[oof.rank[hardest] >= 1][: settings.hardest_images]
    return {
        "of": oof.name,
        "is_blend": oof.is_blend,
        "images": len(oof.rows),
        "top1_error": float(missed["top1_error"].mean()),
        "chart": chart,
        "worst": table[:WORST].to_dict("records"),
        "pairs": list(_pairs(work, oof, settings.confused_pairs)),
        "hardest": [_predicted(work, oof, row) for row in hardest.tolist()],
        "missed": int(missed["top3_error"].sum()),
        "suspects": [_predicted(work, oof, row) for row in suspected_labels(oof.probs, oof.rows.target).tolist()],
    }


def suspected_labels(probs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rows whose label is probably wrong, those first whose label lies furthest behind the top class. (S,) int

    probs   (N, C) of networks that have not trained on the image    target  (N,) int in [0, C)
    A row counts where its top class is another one, with at least the confidence that this class has where it is right.
    Source: Northcutt, Jiang, Chuang 2021, Confident Learning.
    """
    from cleanlab.filter import find_label_issues  # it takes seconds to import

    present = np.unique(target)
    if len(present) < 2:
        return np.empty(0, np.int64)
    narrow = probs[:, present].astype(np.float64)  # a class without any image here has no threshold
    narrow /= np.maximum(narrow.sum(axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find_label_issues(
            np.searchsorted(present, target),
            narrow,
            filter_by="confident_learning",
            return_indices_ranked_by="normalized_margin",
            n_jobs=1,
        )
    rows = np.asarray(found, dtype=np.int64)
    return rows[probs[rows].argmax(axis=1) != target[rows]]


def _predicted(work: WorkFolder, oof: Oof, row: int) -> dict[str, Any]:
    """An image with its label, the label's probability, and the three best classes with theirs."""
    classes, probs, target = oof.rows.classes, oof.probs[row], int(oof.rows.target[row])
    return {
        "image": work.image(str(oof.rows.image_id[row])),
        "label": classes[target],
        "true_prob": float(probs[target]),
        "top": [(classes[c], float(probs[c])) for c in oof.top[row].tolist()],
    }


def _pairs(work: WorkFolder, oof: Oof, most: int) -> Iterator[dict[str, Any]]:
    """The pairs of classes with most images whose top class is the other one, both directions summed."""
    target, first, n = oof.rows.target, oof.top[:, 0], len(oof.rows.classes)
    wrong = np.flatnonzero(first != target)
    low, high = np.minimum(target, first)[wrong], np.maximum(target, first)[wrong]
    pairs, counts = np.unique(low * n + high, return_counts=True)  # a square of all classes may not fit into memory
    for pair in pairs[np.argsort(-counts, kind="stable")][:most].tolist():
        a, b = divmod(pair, n)
        there, back = (target == a) & (first == b), (target == b) & (first == a)
        taken = np.flatnonzero(there | back)
        taken = taken[np.argsort(oof.true_prob[taken], kind="stable")][:CONFUSED]
        yield {
            "one": oof.rows.classes[a],
            "other": oof.rows.classes[b],
            "one_as_other": int(there.sum()),
            "other_as_one": int(back.sum()),
            "confused": [_predicted(work, oof, row) for row in taken.tolist()],
            "typical_one": _typical(work, oof, a),
            "typical_other": _typical(work, oof, b),
        }


def _typical(work: WorkFolder, oof: Oof, c: int) -> list[Image]:
    """The images of a class whose label has the highest probability."""
    rows = np.flatnonzero(oof.rows.target == c)
    rows = rows[np.argsort(-oof.true_prob[rows], kind="stable")][:TYPICAL]
    return [work.image(str(oof.rows.image_id[row])) for row in rows.tolist()]


def write_relabel_csv(work: WorkFolder, suspects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the CSV, unless it has edits that `prepare` has not seen; returns {"path", "digest", "is_kept"}.

    An unedited file given to `prepare` changes nothing: `label` is the label that the image has. Images that were
    relabelled before stand first, since the file is the whole difference to DATA.
    """
    path = work.workspace.report / "relabel.csv"
    try:
        written = str(read_json(work.workspace.report / "report.json", hint="")["relabel"]["digest"])
    except (UserError, KeyError, TypeError):  # no report is there that wrote one
        written = ""
    rows = reason_rows(work.manifest)
    rows = rows[rows["code"].isin([RELABELLED, UNLABELLED])]
    decided = [  # without the images that `prepare --relabel` changed, the next file would undo that
        (image_id, "" if code == UNLABELLED else label, "", "", "", str(Reason(code, detail)))
        for image_id, label, code, detail in rows[["image_id", "label", "code", "detail"]].itertuples(index=False)
    ]
    found = [
        (one["image"]["image_id"], one["label"], label, f"{one['true_prob']:.4f}", f"{prob:.4f}", "")
        for one in suspects
        for label, prob in one["top"][:1]
    ]
    table = pd.DataFrame([*decided, *found], columns=list(COLUMNS)).astype(str)
    data = csv_bytes(table.drop_duplicates("image_id"))
    is_edited = path.is_file() and digest(path.read_bytes()) not in (written, digest(data))
    is_kept = is_edited and not _is_applied(path, work, decided)
    if not is_kept:
        write_bytes(path, data)
    return {"path": str(path), "digest": written if is_kept else digest(data), "is_kept": is_kept}


def _is_applied(path: Path, work: WorkFolder, decided: Sequence[tuple[str, ...]]) -> bool:
    """Whether the manifest has every label of the file: `prepare` was given it, and a new file repeats it."""
    try:
        table = read_csv(path.read_bytes(), name=path.name)
        edited = zip(table.column("image_id"), table.column("label"), strict=True)
    except (UserError, OSError):
        return False  # it is no such file any more
    train = work.manifest[work.manifest["split"] == "train"]
    now = dict(zip(train["image_id"], train["label"], strict=True))
    now |= {image_id: label for image_id, label, *_ in decided}
    return all(now.get(image_id) == label for image_id, label in edited)
