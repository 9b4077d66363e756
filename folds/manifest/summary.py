"""Counts what a competitor wants to know of a manifest: reasons, copies, leaks, the sizes of the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from folds.base.errors import counted, first_few
from folds.find.dataset import MOST_LACKING
from folds.find.reasons import NO_DECODER, NO_FILE, NOT_LISTED, TWO_LABELS, from_cell
from folds.manifest.duplicates import COPY, KINDS
from folds.manifest.manifest import LEFT_OUT, UNREADABLE, USABLE, natural_key


@dataclass(frozen=True)
class ReasonCount:
    """One kind of reason: its code, how many training and test files have it, their status, their paths in order."""

    kind: str
    status: str
    train: int
    test: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class CopyCount:
    """Images that have a copy, by how close it is; an image counts once in its line, under its closest copy."""

    what: str
    exact: int
    near: int
    mirrored: int
    paths: tuple[str, ...]


def status_counts(manifest: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """(training files, test files) by status: usable, left out, unreadable."""
    table = pd.crosstab(manifest["status"], manifest["split"])
    table = table.reindex(index=[USABLE, LEFT_OUT, UNREADABLE], columns=["train", "test"], fill_value=0)
    return {status: (train, test) for status, train, test in table.itertuples()}


def reason_rows(manifest: pd.DataFrame) -> pd.DataFrame:
    """A row per reason of a file: image_id, path, split, label, status, code, detail."""
    rows = manifest.loc[manifest["reasons"] != "", ["image_id", "path", "split", "label", "status", "reasons"]]
    rows = rows.assign(reasons=rows["reasons"].map(from_cell)).explode("reasons", ignore_index=True)
    code, detail = ([pair[at] for pair in rows["reasons"]] for at in (0, 1))
    return rows.drop(columns="reasons").assign(code=code, detail=detail)


def reasons(manifest: pd.DataFrame) -> list[ReasonCount]:
    """The kinds of reasons, those that cost a file first, then the most frequent; copies are counted apart."""
    table = reason_rows(manifest)
    found = []
    for (status, code), rows in table[~table["code"].isin(COPY.values())].groupby(["status", "code"], sort=True):
        train = int((rows["split"] == "train").sum())
        found.append(ReasonCount(str(code), str(status), train, len(rows) - train, tuple(rows["path"])))
    rank = {UNREADABLE: 0, LEFT_OUT: 1, USABLE: 2}
    return sorted(found, key=lambda one: (rank[one.status], -len(one.paths), one.kind))


def decoder_notes(manifest: pd.DataFrame) -> list[str]:
    """A sentence for each format that nothing here reads: how many files have it, and what reads it."""
    table = reason_rows(manifest)
    details = table.loc[table["code"] == NO_DECODER, "detail"].value_counts(sort=False)
    return [
        f"{counted(count, 'file is', 'files are')} {detail}; then `python run.py prepare DATA` again"
        for detail, count in details.items()
    ]


def lacking_files(manifest: pd.DataFrame) -> str | None:
    """A sentence where more than MOST_LACKING of the training images that a CSV names have no file; mostly None."""
    train = manifest[manifest["split"] == "train"]
    lacks, is_strange = (train["reasons"].str.contains(code, regex=False) for code in (NO_FILE, NOT_LISTED))
    named, lacking = int((~is_strange).sum()), train.loc[lacks, "image_id"].tolist()
    if len(lacking) <= MOST_LACKING * named:
        return None
    return (
        f"{len(lacking):,} of the {named:,} training images that the CSV names have no file, and nothing is trained on"
        f" them: {first_few(lacking)}; put the files there, or name their folder with `--train-folder NAME`"
    )


def copy_counts(manifest: pd.DataFrame) -> list[CopyCount]:
    """Copies inside a class, under two labels, between train and test, and inside the test images."""
    table = reason_rows(manifest)
    is_twice = table["path"].isin(set(table.loc[table["code"] == TWO_LABELS, "path"]))
    is_train = table["split"] == "train"
    in_train, in_test = (table["code"].isin([COPY[kind, where] for kind in KINDS]) for where in ("train", "test"))
    found = {
        "copies among the training images": table[is_train & in_train & ~is_twice],
        "the same picture under two labels": table[is_train & in_train & is_twice],
        "training images that are also test images": table[is_train & in_test],
        "test images that are also training images": table[~is_train & in_train],
        "copies inside the test images": table[~is_train & in_test],
    }
    counts = []
    for what, rows in found.items():
        exact, near, mirrored = (int(rows["code"].isin([COPY[k, "train"], COPY[k, "test"]]).sum()) for k in KINDS)
        counts.append(CopyCount(what, exact, near, mirrored, tuple(rows["path"])))
    return counts


def class_sizes(manifest: pd.DataFrame) -> pd.Series:
    """Usable training images of each class, fewest first, then in natural order; classes that lost all have 0."""
    train = manifest[(manifest["split"] == "train") & (manifest["label"] != "")]
    counts = (train["status"] == USABLE).groupby(train["label"]).sum().astype("int64")
    return counts.loc[sorted(counts.index, key=lambda label: (counts[label], natural_key(label)))]


def quartiles(sizes: pd.Series) -> tuple[int, ...]:
    """Minimum, lower quartile, median, upper quartile, maximum."""
    return tuple(np.quantile(sizes.to_numpy(), [0, 0.25, 0.5, 0.75, 1], method="nearest").tolist())
