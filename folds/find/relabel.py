"""Takes other labels than those of DATA from a CSV of ids and labels, which changes no file of DATA."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from folds.base.config_file import toml_value
from folds.base.csvfile import ID_NAMES, LABEL_NAMES, pick_column, read_csv, read_given
from folds.base.errors import UserError, counted, first_few
from folds.find.dataset import Dataset, Item
from folds.find.listing import Lookup
from folds.find.reasons import RELABELLED, UNLABELLED, Reason

RELABEL_FLAG = "`--relabel FILE`"


def relabel(dataset: Dataset, path: Path) -> tuple[Dataset, int, str]:
    """The dataset with the labels of a CSV, how many images that changed, and a sentence about it.

    path  columns image_id and label, others are ignored; images that it does not name keep their label, an empty label
          leaves an image out, and changes nothing for one that has none; an id may be a shorter one, see `Lookup`
    Raises UserError where the file cannot be read, or names images or labels that DATA does not have.
    """
    train = {item.image_id: item for item in dataset.items if item.split == "train"}
    changes = _changed_labels(path, train)
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
        f"{path} gives {given} another label and leaves {lost} out; pass it to every `prepare` and `all`, "
        f"or write `relabel = {toml_value(path.resolve())}` into [prepare] of kit.toml"
    )
    return replace(dataset, items=items), len(changes), note


def _changed_labels(path: Path, train: Mapping[str, Item]) -> dict[str, str]:
    """The labels of a CSV that differ from those of the training images, by id; '' leaves an image out."""
    table = read_csv(read_given(path, hint=f"`python run.py report` writes one for {RELABEL_FLAG}"), name=str(path))
    ids = table.column(pick_column(table, ID_NAMES, what="id", flag=RELABEL_FLAG, position=0))
    if len(table.header) < 2:
        raise UserError(f"{path} has one column, not image_id and label")
    labels = table.column(pick_column(table, LABEL_NAMES, what="label", flag=RELABEL_FLAG, position=1))
    by_path = {item.file.path: image_id for image_id, item in train.items()}
    lookup = Lookup.of_images(by_path.values(), by_path)
    wanted: dict[str, str] = {}
    for name, label in zip(ids, labels, strict=True):
        file = lookup.find(name)
        image_id = by_path[file.path] if file else name
        if wanted.setdefault(image_id, label) != label:
            raise UserError(f"{path} gives {image_id} two labels: {wanted[image_id]} and {label}")
    strange = [image_id for image_id in wanted if image_id not in train]
    if strange:
        images = counted(len(strange), "training image", "training images")
        raise UserError(
            f"{path} names {images} that DATA does not have: {first_few(strange)}",
            hint="an id is the image's path below the training folder, as in manifest.csv, or its name alone",
        )
    known = sorted({item.label for item in train.values() if item.label})
    odd = sorted(set(wanted.values()) - set(known) - {""})
    if odd:
        near = difflib.get_close_matches(odd[0], known, n=1)
        raise UserError(
            f"{path} gives labels that are no class of DATA: {first_few(odd)}",
            hint=f"did you mean `{near[0]}`?" if near else "an empty label leaves an image out",
        )
    return {image_id: label for image_id, label in wanted.items() if train[image_id].label != label}
