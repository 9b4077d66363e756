"""Reads predictions that other tools made: CSV, npz or npy, with ids and classes by name."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.base.csvfile import ID_NAMES, SEPARATORS, usual_column
from folds.base.errors import UserError, first_few
from folds.find.listing import composed

VALUE_NAMES = ("probs", "probabilities", "predictions", "preds", "logits", "oof", "test", "arr_0")
ID_ARRAYS = ("image_id", "ids", "id")
CLASS_ARRAYS = ("classes", "class_names", "labels")
NOT_CLASSES = ("", "fold", "label", "target", "path", "split", "group")  # columns beside the classes; "": pandas' index

BOMB_BYTES = 1 << 30  # an archive that unpacks to more than this
BOMB_RATIO = 100  # and to more than so many times its own length holds no predictions: those hardly compress


@dataclass(frozen=True)
class External:
    """A table of predictions of another tool.

    image_id (n,) str    classes: C labels    values (n, C) float64, as they came    fold (n,) int64, if the file says
    """

    path: Path
    image_id: np.ndarray
    classes: tuple[str, ...]
    values: np.ndarray
    fold: np.ndarray | None = None


def read_external(path: Path, *, ids: Path | None, class_names: Path | None, known_classes: Sequence[str]) -> External:
    """Read predictions. Raises UserError where the file, its ids or its classes cannot be made out."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    kind = path.suffix.lower()
    if kind == ".csv":
        try:
            return _read_csv(path, known_classes)
        except OSError as err:
            raise UserError(f"cannot read {path}: {err.strerror or err}") from err
    if kind not in (".npz", ".npy"):
        raise UserError(f"{path} is neither .csv, .npz nor .npy")
    there = _arrays(path)
    named = [name for name in ("log_probs", *VALUE_NAMES) if name in there]
    if not named:
        raise UserError(f"{path.name} has no array {first_few(VALUE_NAMES)}; it has {first_few(sorted(there))}")
    values = there[named[0]]
    if named[0] == "log_probs":  # the kit's own format: the mean over the views
        if values.ndim != 3 or values.dtype.kind != "f":
            raise UserError(f"log_probs of {path.name} is {_kind(values)}, not (n, views, classes)")
        values = np.exp(values.astype(np.float64)).mean(axis=1)
    image_id = _names(path, there, ID_ARRAYS, ids, what="ids", flag="`--oof-ids FILE` and `--test-ids FILE`")
    classes = _names(path, there, CLASS_ARRAYS, class_names, what="classes", flag="`--class-names FILE`")
    fold = np.unique(there["fold"], return_inverse=True)[1] if "fold" in there else None
    if fold is not None and fold.shape != (len(values),):
        raise UserError(f"{path.name} has {fold.size:,} folds for {len(values):,} rows")
    if values.shape != (len(image_id), len(classes)) or values.dtype.kind not in "fiu":
        expected = f"numbers for {len(image_id):,} ids x {len(classes)} classes"
        raise UserError(f"{path.name} is {_kind(values)}, not {expected}")
    return External(path, image_id, tuple(_as_known(classes.tolist(), known_classes)), values.astype(np.float64), fold)


def refuse_repeated(ids: np.ndarray, *, name: str, hint: str | None = None) -> None:
    """Refuse ids (n,) str of the file `name` of which one stands there twice."""
    distinct, count = np.unique(ids, return_counts=True)
    if (count > 1).any():
        raise UserError(f"{name} has the id {first_few(list(distinct[count > 1]))} more than once", hint=hint)


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


def _read_csv(path: Path, known_classes: Sequence[str]) -> External:
    import pandas as pd

    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first_line = file.readline()
    separator = max(SEPARATORS, key=first_line.count)
    cells = next(csv.reader([first_line], delimiter=separator, skipinitialspace=True), [])
    header = _as_known([name.strip() for name in cells or [""]], known_classes)
    id_column = _id_column(path, header, known_classes)
    unknown = [name for name in header if name not in known_classes and name not in (id_column, *NOT_CLASSES)]
    lacking = [name for name in known_classes if name not in header]
    if unknown or lacking:
        what = f"has columns that are no class: {first_few(unknown)}"
        what = f"lacks the classes {first_few(lacking)}" if lacking else what
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
    has_folds = "fold" in header and "fold" not in known_classes
    fold = pd.factorize(table["fold"], sort=True)[0].astype(np.int64) if has_folds else None
    values = table[list(known_classes)].to_numpy(np.float64)
    return External(path, table[id_column].to_numpy(str), tuple(known_classes), values, fold)


def _as_known(names: Sequence[str], known_classes: Sequence[str]) -> list[str]:
    """The names, those of classes spelled as the folds spell them, whose letters a Mac may have decomposed."""
    known = {composed(name): name for name in known_classes} | {name: name for name in known_classes}
    return [known.get(name, known.get(composed(name), name)) for name in names]


def _id_column(path: Path, header: Sequence[str], known_classes: Sequence[str]) -> str:
    """The column with a usual name for ids, else the first one, if it is no class."""
    usual = usual_column([name for name in header if name not in known_classes], ID_NAMES)
    if usual is None and header[0] in known_classes:
        raise UserError(f"{path.name} has no id column; it has {first_few(header)}", hint="name it `id`")
    return usual or header[0]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz; the one of an npy under the name that numpy gives to an array without one."""
    is_npz = path.suffix.lower() == ".npz"
    try:
        if is_npz:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())  # no more than this is ever unpacked
            if unpacked > max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size):
                raise UserError(f"{path.name} unpacks to {unpacked:,} bytes", hint="save predictions with `np.savez`")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"arr_0": loaded}
        with loaded as arrays:
            if not is_npz:
                raise UserError(f"{path.name} holds several arrays: its name should end in .npz")
            return {name: arrays[name] for name in arrays.files}
    except UserError:
        raise
    except Exception as err:  # zipfile and numpy meet arbitrary bytes here and raise whatever they like
        raise UserError(f"{path.name} cannot be read: {err}") from err


def _names(
    path: Path, there: dict[str, np.ndarray], arrays: Sequence[str], given: Path | None, *, what: str, flag: str
) -> np.ndarray:
    """The ids or classes of a file beside it, or else of an array in it."""
    if given:
        return read_lines(given)
    name = next((name for name in arrays if name in there), None)
    if name is None:
        hint = f"save them in a .npz, as the array `{arrays[0]}`, or in a .csv; `add` takes {flag} too, one a line"
        raise UserError(f"{path.name} does not name its {what}", hint=hint)
    try:
        return there[name].astype(str).ravel()
    except ValueError as err:  # bytes that are no ASCII
        raise UserError(f"{name} of {path.name} is {there[name].dtype}, not text") from err


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
