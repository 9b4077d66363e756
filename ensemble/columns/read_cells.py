"""Reads the cells that belong to each image, by its id: from one CSV, from one for each set, from the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from folds.base.csvfile import CsvTable, read_csv
from folds.base.errors import UserError, first_few
from folds.find.layout import find_id_column
from folds.find.listing import File, Lookup

TABLE_HINT = "`python run.py table CSV`, or `python run.py table TRAIN_CSV TEST_CSV`"
MANIFEST_COLUMNS = ("format", "mode", "width", "height", "bytes")
SETS = {"train": "training", "test": "test"}


@dataclass(frozen=True)
class Cells:
    """The cells as text, '' where there are none; a row for each image, in the order of its ids. notes: sentences.

    train (N rows), test (T rows): the same columns
    """

    train: pd.DataFrame
    test: pd.DataFrame
    notes: tuple[str, ...] = ()

    def beside(self, other: Cells) -> Cells:
        """The columns of both. Raises UserError where one name stands for two."""
        twice = [name for name in self.train.columns if name in other.train.columns]
        if twice:
            raise UserError(
                f"{first_few(twice)} would be two columns, one of the CSV and one of the manifest",
                hint="give it another name in the CSV, or leave out `--from-manifest`",
            )
        train, test = (pd.concat(pair, axis=1) for pair in ((self.train, other.train), (self.test, other.test)))
        return Cells(train, test, self.notes + other.notes)


def manifest_cells(manifest: pd.DataFrame, ids: dict[str, np.ndarray]) -> Cells:
    """What `prepare` noted of each file. ids: of each set, as in `csv_cells`."""
    train, test = (
        manifest[manifest["split"] == one].set_index("image_id").loc[ids[one], list(MANIFEST_COLUMNS)].astype(str)
        for one in SETS
    )
    return Cells(train, test)


def csv_cells(paths: Sequence[Path], manifest: pd.DataFrame, ids: dict[str, np.ndarray]) -> Cells:
    """The cells of one CSV that has the images of both sets, or of two: of the training and of the test images.

    ids  the usable images of each set, 'train' (N,) and 'test' (T,) str; an image without a row has no values
    Raises UserError where a file cannot be read, an id fits several images, a row stands twice and says two things, or
    no row is of a training or of a test image.
    """
    if len(paths) > len(SETS):
        raise UserError(f"one or two CSVs were wanted, and {len(paths)} came", hint=TABLE_HINT)
    tables = [_read(path) for path in paths]
    rows = {one: manifest[manifest["split"] == one] for one in SETS}
    sets = [list(rows)] if len(tables) == 1 else [[one] for one in rows]
    notes: list[str] = []
    found = [_by_path(table, {one: rows[one] for one in own}, notes) for table, own in zip(tables, sets, strict=True)]
    train, test = found[0], found[-1]
    for table, own, other in ((tables[0], train, test), (tables[-1], test, train)):
        if len(only := own.columns.difference(other.columns, sort=False)):
            notes.append(f"{first_few(list(only))} stands in {table.name} alone, and is left out")
    shared, frames = train.columns.intersection(test.columns, sort=False), []
    for (one, what), table, cells in zip(SETS.items(), (tables[0], tables[-1]), (train, test), strict=True):
        path = rows[one].set_index("image_id")["path"].loc[ids[one]]
        gaps = path.index[~path.isin(cells.index)].tolist()
        if gaps and len(gaps) == len(path):
            raise UserError(f"{table.name} has no row for any of {len(path):,} {what} images", hint=TABLE_HINT)
        if gaps:
            notes.append(
                f"{table.name} has no row for {len(gaps):,} of {len(path):,} {what} images, and their values are"
                f" missing: {first_few(gaps)}"
            )
        frames.append(cells[shared].reindex(path, fill_value="").set_axis(ids[one]))
    return Cells(frames[0], frames[1], tuple(notes))


def _read(path: Path) -> CsvTable:
    try:
        table = read_csv(path.read_bytes(), name=path.name)
    except OSError as err:
        raise UserError(f"cannot read {path}: {err.strerror or err}", hint=TABLE_HINT) from err
    twice = [name for name in dict.fromkeys(table.header) if table.header.count(name) > 1]
    if twice:
        raise UserError(f"{path.name} has the column {first_few(twice)} more than once")
    return table


def _by_path(table: CsvTable, rows: dict[str, pd.DataFrame], notes: list[str]) -> pd.DataFrame:
    """The cells by the path of their image, without the ids; a note where rows name no image.

    rows  the manifest's rows of each set that the table may name
    """
    paths = [dict(zip(own["image_id"], own["path"], strict=True)) for own in rows.values()]
    lookups = [_lookup(own) for own in paths]
    id_column = find_id_column(
        table, *lookups, what="an image" if len(rows) > 1 else f"a {SETS[next(iter(rows))]} image"
    )

    def path_of(image: str) -> str | None:
        """By its very id, else by a name of it. Refuses what fits an image of each set."""
        fit = [own[image] for own in paths if image in own]
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


def _lookup(paths: dict[str, str]) -> Lookup:
    """Finds the images of a set by other names that an id may have. paths: by id"""
    folder = next((path.partition(image_id)[0].rstrip("/") for image_id, path in paths.items()), "")
    return Lookup(map(File, paths.values()), folder)
