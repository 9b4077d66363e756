"""Reads predictions that other tools made: CSV, npz or npy, with ids and classes by name."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.base.csvfile import ID_NAMES, SEPARATORS
from folds.base.errors import UserError, first_few

VALUE_NAMES = ("probs", "probabilities", "predictions", "preds", "logits", "oof", "test", "arr_0")
ID_ARRAYS = ("image_id", "ids", "id")
CLASS_ARRAYS = ("classes", "class_names", "labels")
NOT_CLASSES = ("fold", "label", "target", "path", "split", "group")  # columns beside the classes that may be there

BOMB_BYTES = 1 << 30  # an archive that unpacks to more than this
BOMB_RATIO = 100  # and to more than so many times its own length holds no predictions: those hardly compress


@dataclass(frozen=True)
class Foreign:
    """A table of somebody else's predictions.

    image_id (n,) str    classes: C labels    values (n, C) float64, as they came    fold (n,) int64, if the file says
    """

    path: Path
    image_id: np.ndarray
    classes: tuple[str, ...]
    values: np.ndarray
    fold: np.ndarray | None = None


def read_foreign(path: Path, *, ids: Path | None, class_names: Path | None, known_classes: Sequence[str]) -> Foreign:
    """Read predictions. Raises UserError where the file, its ids or its classes cannot be made out."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    kind = path.suffix.lower()
    if kind == ".csv":
        return _read_csv(path, known_classes)
    if kind == ".npz":
        return _read_npz(path, ids, class_names)
    if kind == ".npy":
        return _with_names(path, _array(path), ids, class_names)
    raise UserError(f"{path} is neither .csv, .npz nor .npy")


