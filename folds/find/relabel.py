"""Gives images other labels than DATA has: a CSV of ids and labels, which changes no file of DATA."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from folds.base.csvfile import ID_NAMES, LABEL_NAMES, pick_column, read_csv, read_given
from folds.base.errors import UserError, counted, first_few
from folds.find.dataset import Dataset, Item
from folds.find.reasons import RELABELLED, UNLABELLED, Reason

FLAG = "`--relabel FILE`"


def relabel(dataset: Dataset, path: Path) -> tuple[Dataset, int, str]:
    """The dataset with the labels of a CSV, how many images that changed, and a sentence about it.

    path  columns image_id and label, others are ignored; images that it does not name keep their label, an empty label
          leaves an image out, and changes nothing for one that has none
    Raises UserError where the file cannot be read, or names images or labels that DATA does not have.
    """
    train = {item.image_id: item for item in dataset.items if item.split == "train"}
    changes = {image_id: label for image_id, label in _read(path, train).items() if train[image_id].label != label}
    if not changes:
        return dataset, 0, f"{path} changes nothing: all its labels are those of DATA"
    for image_id, label in changes.items():
        item = train[image_id]
        was = f"was {item.label or 'without label'}"
        if label:
            train[image_id] = replace(item, label=label, reasons=(Reason(RELABELLED, was),), is_left_out=False)
        else:
            train[image_id] = replace(item, reasons=(*item.reasons, Reason(UNLABELLED, was)), is_left_out=True)
    items = tuple(train[item.image_id] if item.split == "train" else item for item in dataset.items)
    left_out = sum(not label for label in changes.values())
    given, lost = (counted(n, "image", "images") for n in (len(changes) - left_out, left_out))
    note = (
        f"{path} gives {given} another label and leaves {lost} out; "
        f'pass it to every `prepare` and `all`, or write `relabel = "{path}"` into [prepare] of kit.toml'
    )
    return replace(dataset, items=items), len(changes), note


def _read(path: Path, train: Mapping[str, Item]) -> dict[str, str]:
    """The label that the CSV gives to each image. train: the training images of DATA, by id"""
    table = read_csv(read_given(path, hint=f"`python run.py report` writes one for {FLAG}"), name=str(path))
    ids = table.column(pick_column(table, ID_NAMES, what="id", flag=FLAG, position=0))
    if len(table.header) < 2:
        raise UserError(f"{path} has one column, not image_id and label")
    labels = table.column(pick_column(table, LABEL_NAMES, what="label", flag=FLAG, position=1))
    wanted: dict[str, str] = {}
    for image_id, label in zip(ids, labels, strict=True):
        if wanted.setdefault(image_id, label) != label:
            raise UserError(f"{path} gives {image_id} two labels: {wanted[image_id]} and {label}")
    strange = [image_id for image_id in wanted if image_id not in train]
    if strange:
        images = counted(len(strange), "training image", "training images")
        raise UserError(
            f"{path} names {images} that DATA does not have: {first_few(strange)}",
            hint="an id is the image's path below the training folder, as in manifest.csv",
        )
    known = sorted({item.label for item in train.values() if item.label})
    odd = sorted(set(wanted.values()) - set(known) - {""})
    if odd:
        near = difflib.get_close_matches(odd[0], known, n=1)
        raise UserError(
            f"{path} gives labels that are no class of DATA: {first_few(odd)}",
            hint=f"did you mean `{near[0]}`?" if near else "an empty label leaves an image out",
        )
    return wanted
