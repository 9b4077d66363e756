"""Makes a work folder out of files alone: labels and members, without images, torch or `prepare`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.members.add_member import add_member
from ensemble.members.external import refuse_repeated
from ensemble.members.oof_file import open_predictions
from ensemble.settings import AddSettings, FileSettings
from folds.base.csvfile import ID_NAMES, LABEL_NAMES, pick_column, read_csv, read_given
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, write_bytes
from folds.find.dataset import ids_of_sample
from folds.manifest.manifest import class_order
from folds.split.assign import COLUMNS, store_folds, stratified_group_folds
from models.runs import refuse_name

LABELS_HINT = "`--labels labels.csv`: an id column and a label column, one row per training image"
TWO_FILES = re.compile(r"((?:[A-Za-z]:[\\/])?[^:]+):(.+)")  # either may begin with the letter of a drive


def make_file_workspace(workspace: Workspace, files: FileSettings, *, seed: int) -> tuple[str, ...]:
    """Folds from `labels.csv`, and the members, in an empty work folder. Returns warnings about the labels.

    The members' rows are trusted to be out of fold; the folds here only cross-fit the blend. They are the `fold` column
    of the labels, or else drawn class by class. A `group` column names images of one picture: they share a drawn fold,
    and count as one draw in the intervals; an image whose cell is empty is a group of its own.
    """
    if not files.labels or not files.member:
        raise UserError("a blend of files needs labels and members", hint="`--labels FILE --member OOF:TEST`")
    members = [member_files(text) for text in files.member]
    names = [name for name, _, _ in members]
    folders = [name.casefold() for name in names]  # on a Mac two names that differ in letter case alone are one
    twice = sorted({name for name in names if folders.count(name.casefold()) > 1})
    if twice:
        raise UserError(f"two members are called {first_few(twice)}", hint="`--member NAME=OOF:TEST`")
    warnings = _make_folds(workspace, Path(files.labels), n_folds=files.blend_folds, seed=seed)
    wanted = _copy_sample(workspace, Path(files.sample_csv)) if files.sample_csv else []
    predicted: dict[str, set[str]] = {}  # by each test file
    beside: list[str] = []
    for name, oof, test in members:
        settings = AddSettings(oof=oof, test=test, logits=files.logits, trust_folds=True)
        added = add_member(workspace, name, settings, beside=beside)
        predicted[test] = set(open_predictions(added.folder / "test.npz", hint="").image_id.tolist())
        beside += [oof, test]
    _refuse_gaps(predicted, wanted, of=str(files.sample_csv), way_out="the sample")
    _refuse_gaps(predicted, sorted(set.union(*predicted.values())), of="all test files", way_out="the others")
    return tuple(warnings)


def _refuse_gaps(predicted: Mapping[str, set[str]], wanted: Sequence[str], *, of: str, way_out: str) -> None:
    """Refuse a test file that lacks ids, before a search that would end without a CSV."""
    for test, ids in predicted.items():
        lacking = [one for one in wanted if one not in ids]
        if lacking:
            counts = f"{len(lacking):,} of the {len(wanted):,} ids of {of}"
            hint = f"add their rows, or take them out of {way_out}"
            raise UserError(f"{test} has no prediction for {counts}: {first_few(lacking)}", hint=hint)


def member_files(text: str) -> tuple[str, str, str]:
    """`NAME=OOF:TEST`, or `OOF:TEST`, and then the OOF file's name is the member's."""
    name, _, files = text.partition("=")
    whole = TWO_FILES.fullmatch(text)
    if not files or "/" in name or (whole and Path(whole[1]).is_file()):  # a `=` may be part of a path
        name, files = "", text
    found = TWO_FILES.fullmatch(files)
    if not found:
        raise UserError(f"the member `{text}` names no two files", hint="`--member OOF:TEST`")
    oof, test = found.groups()
    name = name or Path(oof).stem
    refuse_name(name, what="member", hint=f"`--member NAME={files}`")
    return name, oof, test


def _copy_sample(workspace: Workspace, path: Path) -> list[str]:
    """Take a sample submission into the work folder; returns its ids."""
    data = read_given(path, hint="`--sample-csv FILE`")
    write_bytes(workspace.sample, data)
    return ids_of_sample(read_csv(data, name=path.name), flag="--sample-csv")


def _make_folds(workspace: Workspace, path: Path, *, n_folds: int, seed: int) -> list[str]:
    """Write `folds.csv` from ids and labels. Returns warnings."""
    table = read_csv(read_given(path, hint=LABELS_HINT), name=path.name)
    id_column = pick_column(table, ID_NAMES, what="id", flag="--labels", position=0)
    label_column = pick_column(table, LABEL_NAMES, what="label", flag="--labels", position=1)
    wanted = ((id_column, "id"), (label_column, "label"))
    ids, labels = (np.array(table.full_column(name, what=what, hint=LABELS_HINT)) for name, what in wanted)
    refuse_repeated(ids, name=path.name, hint=LABELS_HINT)
    classes = class_order(labels.tolist())
    if len(classes) < 2:
        raise UserError(f"{path.name} has {len(classes)} classes, and a blend needs two", hint=LABELS_HINT)
    order = np.argsort(ids)  # folds are those of the images, whatever the order of the rows
    cells = pd.Series(table.column("group") if "group" in table.header else "", index=range(len(ids)), dtype=object)
    group = pd.factorize(cells.where(cells != "", cells.index.to_series())[order])[0]  # an empty cell: one of its own
    ids, labels = ids[order], labels[order]
    target = pd.Index(classes).get_indexer(pd.Index(labels))
    if "fold" in table.header:
        fold = np.unique(table.full_column("fold", what="fold", hint=LABELS_HINT), return_inverse=True)[1][order]
        if fold.max() < 1:
            raise UserError(f"{path.name} has one fold, and cross-fitting the blend needs two", hint=LABELS_HINT)
    else:
        n_groups = len(np.unique(group))
        if n_groups < n_folds:
            what = f"{len(ids)} labelled images" + (f" in {n_groups} groups" if n_groups < len(ids) else "")
            hint = "`--blend-folds 2`" if n_groups > 1 else LABELS_HINT
            raise UserError(f"{what} do not fill {n_folds} folds", hint=hint)
        fold = stratified_group_folds(target, group, n_folds=n_folds, seed=seed)
    made = pd.DataFrame(dict(zip(COLUMNS, (ids, ids, labels, target, fold, group), strict=True)))
    store_folds(workspace, made, seed=seed)
    cut = int((made.groupby("group")["fold"].nunique() > 1).sum())
    return [f"the folds of {path.name} cut {cut:,} of its groups: the scores may be too good"] if cut else []
