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
from folds.find.listing import File
from folds.find.lookup import Lookup

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
    images = {one: _Images.of(manifest[manifest["split"] == one]) for one in SETS}
    sets: list[tuple[str, ...]] = [tuple(SETS)] if len(tables) == 1 else [(one,) for one in SETS]
    found: dict[str, dict[str, dict[str, str]]] = {one: {} for one in SETS}
    notes, id_columns = list[str](), set[str]()
    for table, own in zip(tables, sets, strict=True):
        what = f"a {SETS[own[0]]} image" if len(own) == 1 else "an image"
        id_column = find_id_column(table, *(images[one].lookup for one in own), what=what)
        id_columns.add(id_column)
        strangers = []
        for image, row in zip(table.column(id_column), table.rows, strict=True):
            path, which = _find(table, image, {one: images[one] for one in own})
            if path is None:
                strangers.append(image)
                continue
            cells = dict(zip(table.header, row, strict=True))
            before = found[which].setdefault(path, cells)
            if differing := [name for name in cells if name != id_column and cells[name] != before[name]]:
                one, other = before[differing[0]], cells[differing[0]]
                raise UserError(f"{table.name} gives {image} two values of {differing[0]}: {one} and {other}")
        if strangers:
            notes.append(f"{len(strangers):,} rows of {table.name} name no image here: {first_few(strangers)}")
    return _framed(tables, id_columns, manifest, found, ids, notes)


def _framed(
    tables: Sequence[CsvTable],
    id_columns: set[str],
    manifest: pd.DataFrame,
    found: dict[str, dict[str, dict[str, str]]],
    ids: dict[str, np.ndarray],
    notes: list[str],
) -> Cells:
    """The cells of the images in use; found: of each set, the cells by path and name."""
    names = [name for name in tables[0].header if name not in id_columns]
    for table, other in zip(tables, reversed(tables), strict=True):
        alone = [name for name in table.header if name not in id_columns and name not in other.header]
        if alone:
            notes.append(f"{first_few(alone)} stands in {table.name} alone, and is left out")
    names = [name for name in names if all(name in table.header for table in tables)]
    frames = []
    for one, table in zip(SETS, (tables[0], tables[-1]), strict=True):
        path_of = manifest[manifest["split"] == one].set_index("image_id")["path"]
        rows = [found[one].get(path) for path in path_of.loc[ids[one]]]
        gaps = [image for image, row in zip(ids[one].tolist(), rows, strict=True) if row is None]
        if gaps and len(gaps) == len(rows):
            raise UserError(f"{table.name} has no row for any of {len(rows):,} {SETS[one]} images", hint=TABLE_HINT)
        if gaps:
            notes.append(
                f"{table.name} has no row for {len(gaps):,} of {len(rows):,} {SETS[one]} images, and their values are"
                f" missing: {first_few(gaps)}"
            )
        cells = [["" if row is None else row[name] for name in names] for row in rows]
        frames.append(pd.DataFrame(cells, index=ids[one], columns=names, dtype=str))
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


@dataclass(frozen=True)
class _Images:
    """The images of a set: their paths by id, and by other names that an id may have."""

    paths: dict[str, str]
    lookup: Lookup

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Images:
        paths = dict(zip(rows["image_id"], rows["path"], strict=True))
        folder = next((path.partition(image_id)[0].rstrip("/") for image_id, path in paths.items()), "")
        return cls(paths, Lookup(map(File, rows["path"]), folder))

    def find(self, image: str) -> str | None:
        file = self.lookup.find(image)
        return file.path if file else None


def _find(table: CsvTable, image: str, sets: dict[str, _Images]) -> tuple[str | None, str]:
    """The path of an image and its set: by its very id, else by a name of it. Refuses what fits an image of each."""
    fit = [(images.paths[image], one) for one, images in sets.items() if image in images.paths]
    fit = fit or [(path, one) for one, images in sets.items() if image and (path := images.find(image))]
    if len(fit) > 1:
        raise UserError(f"the id {image} of {table.name} fits {fit[0][0]} and {fit[1][0]}", hint=TABLE_HINT)
    return fit[0] if fit else (None, "")
