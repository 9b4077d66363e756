"""Reads the columns of all images, leaves out those that teach nothing, refuses leaks, warns of what looks odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.analysis.test_likeness import Auc, crossfit_auc, deal_groups, is_far
from ensemble.columns.column_kinds import Column, make_column
from ensemble.settings import TableSettings
from folds.base.csvfile import CsvTable, read_csv, read_given
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from folds.find.layout import find_id_column
from folds.find.listing import Lookup
from folds.manifest.manifest import read_manifest, usable_rows
from folds.split.assign import SPLIT_HINT, Folds

TABLE_HINT = "`python run.py table CSV`, or `python run.py table TRAIN_CSV TEST_CSV`"
MANIFEST_COLUMNS = ("format", "mode", "width", "height", "bytes")
SETS = {"train": "training", "test": "test"}
LEAK_ERROR = 0.01  # of the label alone, by the image that is nearest in the column: a leak, and no luck
LEAK_GAIN = 0.1  # and at most so much of the error of the most frequent class
LEAST_KNOWN = 0.1  # share of the training images that must have a value
BINS = 64  # of a number's values: enough that a narrow range of times is seen


@dataclass(frozen=True)
class Table:
    """The columns beside N training images, in the order of `folds.csv`, and T test images, sorted by id.

    columns   those that are left out too    test_id (T,) str
    train (N, D), test (T, D) float64, NaN where missing: the D numbers of all columns in use    is_category (D,) bool
    aucs      of each column in use: how well it tells test from training images; None where there are too few
    warnings  what may make the scores too good; notes: what else is to be said
    """

    columns: tuple[Column, ...]
    test_id: np.ndarray
    train: np.ndarray
    test: np.ndarray
    is_category: np.ndarray
    aucs: dict[str, Auc | None]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def read_table(
    workspace: Workspace, folds: Folds, csvs: Sequence[Path], settings: TableSettings, *, seed: int
) -> Table:
    """The columns that the settings name, all by default.

    csvs  one for both sets, or one of the training and one of the test images; none with `settings.from_manifest`
    Raises UserError where the cells cannot be read or joined, no column is left, or one says the label by itself.
    """
    if not csvs and not settings.from_manifest:
        raise UserError("there are no columns to learn from", hint=f"{TABLE_HINT}, or `--from-manifest`")
    notes: list[str] = []
    manifest = read_manifest(workspace)
    tests = usable_rows(manifest, split="test").sort_values("image_id")
    ids = {"train": folds.image_id.tolist(), "test": tests["image_id"].tolist()}
    copies = manifest[manifest["split"] == "train"].set_index("image_id")["group"]
    if gone := [image_id for image_id in ids["train"] if image_id not in copies.index]:
        what = f"the folds are older than the manifest, which lacks {len(gone):,} of their images: {first_few(gone)}"
        raise UserError(what, hint=SPLIT_HINT)
    cells = _chosen_cells(manifest, ids, csvs, settings, notes)
    columns = [make_column(name, cells[name], folds.label) for name in cells.columns]
    used = [column for column in columns if not column.is_left_out]
    if not used:
        kinds = first_few([f"{column.name}: {column.kind}" for column in columns], most=10)
        raise UserError(f"no column is left to learn from{kinds and f': {kinds}'}", hint=TABLE_HINT)
    warnings = _leaks(used, folds, settings)
    group = np.concatenate([copies.loc[ids["train"]].to_numpy(), tests["group"].to_numpy()])
    aucs = {column.name: measure_test_auc(column, group, seed=seed) for column in used}
    warnings += [
        f"{name} has other values in the test images (AUC {auc[0]:.2f}, {auc[1]:.2f} to {auc[2]:.2f}; 0.5 is alike):"
        " what is learned from it may not hold there"
        for name, auc in aucs.items()
        if auc is not None and is_far(auc)
    ]
    if settings.from_manifest and (known := [column.name for column in used if column.name in MANIFEST_COLUMNS]):
        warnings.append(
            f"{first_few(known, most=5)} of the manifest say how the files were made: a leak that the private images"
            " may not share"
        )
    return Table(
        columns=tuple(columns),
        test_id=tests["image_id"].to_numpy(str),
        train=np.hstack([column.train for column in used]),
        test=np.hstack([column.test for column in used]),
        is_category=np.concatenate([np.full(column.train.shape[1], column.is_category) for column in used]),
        aucs=aucs,
        warnings=tuple(warnings),
        notes=tuple(notes),
    )


def _chosen_cells(
    manifest: pd.DataFrame,
    ids: Mapping[str, Sequence[str]],
    csvs: Sequence[Path],
    settings: TableSettings,
    notes: list[str],
) -> pd.DataFrame:
    """The columns of the CSVs and of the manifest as text, those of `--columns`: a row for each of `ids`, N + T."""
    parts = [_csv_cells(manifest, ids, csvs, notes)] if csvs else []
    if settings.from_manifest:
        twice = [name for part in parts for name in part.columns if name in MANIFEST_COLUMNS]
        if twice:
            raise UserError(
                f"{first_few(twice)} would be two columns, one of the CSV and one of the manifest",
                hint="give it another name in the CSV, or leave out `--from-manifest`",
            )
        known = manifest.set_index(["split", "image_id"])[list(MANIFEST_COLUMNS)].astype(str)
        parts.append(known.loc[[(one, name) for one in SETS for name in ids[one]]].reset_index(drop=True))
    cells = pd.concat(parts, axis=1)
    there = list(cells.columns)
    wanted = there if settings.columns is None else list(dict.fromkeys(settings.columns))
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise UserError(f"there is no column {first_few(unknown)}", hint=f"there are {first_few(there, most=20)}")
    return cells[wanted]


def _csv_cells(
    manifest: pd.DataFrame, ids: Mapping[str, Sequence[str]], csvs: Sequence[Path], notes: list[str]
) -> pd.DataFrame:
    """The cells of one CSV that has the images of both sets, or of two: of the training and of the test images.

    The columns that both sets have, a row for each of `ids`, '' where there is none. Refuses files that cannot be read,
    and those without a row of a training or of a test image.
    """
    if len(csvs) > len(SETS):
        raise UserError(f"one or two CSVs were wanted, and {len(csvs)} came", hint=TABLE_HINT)
    tables = [read_csv(read_given(path, hint=TABLE_HINT), name=path.name) for path in csvs]
    for table in tables:
        twice = [name for name in dict.fromkeys(table.header) if table.header.count(name) > 1]
        if twice:
            raise UserError(f"{table.name} has the column {first_few(twice)} more than once")
    paths = {}
    for one in SETS:
        own = manifest[manifest["split"] == one]
        paths[one] = dict(zip(own["image_id"], own["path"], strict=True))
    if len(tables) == 1:  # it has both sets
        found, tables = [_by_path(tables[0], paths, notes)] * 2, tables * 2
    else:
        found = [_by_path(table, {one: paths[one]}, notes) for one, table in zip(SETS, tables, strict=True)]
    for table, cells, other in zip(tables, found, reversed(found), strict=True):
        if len(only := cells.columns.difference(other.columns, sort=False)):
            notes.append(f"{first_few(list(only))} stands in {table.name} alone, and is left out")
    shared, parts = found[0].columns.intersection(found[1].columns, sort=False), []
    for (one, what), table, cells in zip(SETS.items(), tables, found, strict=True):
        wanted = [paths[one][image_id] for image_id in ids[one]]
        gaps = [image_id for image_id, path in zip(ids[one], wanted, strict=True) if path not in cells.index]
        if gaps and len(gaps) == len(wanted):
            raise UserError(f"{table.name} has no row for any of {len(gaps):,} {what} images", hint=TABLE_HINT)
        if gaps:
            notes.append(
                f"{table.name} has no row for {len(gaps):,} of {len(wanted):,} {what} images, and their values are"
                f" missing: {first_few(gaps)}"
            )
        parts.append(cells[shared].reindex(wanted, fill_value=""))
    return pd.concat(parts, ignore_index=True)


def _by_path(table: CsvTable, paths: Mapping[str, Mapping[str, str]], notes: list[str]) -> pd.DataFrame:
    """The cells by the path of their image, without the ids; a note where rows name no image.

    paths  by image_id, of each set that the table may name
    Refuses a table without ids, an id that fits several images, and two rows of an image that say two things.
    """
    lookups = [Lookup.of_images(own, own.values()) for own in paths.values()]
    what = "an image" if len(paths) > 1 else f"a {SETS[next(iter(paths))]} image"
    id_column = find_id_column(table, *lookups, what=what)

    def path_of(image: str) -> str | None:
        fit = [own[image] for own in paths.values() if image in own]  # by its very id, else by a name of it
        fit = fit or [file.path for lookup in lookups if image and (file := lookup.find(image))]
        if len(fit) > 1:
            raise UserError(f"the id {image} of {table.name} fits {fit[0]} and {fit[1]}", hint=TABLE_HINT)
        return fit[0] if fit else None

    cells = pd.DataFrame(table.rows, columns=list(table.header), dtype=str)
    image = cells.pop(id_column)
    path = image.map(path_of)
    if strangers := image[path.isna()].tolist():
        notes.append(f"{len(strangers):,} rows of {table.name} name no image here: {first_few(strangers)}")
    cells, image = cells[path.notna()].set_index(path.dropna()), image[path.notna()]
    first = cells[~cells.index.duplicated()]
    before = first.loc[cells.index]  # of each row the first one of its image
    for row, column in np.argwhere(cells.to_numpy() != before.to_numpy())[:1]:
        one, other = (str(part.iat[row, column]) for part in (before, cells))
        raise UserError(f"{table.name} gives {image.iat[row]} two values of {cells.columns[column]}: {one} and {other}")
    return first


def _leaks(used: Sequence[Column], folds: Folds, settings: TableSettings) -> list[str]:
    """A warning for each column that says the label by itself and that the user names; refuses others."""
    most_frequent = 1 - np.bincount(folds.target).max() / len(folds.target)
    errors = {column.name: label_error(column, folds.target, folds.fold) for column in used}
    limit = min(LEAK_ERROR, LEAK_GAIN * most_frequent)
    leaks = [name for name, error in errors.items() if error is not None and error <= limit]
    if not leaks or settings.columns is not None:
        return [f"{name} says the label by itself: a leak, unless private images have it too" for name in leaks]
    rest = ",".join(name for name in errors if name not in leaks)
    raise UserError(
        f"{first_few(leaks)} says the label by itself: a leak, unless private images have it too",
        hint=f"`--columns {rest or ','.join(leaks)}` {'leaves it out' if rest else 'takes it all the same'}",
    )


def label_error(column: Column, target: np.ndarray, fold: np.ndarray) -> float | None:
    """The error where each training image gets the label of the nearest one of other folds, by this column alone.

    target, fold (N,) int64. Of the parts of a date the one that errs least. Images without a value are left out; None
    where fewer than LEAST_KNOWN have one.
    """
    errors = list[float]()
    for value in column.train.T:
        images = pd.DataFrame({"value": value, "target": target, "fold": fold}).dropna()
        if len(images) < LEAST_KNOWN * len(target) or images["fold"].nunique() < 2:
            return None
        images = images.sort_values("value", kind="stable")
        pairs = [
            pd.merge_asof(own, images[images["fold"] != held], on="value", direction="nearest")
            for held, own in images.groupby("fold")
        ]
        said = pd.concat(pairs)
        errors.append(float((said["target_x"] != said["target_y"]).mean()))
    return min(errors)


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