def read_lines(path: Path) -> np.ndarray:
    """The lines of a text file, without blanks around them and empty ones. (n,) str; refused without any."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError as err:
        raise UserError(f"{path} does not exist") from err
    except UnicodeDecodeError as err:
        raise UserError(f"{path} is not UTF-8 text", hint="one id or class a line") from err
    except OSError as err:
        raise UserError(f"{path} cannot be read: {err.strerror}", hint="one id or class a line") from err
    if not any(lines):
        raise UserError(f"{path} has no line", hint="one id or class a line")
    return np.array([line for line in lines if line], dtype=str)


def _read_csv(path: Path, known_classes: Sequence[str]) -> Foreign:
    import pandas as pd

    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first_line = file.readline()
    separator = max(SEPARATORS, key=first_line.count)
    cells = next(csv.reader([first_line], delimiter=separator, skipinitialspace=True), [])
    header = [name.strip() for name in cells or [""]]
    id_column = _id_column(path, header, known_classes)
    strange = [name for name in header if name not in known_classes and name not in (id_column, *NOT_CLASSES)]
    lacking = [name for name in known_classes if name not in header]
    if strange or lacking:
        what = (
            f"lacks the classes {first_few(lacking)}"
            if lacking
            else f"has columns that are no class: {first_few(strange)}"
        )
        raise UserError(f"{path.name} {what}", hint="the header names the id column and every class")
    text = {name: str for name in (id_column, *NOT_CLASSES) if name in header and name not in known_classes}
    numbers = dict.fromkeys(known_classes, np.float64)
    gaps = {key: ["", "nan", "NaN", "NA"] for key in known_classes}  # of the numbers only: an id `NA` is an id
    options = {"sep": separator, "encoding": "utf-8-sig", "keep_default_na": False, "na_values": gaps}
    try:
        table = pd.read_csv(path, names=header, header=0, dtype={**text, **numbers}, **options)  # type: ignore[call-overload]
    except ValueError as err:  # pandas' own errors are that, too
        raise UserError(f"{path.name} cannot be read: {err}") from err
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the surplus for row names, and shifts the rest
        raise UserError(f"{path.name} has rows of more cells than the {len(header)} of its header")
    says_folds = "fold" in header and "fold" not in known_classes
    fold = pd.factorize(table["fold"], sort=True)[0].astype(np.int64) if says_folds else None
    values = table[list(known_classes)].to_numpy(np.float64)
    return Foreign(path, table[id_column].to_numpy(str), tuple(known_classes), values, fold)


def _id_column(path: Path, header: Sequence[str], known_classes: Sequence[str]) -> str:
    """The column with a usual name for ids, else the first one, if it is no class."""
    plain = ["".join(letter for letter in name.lower() if letter.isalnum()) for name in header]
    for usual in ID_NAMES:
        if usual in plain and header[plain.index(usual)] not in known_classes:
            return header[plain.index(usual)]
    if header[0] in known_classes:
        raise UserError(f"{path.name} has no id column; it has {first_few(header)}", hint="name it `id`")
    return header[0]


def _read_npz(path: Path, ids: Path | None, class_names: Path | None) -> Foreign:
    there = _arrays(path)
    named = [name for name in ("log_probs", *VALUE_NAMES) if name in there]
    if not named:
        raise UserError(f"{path.name} has no array {first_few(VALUE_NAMES)}; it has {first_few(sorted(there))}")
    values = there[named[0]]
    if named[0] == "log_probs":  # the kit's own format: the mean over the views
        if values.ndim != 3 or values.dtype.kind != "f":
            raise UserError(
                f"log_probs of {path.name} is {values.dtype} of shape {values.shape}, not (n, views, classes)"
            )
        values = np.exp(values.astype(np.float64)).mean(axis=1)
    own_ids = next((_texts(path, name, there[name]) for name in ID_ARRAYS if name in there), None)
    own_classes = next((_texts(path, name, there[name]) for name in CLASS_ARRAYS if name in there), None)
    fold = np.unique(there["fold"], return_inverse=True)[1] if "fold" in there else None
    if fold is not None and fold.shape != (len(values),):
        raise UserError(f"{path.name} has {fold.size:,} folds for {len(values):,} rows")
    return _with_names(path, values, ids, class_names, own_ids=own_ids, own_classes=own_classes, fold=fold)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())  # no more than this is ever unpacked
        if unpacked > max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size):
            raise UserError(f"{path.name} unpacks to {unpacked:,} bytes", hint="save predictions with `np.savez`")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UserError:
        raise
    except Exception as err:  # zipfile and numpy meet arbitrary bytes here and raise whatever they like
        raise UserError(f"{path.name} cannot be read: {err}") from err


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as err:  # as in `_arrays`
        raise UserError(f"{path.name} cannot be read: {err}") from err
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path.name} holds several arrays: its name should end in .npz")
    return array


def _texts(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    try:
        return array.astype(str).ravel()
    except ValueError as err:  # bytes that are no ASCII
        raise UserError(f"{name} of {path.name} is {array.dtype}, not text") from err


def _with_names(
    path: Path,
    values: np.ndarray,
    ids: Path | None,
    class_names: Path | None,
    *,
    own_ids: np.ndarray | None = None,
    own_classes: np.ndarray | None = None,
    fold: np.ndarray | None = None,
) -> Foreign:
    """Values with the ids and classes that stand in the file itself or in files beside it."""
    image_id = read_lines(ids) if ids else own_ids
    classes = read_lines(class_names) if class_names else own_classes
    for given, what, flag in ((image_id, "ids", "--oof-ids and --test-ids"), (classes, "classes", "--class-names")):
        if given is None:
            raise UserError(f"{path.name} does not name its {what}", hint=f"`{flag} FILE`, one a line")
    assert image_id is not None
    assert classes is not None
    if values.shape != (len(image_id), len(classes)) or values.dtype.kind not in "fiu":
        raise UserError(
            f"{path.name} is {values.dtype} of shape {values.shape},"
            f" not numbers for {len(image_id):,} ids x {len(classes)} classes"
        )
    return Foreign(path, image_id, tuple(classes.tolist()), values.astype(np.float64), fold)
