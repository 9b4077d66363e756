"""Reads the columns of all images, leaves out those that teach nothing, refuses leaks, warns of what looks odd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from ensemble.analysis.test_likeness import FAR, crossfit_auc, deal_groups
from ensemble.columns.column_kinds import Column, make_column
from ensemble.columns.read_cells import MANIFEST_COLUMNS, TABLE_HINT, Cells, csv_cells, manifest_cells
from ensemble.settings import TableSettings
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, usable_rows
from folds.split.assign import Folds

Auc: TypeAlias = tuple[float, float, float]  # and the 95% interval

LEAK_ERROR = 0.01  # of the label alone, by the image that is nearest in the column: a leak, and no luck
LEAK_GAIN = 0.1  # and at most so much of the error of the most frequent class
LEAST_KNOWN = 0.5  # share of the training images that must have a value
BINS = 64  # of a number's values: enough that a narrow range of times is seen


@dataclass(frozen=True)
class Table:
    """The columns beside N training images, in the order of `folds.csv`, and T test images, sorted by id.

    columns   those that are left out too    test_id (T,) str
    aucs      of each column in use: how well it tells test from training images; None where there are too few
    warnings  what may make the scores too good; notes: what else is to be said
    """

    columns: tuple[Column, ...]
    test_id: np.ndarray
    aucs: dict[str, Auc | None]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def used(self) -> list[Column]:
        return [column for column in self.columns if not column.is_left_out]

    @property
    def train(self) -> np.ndarray:
        """(N, D) float64, NaN where missing: the D numbers of all columns in use."""
        return np.hstack([column.train for column in self.used])

    @property
    def test(self) -> np.ndarray:
        """(T, D) float64"""
        return np.hstack([column.test for column in self.used])

    @property
    def is_category(self) -> np.ndarray:
        """(D,) bool"""
        return np.concatenate([np.full(column.train.shape[1], column.is_category) for column in self.used])


def read_table(
    workspace: Workspace, folds: Folds, csvs: Sequence[Path], settings: TableSettings, *, seed: int
) -> Table:
    """The columns that the settings name, all by default.

    csvs  one for both sets, or one of the training and one of the test images; none with `settings.from_manifest`
    Raises UserError where the cells cannot be read or joined, no column is left, or one says the label by itself.
    """
    if not csvs and not settings.from_manifest:
        raise UserError("there are no columns to learn from", hint=f"{TABLE_HINT}, or `--from-manifest`")
    manifest = read_manifest(workspace)
    tests = usable_rows(manifest, split="test").sort_values("image_id")
    ids = {"train": folds.image_id, "test": tests["image_id"].to_numpy(str)}
    read = [csv_cells(csvs, manifest, ids)] if csvs else []
    cells = reduce(Cells.beside, [*read, *([manifest_cells(manifest, ids)] if settings.from_manifest else [])])
    cells = _chosen(cells, settings)
    columns = [make_column(name, cells.train[name], cells.test[name], folds.label) for name in cells.train.columns]
    used = [column for column in columns if not column.is_left_out]
    if not used:
        kinds = first_few([f"{column.name}: {column.kind}" for column in columns], most=10)
        raise UserError(f"no column is left to learn from{kinds and f': {kinds}'}", hint=TABLE_HINT)
    warnings = _leaks(used, folds, settings)
    copies = manifest[manifest["split"] == "train"].set_index("image_id")["group"].loc[folds.image_id]
    group = np.concatenate([copies.to_numpy(), tests["group"].to_numpy()])
    aucs = {column.name: measure_test_auc(column, group, seed=seed) for column in used}
    for name, auc in aucs.items():
        if auc is not None and is_far(auc):
            warnings.append(
                f"{name} has other values in the test images (AUC {auc[0]:.2f}, {auc[1]:.2f} to {auc[2]:.2f}; 0.5 is"
                " alike): what is learned from it may not hold there"
            )
    if settings.from_manifest and (known := [column.name for column in used if column.name in MANIFEST_COLUMNS]):
        warnings.append(
            f"{first_few(known, most=5)} of the manifest say how the files were made: a leak that the private images"
            " may not share"
        )
    return Table(tuple(columns), ids["test"], aucs, tuple(warnings), cells.notes)


def _chosen(cells: Cells, settings: TableSettings) -> Cells:
    """Those of `--columns`. Refuses names that are none."""
    there = list(cells.train.columns)
    wanted = there if settings.columns is None else list(dict.fromkeys(settings.columns))
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise UserError(f"there is no column {first_few(unknown)}", hint=f"there are {first_few(there, most=20)}")
    return Cells(cells.train[wanted], cells.test[wanted], cells.notes)


def _leaks(used: Sequence[Column], folds: Folds, settings: TableSettings) -> list[str]:
    """A warning for each column that says the label by itself and that the user names; refuses others."""
    leaks = [column.name for column in used if is_leak(column, folds.target, folds.fold)]
    if not leaks or settings.columns is not None:
        return [f"{name} says the label by itself: a leak, unless private images have it too" for name in leaks]
    rest = ",".join(column.name for column in used if column.name not in leaks)
    raise UserError(
        f"{first_few(leaks)} says the label by itself: a leak, unless private images have it too",
        hint=f"`--columns {rest or ','.join(leaks)}` {'leaves it out' if rest else 'takes it all the same'}",
    )


def label_error(column: Column, target: np.ndarray, fold: np.ndarray) -> float | None:
    """The error where each training image gets the label of the nearest one of other folds, by this column alone.

    target, fold (N,) int64. Images without a value are left out; None where that are most of them.
    """
    images = pd.DataFrame({"value": column.train[:, 0], "target": target, "fold": fold}).dropna()
    if len(images) < LEAST_KNOWN * len(target) or images["fold"].nunique() < 2:
        return None
    images = images.sort_values("value", kind="stable")
    pairs = [
        pd.merge_asof(own, images[images["fold"] != held], on="value", direction="nearest")
        for held, own in images.groupby("fold")
    ]
    said = pd.concat(pairs)
    return float((said["target_x"] != said["target_y"]).mean())


def is_leak(column: Column, target: np.ndarray, fold: np.ndarray) -> bool:
    """Whether the column says the label by itself."""
    error = label_error(column, target, fold)
    most_frequent = 1 - np.bincount(target).max() / len(target)
    return error is not None and error <= min(LEAK_ERROR, LEAK_GAIN * most_frequent)


def measure_test_auc(column: Column, group: np.ndarray, *, seed: int) -> Auc | None:
    """How well the column tells test from training images: an AUC of 0.5 to 1, and its 95% interval.

    group (N + T,) int64: copies, of training images first. By the share of test images among the other images of the
    same bin; a value that is missing is a bin too. None where there are too few images.
    """
    is_test = np.arange(len(group)) >= len(column.train)
    fold = deal_groups(group, is_test, np.random.default_rng([seed, 44])) if is_test.any() else None
    if fold is None:
        return None
    own = np.concatenate([column.train[:, 0], column.test[:, 0]])
    known = own[~np.isnan(own)]
    edges = np.unique(known if column.is_category else np.quantile(known, np.linspace(0, 1, BINS)))
    bins = np.where(np.isnan(own), len(edges) + 1, np.searchsorted(edges, own))
    odds = np.empty(len(own))
    for held in np.unique(fold):
        seen = fold != held
        test, train = (np.bincount(bins[seen & part], minlength=len(edges) + 2) + 1.0 for part in (is_test, ~is_test))
        odds[fold == held] = np.log(test / train)[bins[fold == held]]
    return crossfit_auc(odds, is_test, fold, group, noise=1.0)  # as where the sets are alike: the widest interval


def is_far(auc: Auc) -> bool:
    """Beyond chance, and so far that what the trees learn from the column may not hold for the test images."""
    return auc[1] > 0.5 and auc[0] >= FAR
