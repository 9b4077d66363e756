"""Tells training from test by the names of folders and CSVs, unless the settings name them."""

from __future__ import annotations

from collections.abc import Sequence

from folds.base.errors import UserError, first_few
from folds.find.listing import File, Listing
from folds.find.lookup import Lookup, has_all, plain, refuse_outside, relative

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


def pick_file(listing: Listing, given: str | None, names: frozenset[str], *, flag: str) -> str | None:
    """The CSV given, or the one right below the data folder with a usual name."""
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


def pick_test_folder(listing: Listing, given: str | None, sample_ids: list[str] | None) -> str | None:
    fit = _pick_folders(listing, given, TEST_FOLDERS, flag="--test-folder")
    if len(fit) > 1 and sample_ids is not None:  # Public and Private: the sample tells which one is asked for
        fitting = [folder for folder in fit if has_all(Lookup(below(listing, folder), folder), sample_ids)]
        fit = fitting if len(fitting) == 1 else fit
    if len(fit) > 1:
        raise UserError(
            f"{listing.root} has {len(fit)} folders of test images: {first_few(fit)}",
            hint=f"choose one with `--test-folder {fit[0]}`",
        )
    return fit[0] if fit else None


def pick_train_folder(listing: Listing, given: str | None, csv: str | None, test_folder: str | None) -> str:
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
        path = listing.place_of(path)
        if path and not below(listing, path):
            raise UserError(f"{listing.root / path} holds no file", hint=f"name another folder with `{flag} NAME`")
        return [path]
    fit = list(dict.fromkeys(listing.place_of(name) for name in listing.folders if plain(name) in names))
    for folder in fit:
        if not below(listing, folder):
            raise UserError(f"{listing.root / folder} holds no file", hint=f"name another folder with `{flag} NAME`")
    return [_unpacked(listing, folder, names) for folder in fit]


def _unpacked(listing: Listing, folder: str, names: frozenset[str]) -> str:
    inner = {relative(file.path, folder).partition("/")[0] for file in below(listing, folder)}
    only = next(iter(inner)) if len(inner) == 1 else ""
    return f"{folder}/{only}" if plain(only) in names and (listing.root / folder / only).is_dir() else folder


def below(listing: Listing, folder: str, *, but: Sequence[str] = ()) -> list[File]:
    prefix = f"{folder}/" if folder else ""
    return [file for file in listing.files if file.path.startswith(prefix) and file.path not in but]


def _top(listing: Listing) -> list[str]:
    return sorted({file.path.partition("/")[0] for file in listing.files} | set(listing.folders))


def _inside(given: str, *, flag: str) -> str:
    refuse_outside([given], name=f"`{flag}`")
    return "/".join(part for part in given.split("/") if part not in ("", "."))
