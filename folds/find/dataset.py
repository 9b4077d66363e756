"""Finds the competition in a folder: which files train, with which labels, and which are to be predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from folds.base.csvfile import ID_NAMES, CsvTable, pick_column, read_csv
from folds.base.errors import UserError, first_few
from folds.find.columns import pick_train_columns
from folds.find.layout import SAMPLES, TRAIN_CSVS, below, pick_file, pick_test_folder, pick_train_folder
from folds.find.listing import File, Listing, list_files
from folds.find.lookup import Lookup, refuse_outside, relative, stem
from folds.settings import PrepareSettings


@dataclass(frozen=True)
class Item:
    """One file of the competition. label: empty for test images; left_out: why, where decoding need not tell.

    note: what else there is to say of it, a clause of its `reason`
    """

    image_id: str
    file: File
    split: str
    label: str = ""
    left_out: str = ""
    note: str = ""


@dataclass(frozen=True)
class Dataset:
    """items: training images, then test images, each sorted by id; sample: its path below root; notes: sentences.

    targets: the true paths of the folders that links of the data lead to
    """

    root: Path
    items: tuple[Item, ...]
    sample: str | None
    hidden: tuple[str, ...]
    notes: tuple[str, ...]
    targets: tuple[str, ...] = ()


def find_dataset(data: Path, settings: PrepareSettings) -> Dataset:
    """What the folder holds, by the names of its folders and files, or as the settings say; reads no image.

    Raises UserError where it is empty, has no training images, one label only, ids without a file or ids twice.
    """
    listing = list_files(data)
    sample = pick_file(listing, settings.sample, SAMPLES, flag="--sample")
    train_csv = pick_file(listing, settings.train_csv, TRAIN_CSVS, flag="--train-csv")
    sample_table = _read(listing, sample) if sample else None
    sample_ids = _sample_ids(sample_table) if sample_table else None
    test_folder = pick_test_folder(listing, settings.test_folder, sample_ids)
    train_folder = pick_train_folder(listing, settings.train_folder, train_csv, test_folder)
    lists = [path for path in (sample, train_csv) if path]
    test_files = below(listing, test_folder, but=lists) if test_folder else []
    taken = {*lists, *(file.path for file in test_files)}
    train_files = [file for file in below(listing, train_folder) if file.path not in taken]
    if train_csv:
        lookup = Lookup(train_files, train_folder)
        table = _read(listing, train_csv)
        columns = pick_train_columns(table, sample_table, lookup, settings)
        train = _items_of_csv(table, columns, lookup, root=data)
    else:
        train = _items_of_folders(train_files, train_folder)
    if test_folder is None and sample_ids is not None:  # training and test images lie together
        train = [item for item in train if not train_csv or item.left_out != f"not in {train_csv}"]
        train_paths = {item.file.path for item in train}
        test_files = [file for file in below(listing, "", but=lists) if file.path not in train_paths]
    test = _test_items(test_files, test_folder or "", sample_ids, sample=sample or "")
    _refuse_one_class(train, name=train_csv or train_folder or str(data))
    _refuse_twice(train, what="training")
    return Dataset(
        root=data,
        items=(*_by_id(train), *_by_id(test)),
        sample=sample,
        hidden=listing.hidden,
        notes=(*listing.notes, *(() if test else ("there is no folder of test images: nothing can be predicted",))),
        targets=listing.targets,
    )


def _items_of_folders(files: Sequence[File], folder: str) -> list[Item]:
    """The label is the first folder below the training folder, however deep the file lies in it.

    Where that is DATA itself, the files right in it (a README, a list of classes) are no images of the competition.
    """
    items = []
    for file in files:
        if not folder and "/" not in file.path:
            continue
        image_id = relative(file.path, folder)
        label = image_id.partition("/")[0] if "/" in image_id else ""
        items.append(
            Item(image_id, file, "train", label, "" if label else "no label: it lies beside the class folders")
        )
    return items


def _items_of_csv(table: CsvTable, columns: tuple[str, str], lookup: Lookup, *, root: Path) -> list[Item]:
    """The images that a CSV names, with their labels, and those of the folder that it does not name."""
    path, (ids, labels) = table.name, map(table.column, columns)
    refuse_outside(ids, name=path)
    if "" in ids:
        raise UserError(f"row {ids.index('') + 2} of {path} has no id")
    items: dict[str, Item] = {}
    for image_id, label in zip(ids, labels, strict=True):
        file = lookup.find(image_id) or File(image_id, fault="no file of this name")
        item = Item(relative(file.path, lookup.folder), file, "train", label, "" if label else f"no label in {path}")
        before = items.setdefault(file.path, item)
        if before.label != label:
            items[file.path] = replace(before, left_out=f"two labels: {before.label} and {label} in {path}")
    lacking = [item.image_id for item in items.values() if item.file.fault == "no file of this name"]
    if len(lacking) == len(items):
        raise UserError(
            f"none of the {len(items):,} ids of {path} has a file below {lookup.folder or root}: {first_few(lacking)}",
            hint="name the folder of the images with `--train-folder NAME`",
        )
    strangers = {file.path: file for level in lookup.levels[:1] for files in level.values() for file in files}
    for file_path, file in strangers.items():
        if file_path not in items:
            items[file_path] = Item(relative(file_path, lookup.folder), file, "train", "", f"not in {path}")
    return list(items.values())


def _sample_ids(table: CsvTable) -> list[str]:
    path = table.name
    ids = table.column(pick_column(table, ID_NAMES, what="id", given=None, flag="--id-column", position=0))
    refuse_outside(ids, name=path)
    twice = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"{path} has the id {first_few(twice)} twice")
    if "" in ids:
        raise UserError(f"row {ids.index('') + 2} of {path} has no id")
    if not ids:
        raise UserError(f"{path} has no ids")
    return ids


def _test_items(files: Sequence[File], folder: str, sample_ids: list[str] | None, *, sample: str) -> list[Item]:
    """Test images with the sample's ids, or with their names without extension where there is no sample."""
    if sample_ids is None:
        items = [Item(stem(relative(file.path, folder)), file, "test") for file in files]
        _refuse_twice(items, what="test")
        return items
    lookup = Lookup(files, folder)
    found = {image_id: lookup.find(image_id) for image_id in sample_ids}
    lacking = [image_id for image_id, file in found.items() if file is None]
    if lacking:
        raise UserError(
            f"{len(lacking):,} ids of {sample} have no file in {folder or 'DATA'}: {first_few(lacking)}",
            hint="put the files there, or name the folder with `--test-folder NAME`",
        )
    items = []
    owner: dict[str, str] = {}
    for image_id, file in found.items():
        assert file is not None, image_id
        if file.path in owner:
            raise UserError(f"the ids {owner[file.path]} and {image_id} of {sample} both mean {file.path}")
        owner[file.path] = image_id
        items.append(Item(image_id, file, "test"))
    extra = [file for file in files if file.path not in owner] if folder else []
    return items + [Item(relative(f.path, folder), f, "test", "", f"not in {sample}") for f in extra]


def _read(listing: Listing, path: str) -> CsvTable:
    return read_csv((listing.root / path).read_bytes(), name=path)


def _by_id(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.image_id)


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
