"""Reads the groups and the folds that the user gives: a column of a CSV, or a pattern for the paths of the images."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from folds.base.csvfile import ID_NAMES, CsvTable, pick_column, read_csv, usual_column
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from folds.find.layout import names_files
from folds.find.listing import File
from folds.find.lookup import Lookup
from folds.manifest.manifest import PREPARE_HINT, labels_path, read_manifest, usable_rows
from folds.settings import MOST_FOLDS, SplitSettings
from folds.split.classes import class_order


def training_images(workspace: Workspace, settings: SplitSettings) -> tuple[pd.DataFrame, list[str]]:
    """The usable rows of the manifest that are to be split, and what is to be said of the user's groups and folds.

    Column `group` numbers what must not be parted: images are joined that are copies, or have one group of the user's,
    and whatever is joined by a chain of both. Column `fold` is there where the user gives the folds, 0 to K-1.
    Raises UserError where a column or a value lacks, a pattern fits nothing, or groups and folds contradict each other.
    """
    manifest = read_manifest(workspace)
    images = usable_rows(manifest, split="train")
    columns = [name for name in (settings.group_column, settings.fold_column) if name is not None]
    if settings.groups and not columns:
        raise UserError(f"`--groups {settings.groups}` needs a column to read", hint="name it with `--group-column`")
    cells = _cells(workspace, settings, manifest, columns) if columns else {}
    groups, notes = {}, []
    if settings.group_column is not None:
        groups[f"column {settings.group_column}"] = images["path"].map(cells[settings.group_column]).fillna("")
    if settings.group_regex is not None:
        groups["`--group-regex`"] = _matches(images["path"], settings.group_regex)
    if settings.fold_column is not None:
        given = images["path"].map(cells[settings.fold_column]).fillna("")
        notes += _refuse_bad_folds(images, given, settings, groups)
        order = class_order(given)  # natural: fold 2 before fold 10
        images["fold"] = given.map({name: number for number, name in enumerate(order)}).astype(np.int64)
        if order != tuple(map(str, range(len(order)))):
            names = [f"{number} is {name}" for number, name in enumerate(order)]
            notes.append(f"folds by column {settings.fold_column}: {first_few(names, most=10)}")
    for what, values in groups.items():
        alone = images.loc[values == "", "image_id"].tolist()
        if len(alone) == len(images):
            raise UserError(f"no training image has a group by {what}")
        if alone:
            notes.append(
                f"{_images(len(alone))} without a group by {what}, each a group of its own: {first_few(alone)}"
            )
    if groups:
        images["group"] = _joined(images["group"], list(groups.values()))
        largest = images["group"] == images["group"].value_counts().idxmax()
        names = sorted({value for values in groups.values() for value in values[largest]} - {""})
        notes.append(
            f"{images['group'].nunique():,} groups by {' and '.join(groups)} and by copies; the largest has "
            f"{_images(int(largest.sum()))}: {first_few(names)}"
        )
    return images, notes


def _cells(
    workspace: Workspace, settings: SplitSettings, manifest: pd.DataFrame, columns: list[str]
) -> dict[str, dict[str, str]]:
    """Of each column the cells by the path of their image; images that the CSV does not name are left out."""
    path = settings.groups or labels_path(workspace)
    try:
        table = read_csv(path.read_bytes(), name=str(path))
    except OSError as err:
        if settings.groups is None:
            message = f"DATA had no CSV of labels when it was prepared, so there is no column {first_few(columns)}"
            raise UserError(message, hint=f"`--groups CSV` names one; or once more {PREPARE_HINT}") from err
        raise UserError(f"cannot read {path}: {err.strerror or err}", hint="`--groups CSV`") from err
    cells = [table.column(pick_column(table, (), what="", given=name, flag="")) for name in columns]
    train = manifest[manifest["split"] == "train"]
    image_id, image_path = train["image_id"].iloc[0], train["path"].iloc[0]
    lookup = Lookup(map(File, train["path"]), image_path.removesuffix(image_id).rstrip("/"))
    ids = table.column(_id_column(table, lookup))
    found: dict[str, dict[str, str]] = {name: {} for name in columns}
    for image, *values in zip(ids, *cells, strict=True):
        file = lookup.find(image) if image else None
        if file is None:
            continue
        for name, value in zip(columns, values, strict=True):
            if found[name].setdefault(file.path, value) != value:
                raise UserError(f"{path} gives {image} two values of {name}: {found[name][file.path]} and {value}")
    return found


def _id_column(table: CsvTable, lookup: Lookup) -> str:
    """The column that names the training images: the one with the usual name, else the first that does."""
    usual = usual_column(table.header, ID_NAMES)
    for name in [*([usual] if usual else []), *table.header]:
        if names_files(table.column(name), lookup):
            return name
    raise UserError(
        f"no column of {table.name} names a training image: it has {first_few(table.header, most=10)}",
        hint="an id is the image's path below the training folder, as in manifest.csv, with or without extension",
    )


def _matches(paths: pd.Series, pattern: str) -> pd.Series:
    """The pattern's first group in each path, or all that it fits where it has none; '' where it does not fit."""
    try:
        regex = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as err:
        raise UserError(f"`--group-regex {pattern}` is no regular expression: {err}") from err
    found = [regex.search(path) for path in paths]
    values = [(match[min(regex.groups, 1)] or "") if match else "" for match in found]
    if len(values) and not any(values):
        raise UserError(
            f"`--group-regex {pattern}` matches none of {len(values):,} paths, such as {paths.iloc[0]}",
            hint="it is searched in the image's path below DATA; its first ( ) is the group",
        )
    return pd.Series(values, index=paths.index, dtype=str)


