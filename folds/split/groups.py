"""Reads the groups and the folds that the user gives: a column of a CSV, or a pattern for the paths of the images."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sized

import numpy as np
import pandas as pd

from folds.base.csvfile import read_csv, read_given
from folds.base.errors import UserError, counted, first_few
from folds.base.workspace import Workspace, digest, read_json
from folds.find.layout import find_id_column
from folds.find.listing import Lookup
from folds.manifest.duplicates import linked
from folds.manifest.manifest import PREPARE_HINT, class_order, read_manifest, usable_rows
from folds.settings import MOST_FOLDS, SplitSettings


def training_images(workspace: Workspace, settings: SplitSettings) -> tuple[pd.DataFrame, list[str]]:
    """The usable rows of the manifest that are to be split, and what is to be said of the user's groups and folds.

    Column `group` numbers what must not be parted: images are joined that are copies, or have one group of the user's,
    and whatever is joined by a chain of both. Column `fold` is there where the user gives the folds, 0 to K-1.
    Raises UserError where a column or a value lacks, a pattern fits nothing, or groups and folds contradict each other.
    """
    manifest = read_manifest(workspace)
    images = usable_rows(manifest, split="train")
    cells = _cells(workspace, settings, manifest, images["path"])
    groups, notes = {}, list[str]()  # the group of each image, '' for none, by where it comes from
    if settings.group_column is not None:
        groups[f"column {settings.group_column}"] = cells[settings.group_column]
    if settings.group_regex is not None:
        groups["`--group-regex`"] = _matches(images["path"], settings.group_regex)
    if settings.fold_column is not None:
        images["fold"], notes = _given_folds(images, cells[settings.fold_column], settings, groups)
    for what, values in groups.items():
        alone = images.loc[values == "", "image_id"].tolist()
        if len(alone) == len(images):
            raise UserError(f"no training image has a group by {what}")
        if alone:
            notes.append(f"{_images(alone)} without a group by {what}, each a group of its own: {first_few(alone)}")
    if groups:
        images["group"] = _joined(images["group"], groups.values())
        largest = images["group"] == images["group"].value_counts().idxmax()
        names = sorted({value for values in groups.values() for value in values[largest]} - {""})
        notes.append(
            f"{images['group'].nunique():,} groups by {' and '.join(groups)} and by copies; the largest has "
            f"{_images(images[largest])}: {first_few(names)}"
        )
    return images, notes


def _cells(workspace: Workspace, settings: SplitSettings, manifest: pd.DataFrame, paths: pd.Series) -> pd.DataFrame:
    """The cells of the columns that the settings name, a row for each of the paths; '' where the CSV has none."""
    columns = list(dict.fromkeys(name for name in (settings.group_column, settings.fold_column) if name is not None))
    if not columns:
        if settings.groups is None:
            return pd.DataFrame(index=paths.index)
        raise UserError(f"`--groups {settings.groups}` needs a column to read", hint="name it with `--group-column`")
    path = settings.groups or workspace.labels
    if settings.groups is None and not path.exists():
        message = f"DATA had no CSV of labels when it was prepared, so there is no column {first_few(columns)}"
        raise UserError(message, hint=f"`--groups CSV` names one; or once more {PREPARE_HINT}")
    data = read_given(path, hint="`--groups CSV`")
    prepared = {} if settings.groups is not None else read_json(workspace.prepare_json, hint=PREPARE_HINT)
    if settings.groups is None and digest(data) != prepared.get("labels"):
        raise UserError(f"{path} is damaged: its content is not what `prepare` copied", hint=PREPARE_HINT)
    table = read_csv(data, name=str(path))
    cells = [table.column(name) for name in columns]
    train = manifest[manifest["split"] == "train"]
    lookup = Lookup.of_images(train["image_id"], train["path"])
    found: dict[str, tuple[str, ...]] = {}
    id_column = prepared.get("id_column") or find_id_column(table, lookup, what="a training image")
    for image, *values in zip(table.column(id_column), *cells, strict=True):
        file = lookup.find(image) if image else None
        if file is not None and (before := found.setdefault(file.path, tuple(values))) != tuple(values):
            name, one, other = next(row for row in zip(columns, before, values, strict=True) if row[1] != row[2])
            raise UserError(f"{path} gives {image} two values of {name}: {one} and {other}")
    nothing = ("",) * len(columns)
    return pd.DataFrame([found.get(one, nothing) for one in paths], index=paths.index, columns=columns)


def _matches(paths: pd.Series, pattern: str) -> pd.Series:
    """The pattern's first group in each path, or all that it fits where it has none; '' where it does not fit."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what a later Python may read another way
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


def _given_folds(
    images: pd.DataFrame, given: pd.Series, settings: SplitSettings, groups: Mapping[str, pd.Series]
) -> tuple[pd.Series, list[str]]:
    """The fold of each image, 0 to K-1 in the natural order of their names, and what is to be said of them.

    Refuses folds that are not 2 to 100, leave an image out, or part a group of the user's; copies they may part.
    """
    column = f"column {settings.fold_column}"
    lacking = images.loc[given == "", "image_id"]
    if len(lacking):
        raise UserError(
            f"{_images(lacking)} without a fold in {column}: {first_few(lacking.tolist())}",
            hint="give each a fold, or leave it out with an empty label by `prepare DATA --relabel FILE`",
        )
    names = class_order(given)
    if names and not 2 <= len(names) <= MOST_FOLDS:
        raise UserError(
            f"{column} has {counted(len(names), 'fold', 'folds')}, and 2 to {MOST_FOLDS} are wanted",
            hint=f"`--group-column {settings.fold_column}` keeps images together that have one value",
        )
    if settings.n_folds not in (SplitSettings.n_folds, len(names)):
        raise UserError(f"`--n-folds {settings.n_folds}` is wanted, and {column} has {len(names):,} folds")
    for what, values in groups.items():
        parted = values[is_parted(values, given) & (values != "")].unique().tolist()
        if parted:
            where = sorted(set(given[values == parted[0]]))
            raise UserError(
                f"{column} parts {len(parted):,} of the groups by {what}: {first_few(parted)}; "
                f"{parted[0]} stands in folds {first_few(where)}",
                hint="mend one of them, or give the folds alone",
            )
    notes = []
    copies = images.loc[is_parted(images["group"], given), "image_id"]
    if len(copies):
        notes.append(
            f"the folds of {column} part {_images(copies)} from their copies, so scores may be too good: "
            f"{first_few(copies.tolist())}"
        )
    if names != tuple(map(str, range(len(names)))):
        meaning = first_few([f"{number} is {name}" for number, name in enumerate(names)], most=10)
        notes.append(f"folds by {column}: {meaning}")
    return given.map({name: number for number, name in enumerate(names)}).astype(np.int64), notes


def is_parted(group: pd.Series, fold: pd.Series) -> pd.Series:
    """Whether the group of each image stands in several folds."""
    return fold.groupby(group).transform("nunique") > 1


def _joined(copies: pd.Series, groups: Iterable[pd.Series]) -> np.ndarray:
    """Numbers that are equal for images joined by copies, by a group, or by a chain of both. (N,) int64"""
    alone = np.arange(len(copies))
    edges = []  # from each image to the first one of its copies, and to the first one of its group
    for values in (copies, *groups):
        first = pd.Series(alone).groupby(values.to_numpy()).transform("first")
        edges.append(np.where(values == "", alone, first))
    return linked(len(copies), np.tile(alone, len(edges)), np.concatenate(edges))


def _images(those: Sized) -> str:
    return counted(len(those), "training image", "training images")
