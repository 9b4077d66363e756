"""This file finds the competition in a folder: which files train, with which labels, and which are to be predicted."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from folds.csvfile import ID_NAMES, LABEL_NAMES, CsvTable, pick_column, read_csv
from folds.errors import UserError, first_few
from folds.listing import File, Listing, list_files
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


@dataclass(frozen=True)
class Item:
    """One file of the competition. label: empty for test images; left_out: why, where decoding need not tell."""

    image_id: str
    file: File
    split: str
    label: str = ""
    left_out: str = ""


@dataclass(frozen=True)
class Dataset:
    """items: training images, then test images, each sorted by id; sample: its path below root; notes: sentences."""

    root: Path
    items: tuple[Item, ...]
    sample: str | None
    train_from: str
    test_from: str | None
    hidden: tuple[str, ...]
    notes: tuple[str, ...]


def find_dataset(data: Path, settings: PrepareSettings) -> Dataset:
    """What the folder holds, by the names of its folders and files, or as the settings say; reads no image.

    Raises UserError where it is empty, has no training images, one label only, ids without a file or ids twice.
    """
    listing = list_files(data)
    sample = _pick_file(listing, settings.sample, SAMPLES, flag="--sample")
    train_csv = _pick_file(listing, settings.train_csv, TRAIN_CSVS, flag="--train-csv")
    sample_ids = _sample_ids(listing, sample) if sample else None
    test_folder = _pick_test_folder(listing, settings.test_folder, sample_ids)
    train_folder = _pick_train_folder(listing, settings.train_folder, train_csv, test_folder)
    listed = [path for path in (sample, train_csv) if path]
    in_test = _below(listing, test_folder, but=listed) if test_folder else []
    taken = {file.path for file in in_test} if train_folder == "" else set()
    in_train = [file for file in _below(listing, train_folder, but=listed) if file.path not in taken]
    if train_folder == "" and train_csv is None:  # class folders right below DATA: files beside them are no images
        in_train = [file for file in in_train if "/" in file.path]
    notes: list[str] = []
    if train_csv:
        train = _items_of_csv(listing, train_csv, Lookup(in_train, train_folder), settings)
    else:
        train = _items_of_folders(in_train, train_folder)
    if not test_folder and sample_ids is not None:
        taken = {item.file.path for item in train if not item.left_out.startswith("not in ")}
        in_test = [file for file in _below(listing, "", but=listed) if file.path not in taken]
        train = [item for item in train if item.file.path in taken or not train_csv]
    test = _test_items(in_test, test_folder or "", sample_ids, sample=sample or "")
    if not test:
        notes.append("there is no folder of test images and no sample submission: nothing can be predicted")
    _refuse_one_class(train, name=train_csv or train_folder or str(data))
    _refuse_twice(train, what="training")
    return Dataset(
        root=data,
        items=(*_by_id(train), *_by_id(test)),
        sample=sample,
        train_from=train_csv or train_folder or ".",
        test_from=test_folder,
        hidden=listing.hidden,
        notes=tuple(notes),
    )


class Lookup:
    """Finds the file that an id means among the files that were listed; an id never makes a path to be opened."""

    def __init__(self, files: Iterable[File], folder: str) -> None:
        self.folder = folder
        self.levels: list[dict[str, list[File]]] = [{} for _ in range(6)]
        for file in files:
            below = _relative(file.path, folder)
            keys = (below, file.path, _stem(below), _stem(file.path), file.name, _stem(file.name))
            for level, key in zip(self.levels, keys, strict=True):
                level.setdefault(_composed(key), []).append(file)

    def find(self, image_id: str) -> File | None:
        """The file with this path, else this path without extension, name, or name without extension; None if none.

        Raises UserError where several files fit.
        """
        key = _composed(image_id.removeprefix("./"))
        for level in self.levels:
            found = level.get(key, [])
            if len(found) > 1:
                exact = [file for file in found if image_id in (file.path, _relative(file.path, self.folder))]
                found = exact or found
            if len(found) > 1:
                raise UserError(f"the id {image_id} fits {len(found)} files: {first_few([f.path for f in found])}")
            if found:
                return found[0]
        return None


def _items_of_folders(files: Sequence[File], folder: str) -> list[Item]:
    """The label is the first folder below the training folder, however deep the file lies in it."""
    items = []
    for file in files:
        below = _relative(file.path, folder)
        label = below.partition("/")[0] if "/" in below else ""
        items.append(Item(below, file, "train", label, "" if label else "no label: it lies beside the class folders"))
    return items


def _items_of_csv(listing: Listing, path: str, lookup: Lookup, settings: PrepareSettings) -> list[Item]:
    table = _read(listing, path)
    ids = table.column(pick_column(table, ID_NAMES, what="id", given=settings.id_column, flag="--id-column"))
    labels = table.column(
        pick_column(table, LABEL_NAMES, what="label", given=settings.label_column, flag="--label-column")
    )
    _refuse_outside(ids, name=path)
    items: dict[str, Item] = {}
    for image_id, label in zip(ids, labels, strict=True):
        file = lookup.find(image_id) or File(image_id, fault="no file of this name")
        item = Item(_relative(file.path, lookup.folder), file, "train", label, "" if label else f"no label in {path}")
        before = items.setdefault(file.path, item)
        if before.label != label:
            items[file.path] = replace(before, left_out=f"two labels: {before.label} and {label} in {path}")
    lacking = [item.image_id for item in items.values() if item.file.fault == "no file of this name"]
    if len(lacking) == len(items):
        raise UserError(
            f"none of the {len(items):,} ids of {path} has a file below {lookup.folder or listing.root}: "
            f"{first_few(lacking)}",
            hint="name the folder of the images with `--train-folder NAME`",
        )
    strangers = {file.path: file for level in lookup.levels[:1] for files in level.values() for file in files}
    for file_path, file in strangers.items():
        if file_path not in items:
            items[file_path] = Item(_relative(file_path, lookup.folder), file, "train", "", f"not in {path}")
    return list(items.values())


def _sample_ids(listing: Listing, path: str) -> list[str]:
    table = _read(listing, path)
    ids = table.column(pick_column(table, ID_NAMES, what="id", given=None, flag="--id-column", position=0))
    _refuse_outside(ids, name=path)
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
        items = [Item(_stem(_relative(file.path, folder)), file, "test") for file in files]
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
    return items + [Item(_relative(f.path, folder), f, "test", "", f"not in {sample}") for f in extra]


def _pick_file(listing: Listing, given: str | None, names: frozenset[str], *, flag: str) -> str | None:
    """The CSV given, or the one right below the data folder with a usual name."""
    paths = {file.path for file in listing.files}
    if given is not None:
        path = _inside(given, flag=flag)
        if path not in paths:
            raise UserError(f"`{flag} {given}`: there is no such file in {listing.root}")
        return path
    fit = [path for path in sorted(paths) if path.lower().endswith(".csv") and _plain(path[:-4]) in names]
    if len(fit) > 1:
        raise UserError(f"{listing.root} holds {' and '.join(fit)}", hint=f"choose one with `{flag} NAME`")
    return fit[0] if fit else None


def _pick_test_folder(listing: Listing, given: str | None, sample_ids: list[str] | None) -> str | None:
    fit = _pick_folders(listing, given, TEST_FOLDERS, flag="--test-folder")
    if len(fit) > 1 and sample_ids is not None:  # Public and Private: the sample tells which one is asked for
        has_all = [folder for folder in fit if _has_all(Lookup(_below(listing, folder), folder), sample_ids)]
        fit = has_all if len(has_all) == 1 else fit
    if len(fit) > 1:
        raise UserError(
            f"{listing.root} has {len(fit)} folders of test images: {first_few(fit)}",
            hint=f"choose one with `--test-folder {fit[0]}`",
        )
    return fit[0] if fit else None


def _pick_train_folder(listing: Listing, given: str | None, csv: str | None, test_folder: str | None) -> str:
    fit = _pick_folders(listing, given, TRAIN_FOLDERS, flag="--train-folder")
    if len(fit) > 1:
        raise UserError(
            f"{listing.root} has {len(fit)} folders of training images: {first_few(fit)}",
            hint=f"choose one with `--train-folder {fit[0]}`",
        )
    if fit:
        return fit[0]
    folders = [name for name in listing.folders if name != (test_folder or "").partition("/")[0]]
    if csv or len(folders) > 1:
        return ""  # ids anywhere in DATA, or class folders right below it
    raise UserError(
        f"{listing.root} has no folder of training images; it holds {first_few(_top(listing), most=6)}",
        hint="name it with `--train-folder NAME`, or the CSV with `--train-csv NAME`",
    )


def _pick_folders(listing: Listing, given: str | None, names: frozenset[str], *, flag: str) -> list[str]:
    """The folder given, or all with a usual name; `train/train` is a folder that was packed twice."""
    if given is not None:
        path = _inside(given, flag=flag)
        if path and not (listing.root / path).is_dir():
            raise UserError(f"`{flag} {given}`: there is no such folder in {listing.root}")
        if path and not _below(listing, path):
            raise UserError(f"{listing.root / path} holds no file", hint=f"name another folder with `{flag} NAME`")
        return [path]
    fit = [name for name in listing.folders if _plain(name) in names]
    for folder in fit:
        if not _below(listing, folder):
            raise UserError(f"{listing.root / folder} holds no file", hint=f"name another folder with `{flag} NAME`")
    return [_unpacked(listing, folder, names) for folder in fit]


def _unpacked(listing: Listing, folder: str, names: frozenset[str]) -> str:
    inner = {_relative(file.path, folder).partition("/")[0] for file in _below(listing, folder)}
    only = next(iter(inner)) if len(inner) == 1 else ""
    return f"{folder}/{only}" if _plain(only) in names and (listing.root / folder / only).is_dir() else folder


def _has_all(lookup: Lookup, ids: Iterable[str]) -> bool:
    return all(lookup.find(image_id) is not None for image_id in ids)


def _read(listing: Listing, path: str) -> CsvTable:
    return read_csv((listing.root / path).read_bytes(), name=path)


def _below(listing: Listing, folder: str, *, but: Sequence[str] = ()) -> list[File]:
    prefix = f"{folder}/" if folder else ""
    return [file for file in listing.files if file.path.startswith(prefix) and file.path not in but]


def _relative(path: str, folder: str) -> str:
    return path.removeprefix(f"{folder}/") if folder else path


def _stem(path: str) -> str:
    """The path without the extension of its name."""
    head, slash, name = path.rpartition("/")
    return head + slash + (name.rpartition(".")[0] or name)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _composed(text: str) -> str:
    """One spelling for names that a Mac wrote decomposed and a CSV has composed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _top(listing: Listing) -> list[str]:
    return sorted({file.path.partition("/")[0] for file in listing.files} | set(listing.folders))


def _by_id(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.image_id)


def _inside(given: str, *, flag: str) -> str:
    _refuse_outside([given], name=f"`{flag}`")
    return "/".join(part for part in given.split("/") if part not in ("", "."))


def _refuse_outside(ids: Iterable[str], *, name: str) -> None:
    outside = [text for text in ids if re.match(r"[/\\]|[A-Za-z]:[/\\]", text) or ".." in re.split(r"[/\\]", text)]
    if outside:
        raise UserError(f"{name} names {first_few(outside)}, which may lead outside the data folder: it is not read")


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
