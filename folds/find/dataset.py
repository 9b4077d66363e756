"""Finds the competition in a folder: which files train, with which labels, and which are to be predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from folds.base.csvfile import ID_NAMES, CsvTable, pick_column, read_csv, read_given
from folds.base.errors import UserError, counted, first_few
from folds.find.layout import (
    TEST_FOLDERS,
    TRAIN_CSVS,
    names_file,
    pick_file,
    pick_folder,
    pick_sample,
    pick_train_columns,
    pick_train_folder,
)
from folds.find.listing import TEXTS, File, Lookup, composed, list_files, refuse_outside, relative, stem
from folds.find.reasons import NO_FILE, NOT_LISTED, TWO_LABELS, Reason
from folds.settings import PrepareSettings

MOST_LACKING = 0.01  # of the ids of a CSV; where more lack their file, the folder is another or its download stopped


@dataclass(frozen=True)
class Item:
    """One file of the competition. label: empty for test images.

    reasons      what is known of it without decoding     is_left_out  whether that keeps it from being used
    """

    image_id: str
    file: File
    split: str
    label: str = ""
    reasons: tuple[Reason, ...] = ()
    is_left_out: bool = False


@dataclass(frozen=True)
class Dataset:
    """items: training images, then test images, each sorted by id; notes: sentences.

    sample, train_csv  their paths below root; None where there is none; a sample from elsewhere has its whole path
    id_column          of train_csv
    targets            the true paths of the folders that links of the data lead to
    """

    root: Path
    items: tuple[Item, ...]
    sample: str | None
    train_csv: str | None
    id_column: str | None
    hidden: tuple[str, ...]
    notes: tuple[str, ...]
    targets: tuple[str, ...]


def find_dataset(data: Path, settings: PrepareSettings) -> Dataset:
    """What the folder holds, by the names of its folders and files, or as the settings say; reads no image.

    Raises UserError where it is empty, has no training images, one label only, ids without a file or ids twice.
    """
    listing = list_files(data)
    sample = pick_sample(listing, settings.sample)
    train_csv = pick_file(listing, settings.train_csv, TRAIN_CSVS, flag="--train-csv")
    tables = {
        path: read_csv(
            read_given(data / path, hint="let this user read it"),
            name=Path(path).name if Path(path).is_absolute() else path,  # the manifest is passed on
        )
        for path in (sample, train_csv)
        if path
    }
    sample_ids = ids_of_sample(tables[sample]) if sample else None
    given = settings.test_folder
    test_folder = pick_folder(listing, given, TEST_FOLDERS, "test", flag="--test-folder", ids=sample_ids)
    train_folder = pick_train_folder(listing, settings.train_folder, train_csv, test_folder)
    test_files = [file for file in listing.below(test_folder) if file.path not in tables] if test_folder else []
    taken = {*tables, *(file.path for file in test_files)}
    train_files = [file for file in listing.below(train_folder) if file.path not in taken]
    train, notes, id_column = _items_of_folders(train_files, train_folder), list(listing.notes), None
    lookup = Lookup(train_files, train_folder)
    if train_csv and settings.train_csv is None and _lists_classes(tables[train_csv], train, lookup):
        notes.append(f"{train_csv} lists the classes: labels are the folders of the images")
        train_csv = None
    if train_csv:
        columns = pick_train_columns(tables[train_csv], tables.get(sample or ""), lookup, settings)
        train, id_column = _items_of_csv(tables[train_csv], columns, train_files, lookup, root=data), columns[0]
    if test_folder is None and sample_ids is not None:  # training and test images lie together
        train = [item for item in train if not any(reason.code == NOT_LISTED for reason in item.reasons)]
        train_paths = {item.file.path for item in train}
        test_files = [file for file in listing.files if file.path not in train_paths and file.path not in tables]
    test = items_to_predict(test_files, test_folder or "", sample_ids, sample=tables[sample].name if sample else "")
    texts = [file.path for file in test_files if file.path.lower().endswith(TEXTS) and sample_ids is None]
    if not test:
        notes.append("there is no folder of test images: nothing can be predicted")
    if texts:
        what = counted(len(texts), "text or table", "texts and tables")
        notes.append(f"{what} among the test images, left out: {first_few(texts)}")
    used = {file.path for file in (*train_files, *test_files)}
    if others := [f.path for f in listing.files if f.path not in used and not f.path.lower().endswith(TEXTS)]:
        what = counted(len(others), "file is", "files are")
        notes.append(f"{what} neither a training nor a test image, left out: {first_few(others)}")
    _refuse_one_class(train, name=train_csv or train_folder or str(data))
    _refuse_twice(train, what="training")
    return Dataset(
        root=data,
        items=tuple(item for items in (train, test) for item in sorted(items, key=lambda item: item.image_id)),
        sample=sample,
        train_csv=train_csv,
        id_column=id_column,
        hidden=tuple(listing.hidden),
        notes=tuple(notes),
        targets=tuple(listing.targets),
    )


def _left_out(image_id: str, file: File, split: str, reason: Reason) -> Item:
    return Item(image_id, file, split, reasons=(reason,), is_left_out=True)


def _items_of_folders(files: Sequence[File], folder: str) -> list[Item]:
    """The label is the first folder below the training folder, however deep the file lies in it.

    Where that is DATA itself, the files right in it (a README, a list of classes) are no images of the competition.
    """
    items = []
    for file in files:
        image_id = relative(file.path, folder)
        label, slash, _ = image_id.partition("/")
        if slash:
            items.append(Item(image_id, file, "train", composed(label)))  # as samples and true labels spell it
        elif folder:
            items.append(_left_out(image_id, file, "train", Reason("no label", "it lies beside the class folders")))
    return items


def _lists_classes(table: CsvTable, items: Sequence[Item], lookup: Lookup) -> bool:
    """Whether a table has a row for each class folder, and no column beside it names images: it labels none."""
    labels = {item.label for item in items} - {""}
    columns = {name: table.column(name) for name in table.header}
    for name, cells in columns.items():
        if len(labels) > 1 and labels <= set(cells) and len(set(cells)) == len(cells):
            others = (cell for other in columns if other != name for cell in columns[other])
            return not any(names_file(cell, lookup) for cell in others if cell)
    return False


def _items_of_csv(
    table: CsvTable, columns: tuple[str, str], files: Sequence[File], lookup: Lookup, *, root: Path
) -> list[Item]:
    """The images that a CSV names, with their labels, and those of the folder that it does not name."""
    path, ids, labels = table.name, _ids(table, columns[0]), table.column(columns[1])
    items: dict[str, Item] = {}
    for image_id, label in zip(ids, labels, strict=True):
        file = lookup.find(image_id) or File(image_id, fault=Reason(NO_FILE))
        item = Item(relative(file.path, lookup.folder), file, "train", label)
        if not label:
            item = _left_out(item.image_id, file, "train", Reason("no label", f"in {path}"))
        before = items.setdefault(file.path, item)
        if before.label != label:
            reason = Reason(TWO_LABELS, f"{before.label} and {label} in {path}")
            items[file.path] = replace(before, reasons=(reason,), is_left_out=True)
    lacking = [item.image_id for item in items.values() if item.file.fault == Reason(NO_FILE)]
    if len(lacking) == len(items):
        raise UserError(
            f"none of the {len(items):,} ids of {path} has a file below {lookup.folder or root}: {first_few(lacking)}",
            hint="name the folder of the images with `--train-folder NAME`",
        )
    others = [file for file in files if file.path not in items]
    strangers = [_left_out(relative(f.path, lookup.folder), f, "train", Reason(NOT_LISTED, path)) for f in others]
    return [*items.values(), *strangers]


def ids_of_sample(table: CsvTable, *, flag: str = "--id-column") -> list[str]:
    """The ids of a sample submission, in its order. Raises UserError where one is absent, twice there, or a path."""
    ids = _ids(table, pick_column(table, ID_NAMES, what="id", flag=flag, position=0))
    twice = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"{table.name} has the id {first_few(twice)} twice")
    if not ids:
        raise UserError(f"{table.name} has no ids")
    return ids


def items_to_predict(
    files: Sequence[File],
    folder: str,
    sample_ids: list[str] | None,
    *,
    sample: str,
    way_out: str = "put the files there, or name the folder with `--test-folder NAME`",
) -> list[Item]:
    """Test images with the sample's ids, or with their names without extension where there is no sample.

    Without a sample, files of texts and tables (a README, an annotation) are left out: each would be an id to predict.
    A few ids without a file are unreadable images, which the submission must name all the same.

    way_out  where too many ids have no file: what to do
    """
    if sample_ids is None:
        pictures = [file for file in files if not file.path.lower().endswith(TEXTS)]
        items = [Item(stem(relative(file.path, folder)), file, "test") for file in pictures]
        _refuse_twice(items, what="test")
        return items
    lookup = Lookup(files, folder)
    found = {image_id: lookup.find(image_id) for image_id in sample_ids}
    lacking = [image_id for image_id, file in found.items() if file is None]
    if len(lacking) > MOST_LACKING * len(found):
        raise UserError(
            f"{len(lacking):,} ids of {sample} have no file in {folder or 'DATA'}: {first_few(lacking)}", hint=way_out
        )
    items = [Item(one, file or File(one, fault=Reason(NO_FILE)), "test") for one, file in found.items()]
    owner: dict[str, str] = {}
    for item in items:
        if owner.setdefault(item.file.path, item.image_id) != item.image_id:
            ids = f"{owner[item.file.path]} and {item.image_id}"
            raise UserError(f"the ids {ids} of {sample} both mean {item.file.path}")
    extra = [file for file in files if file.path not in owner] if folder else []
    return items + [_left_out(relative(f.path, folder), f, "test", Reason(NOT_LISTED, sample)) for f in extra]


def _ids(table: CsvTable, column: str) -> list[str]:
    """The cells of the column, none of them empty and none a path that leads out of the data folder."""
    ids = table.full_column(column, what="id")
    refuse_outside(ids, name=table.name)
    return ids


def _refuse_one_class(items: Sequence[Item], *, name: str) -> None:
    labels = sorted({item.label for item in items if item.label})
    if not labels:
        raise UserError(f"{name} holds no class folder", hint="put the images of each class into a folder of its name")
    if len(labels) == 1:
        raise UserError(f"all training images of {name} have the label {labels[0]}: two classes or more are needed")


def _refuse_twice(items: Sequence[Item], *, what: str) -> None:
    count = Counter(item.image_id for item in items)
    twice = sorted(image_id for image_id, n in count.items() if n > 1)
    if twice:
        paths = sorted(item.file.path for item in items if item.image_id == twice[0])
        raise UserError(
            f"{len(twice):,} {what} ids stand for several files, first {twice[0]}: {' and '.join(paths)}",
            hint="a sample submission whose ids have the extensions tells them apart",
        )
