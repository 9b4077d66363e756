"""Finds the parts of a competition by their usual names, unless the settings name them: folders, CSVs, columns."""

from __future__ import annotations

import os

from folds.base.csvfile import ID_NAMES, LABEL_NAMES, CsvTable, pick_column, plain, usual_column
from folds.base.errors import UserError, first_few
from folds.find.listing import Listing, Lookup, refuse_outside, relative, stem
from folds.settings import PrepareSettings

TRAIN_FOLDERS = frozenset(
    {"train", "training", "trainval", "trainset", "trainingset", "trainimages", "trainingimages", "traindata"}
    | {"trainingdata", "trainvalidation", "imagestrain"}
)
TEST_FOLDERS = frozenset(
    {"test", "testing", "public", "private", "testset", "testimages", "testingimages", "testdata", "imagestest"}
    | {"publictest", "privatetest", "testpublic", "testprivate"}
)
TRAIN_CSVS = frozenset({"train", "training", "trainlabels", "traininglabels", "labels", "trainval"})
SAMPLES = frozenset({"samplesubmission", "samplesubmissions", "samplesubmit", "submissionsample", "submissionformat"})
LOOKED_AT = 1000  # cells of a column that are looked for among the files; all where none of them names one


def pick_file(listing: Listing, given: str | None, names: frozenset[str], *, flag: str) -> str | None:
    """The CSV given, or the one with a usual name, of which its folders are a part: `train/labels.csv`."""
    faults = {file.path: file.fault for file in listing.files}
    if given is not None:
        path = _inside(given, flag=flag)
        if path not in faults:
            raise UserError(f"`{flag} {given}`: there is no such file in {listing.root}")
        fit = [path]
    else:
        fit = [path for path in sorted(faults) if path.lower().endswith(".csv") and plain(path[:-4]) in names]
    if len(fit) > 1:
        raise UserError(f"{listing.root} holds {' and '.join(fit)}", hint=f"choose one with `{flag} NAME`")
    if fit and faults[fit[0]]:
        raise UserError(f"{fit[0]} is not read: {faults[fit[0]]}", hint=f"put the file itself there, or `{flag} NAME`")
    return fit[0] if fit else None


def pick_sample(listing: Listing, given: str | None) -> str | None:
    """The sample submission: its path below the data folder, or the whole path of a file that lies elsewhere."""
    listed = {file.path for file in listing.files}
    if given is not None and given.removeprefix("./") not in listed:
        if not os.path.isfile(given):
            raise UserError(f"`--sample {given}`: there is no such file, neither in {listing.root} nor here")
        inside = os.path.relpath(os.path.realpath(given), os.path.realpath(listing.root))
        if inside not in listed:
            return os.path.abspath(given)
        given = inside
    return pick_file(listing, given, SAMPLES, flag="--sample")


def pick_train_folder(listing: Listing, given: str | None, csv: str | None, test_folder: str | None) -> str:
    """The folder of the training images; '' for DATA itself."""
    if (fit := pick_folder(listing, given, TRAIN_FOLDERS, "training", flag="--train-folder")) is not None:
        return fit
    folders = [name for name in listing.folders if name != (test_folder or "").partition("/")[0]]
    if csv or len(folders) > 1:
        return ""  # ids anywhere in DATA, or class folders right below it
    there = sorted({file.path.partition("/")[0] for file in listing.files} | set(listing.folders))
    raise UserError(
        f"{listing.root} has no folder of training images; it holds {first_few(there, most=6)}",
        hint="name it with `--train-folder NAME`, or the CSV with `--train-csv NAME`",
    )


