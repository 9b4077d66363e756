"""Counts what a competitor wants to know of a manifest: reasons, copies, leaks, the sizes of the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from folds.manifest.manifest import LEFT_OUT, UNREADABLE, USABLE
from folds.pixels.decode import NO_DECODER
from folds.split.classes import natural_key


@dataclass(frozen=True)
class Reason:
    """One kind of reason: how many training and test files have it, their fate, and their paths in order."""

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

    @property
    def total(self) -> int:
        return self.exact + self.near + self.mirrored


def status_counts(manifest: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """(training files, test files) by status: usable, left out, unreadable."""
    table = manifest.groupby(["status", "split"]).size()
    return {
        status: (int(table.get((status, "train"), 0)), int(table.get((status, "test"), 0)))
        for status in (USABLE, LEFT_OUT, UNREADABLE)
    }


def reasons(manifest: pd.DataFrame) -> list[Reason]:
    """The kinds of reasons, those that cost a file first, then the most frequent; copies are `copy_counts`' matter."""
    clauses = _clauses(manifest)
    clauses = clauses[~clauses["kind"].str.contains(" copy in ", regex=False)]
    found = []
    for (status, kind), rows in clauses.groupby(["status", "kind"], sort=True):
        train = int((rows["split"] == "train").sum())
        found.append(Reason(str(kind), str(status), train, len(rows) - train, tuple(rows["path"])))
    rank = {UNREADABLE: 0, LEFT_OUT: 1, USABLE: 2}
    return sorted(found, key=lambda reason: (rank[reason.status], -len(reason.paths), reason.kind))


def decoder_notes(manifest: pd.DataFrame) -> list[str]:
    """A sentence for each format that nothing here reads: how many files have it, and what reads it."""
    clauses = manifest.loc[manifest["reason"].str.contains(f"{NO_DECODER}: ", regex=False), "reason"]
    details = clauses.str.extract(rf"{NO_DECODER}: ([^;]+)")[0].value_counts(sort=False)
    return [
        f"{count:,} {'file is' if count == 1 else 'files are'} {detail}; then `python run.py prepare DATA` again"
        for detail, count in details.items()
    ]


def copy_counts(manifest: pd.DataFrame) -> list[CopyCount]:
    """Copies inside a class, under two labels, between train and test, and inside the test images."""
    clauses = _clauses(manifest)
    two_labels = set(clauses.loc[clauses["kind"] == "two labels", "path"])
    is_twice = clauses["path"].isin(two_labels)
    is_train, in_train = clauses["split"] == "train", clauses["kind"].str.endswith(" copy in train")
    in_test = clauses["kind"].str.endswith(" copy in test")
    return [
        _copy_count("copies inside a class", clauses[is_train & in_train & ~is_twice]),
        _copy_count("the same picture under two labels", clauses[is_train & in_train & is_twice]),
        _copy_count("training images that are also test images", clauses[is_train & in_test]),
        _copy_count("test images that are also training images", clauses[~is_train & in_train]),
        _copy_count("copies inside the test images", clauses[~is_train & in_test]),
    ]


def class_sizes(manifest: pd.DataFrame) -> pd.Series:
    """Usable training images of each class, fewest first, then in natural order; classes that lost all have 0."""
    train = manifest[(manifest["split"] == "train") & (manifest["label"] != "")]
    counts = (train["status"] == USABLE).groupby(train["label"]).sum().astype("int64")
    return counts.loc[sorted(counts.index, key=lambda label: (counts[label], natural_key(label)))]


def quartiles(sizes: pd.Series) -> tuple[int, int, int, int, int]:
    """Minimum, lower quartile, median, upper quartile, maximum."""
    low, first, middle, third, high = np.quantile(sizes.to_numpy(), [0, 0.25, 0.5, 0.75, 1], method="nearest").tolist()
    return low, first, middle, third, high


def _clauses(manifest: pd.DataFrame) -> pd.DataFrame:
    """A row per clause of a reason: path, split, status, kind."""
    rows = manifest.loc[manifest["reason"] != "", ["path", "split", "status", "reason"]]
    clauses = rows.assign(kind=rows["reason"].str.split("; ")).explode("kind")
    return clauses.assign(kind=clauses["kind"].str.split(":", n=1).str[0]).drop(columns="reason")


def _copy_count(what: str, clauses: pd.DataFrame) -> CopyCount:
    kinds = clauses["kind"].str.split(" ", n=1).str[0].value_counts()
    exact, near, mirrored = (int(kinds.get(kind, 0)) for kind in ("exact", "near", "mirrored"))
    return CopyCount(what, exact, near, mirrored, tuple(clauses["path"]))