def _refuse_bad_folds(
    images: pd.DataFrame, fold: pd.Series, settings: SplitSettings, groups: dict[str, pd.Series]
) -> list[str]:
    """Refuse folds that are not 2 to 100, leave an image out, or part a group of the user's; report parted copies."""
    column = f"column {settings.fold_column}"
    lacking = images.loc[fold == "", "image_id"].tolist()
    if lacking:
        raise UserError(
            f"{_images(len(lacking))} without a fold in {column}: {first_few(lacking)}",
            hint="give each a fold, or leave it out with an empty label by `prepare DATA --relabel FILE`",
        )
    n_folds = fold.nunique()
    if len(fold) and not 2 <= n_folds <= MOST_FOLDS:
        raise UserError(
            f"{column} has {n_folds:,} folds, and 2 to {MOST_FOLDS} are wanted",
            hint=f"`--group-column {settings.fold_column}` keeps images together that have one value",
        )
    if settings.n_folds not in (SplitSettings.n_folds, n_folds):
        raise UserError(f"`--n-folds {settings.n_folds}` is wanted, and {column} has {n_folds:,} folds")
    for what, values in groups.items():
        parted = values[values != ""][fold.groupby(values).transform("nunique") > 1].unique().tolist()
        if parted:
            where = sorted(set(fold[values == parted[0]]))
            raise UserError(
                f"{column} parts {len(parted):,} of the groups by {what}: {first_few(parted)}; "
                f"{parted[0]} stands in folds {first_few(where)}",
                hint="mend one of them, or give the folds alone",
            )
    parted_copies = images.loc[fold.groupby(images["group"]).transform("nunique") > 1, "image_id"].tolist()
    if not parted_copies:
        return []
    return [
        f"the folds of {column} part {_images(len(parted_copies))} from their copies, so scores may be too good: "
        f"{first_few(parted_copies)}"
    ]


def _joined(copies: pd.Series, groups: list[pd.Series]) -> np.ndarray:
    """Numbers that are equal for images joined by copies, by a group, or by a chain of both. (N,) int64"""
    first, n = [], len(copies)  # an edge leads from each image to the first one that has its number or its value
    for values in [copies, *groups]:
        known = values != ""
        first.append(
            np.where(known, pd.Series(np.arange(n)).groupby(values.to_numpy()).transform("first"), np.arange(n))
        )
    start, stop = np.tile(np.arange(n), len(first)), np.concatenate(first)
    edges = coo_array((np.ones(len(start), bool), (start, stop)), shape=(n, n))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _images(count: int) -> str:
    return "1 training image" if count == 1 else f"{count:,} training images"