def pick_folder(
    listing: Listing, given: str | None, names: frozenset[str], what: str, *, flag: str, ids: list[str] | None = None
) -> str | None:
    """The folder given, or the one with a usual name, None if there is none; of several the one that has all ids."""
    if given is None:
        fit = [name for name in listing.folders if plain(name) in names]
    else:
        fit = [_inside(given, flag=flag)]
        if fit[0] and not (listing.root / fit[0]).is_dir():
            raise UserError(f"`{flag} {given}`: there is no such folder in {listing.root}")
    fit = list(dict.fromkeys(listing.same.get(folder, folder) for folder in fit))
    for at, folder in enumerate(fit):
        inner = {relative(file.path, folder).partition("/")[0] for file in listing.below(folder)}
        if folder and not inner:
            raise UserError(f"{listing.root / folder} holds no file", hint=f"name another folder with `{flag} NAME`")
        only = f"{folder}/{inner.pop()}" if len(inner) == 1 else folder
        if given is None and plain(only.removeprefix(folder)) in names and (listing.root / only).is_dir():
            fit[at] = only  # packed twice, as in `train/train`
    if len(fit) > 1 and ids is not None:
        lookups = {folder: Lookup(listing.below(folder), folder) for folder in fit}
        fitting = [folder for folder, lookup in lookups.items() if all(map(lookup.find, ids))]
        if not fitting:
            return None  # the ids stand in several of them: they are looked for in all of DATA
        fit = fitting if len(fitting) == 1 else fit
    if len(fit) > 1:
        raise UserError(
            f"{listing.root} has {len(fit)} folders of {what} images: {first_few(fit)}",
            hint=f"choose one with `{flag} {fit[0]}`",
        )
    return fit[0] if fit else None


def _inside(given: str, *, flag: str) -> str:
    refuse_outside([given], name=f"`{flag}`")
    return "/".join(part for part in given.split("/") if part not in ("", "."))


def pick_train_columns(
    table: CsvTable, sample: CsvTable | None, lookup: Lookup, settings: PrepareSettings
) -> tuple[str, str]:
    """The columns of the ids and of the labels.

    Those that the settings name; else both columns of the sample submission, where the table has them too; else the
    ids are what names files, and the labels a column with a usual name, or of two columns the other one.
    Raises UserError, naming the columns that there are, where that decides nothing.
    """
    header, id_column, label_column = table.header, settings.id_column, settings.label_column
    for given in (id_column, label_column):
        if given is not None:
            table.column(given)  # refuses one that is not there
    if sample is not None and len(set(sample.header)) == 2 and set(sample.header) <= set(header):
        of_sample = pick_column(sample, ID_NAMES, what="id", flag="--id-column", position=0)
        id_column = id_column or of_sample
        label_column = label_column or next(name for name in sample.header if name != of_sample)
    if len(header) == 2 and label_column in header:
        id_column = id_column or header[label_column == header[0]]
    id_column = id_column or naming_column(table, lookup) or pick_column(table, ID_NAMES, what="id", flag="--id-column")
    rest = [name for name in header if name != id_column]
    if len(header) == 2 and rest and not usual_column(rest, ID_NAMES):
        label_column = label_column or rest[0]
    return id_column, label_column or pick_column(table, LABEL_NAMES, what="label", flag="--label-column")


def naming_column(table: CsvTable, *lookups: Lookup) -> str | None:
    """The column that names most files, with their extension rather than without; of equal ones one of a usual name.

    A running number may name files by chance, where these are numbered too; so it is not taken for its name alone.
    """
    usual = usual_column(table.header, ID_NAMES)
    for most in (LOOKED_AT, None):
        best, named_by_best = None, 0
        for name in sorted(dict.fromkeys(table.header), key=lambda name: name != usual):
            cells = list(dict.fromkeys(cell for cell in table.column(name) if cell))[:most]
            weight = {cell: 1 + (stem(cell) != cell) for cell in cells}
            if sum(weight.values()) <= named_by_best:
                continue  # labels, mostly: looking for what names no file has all files indexed by each kind of name
            named = sum(weight[cell] for cell in cells if any(names_file(cell, one) for one in lookups))
            best, named_by_best = (name, named) if named > named_by_best else (best, named_by_best)
        if best is not None:
            return best
    return None


def names_file(cell: str, lookup: Lookup) -> bool:
    try:
        return lookup.find(cell) is not None
    except UserError:
        return True  # it fits several files


def find_id_column(table: CsvTable, *lookups: Lookup, what: str) -> str:
    """The column that names images. Refuses a table without; what: such images, for the message: `a training image`."""
    if (found := naming_column(table, *lookups)) is not None:
        return found
    raise UserError(
        f"no column of {table.name} names {what}: it has {first_few(table.header, most=10)}",
        hint="an id is the image's path below the training folder, as in manifest.csv, with or without extension",
    )
