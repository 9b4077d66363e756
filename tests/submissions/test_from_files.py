"""Tests the blend of nothing but files: labels, OOF and test predictions in, CSV out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.members.from_files import make_file_workspace
from ensemble.settings import BlendSettings, FileSettings
from folds.base.errors import UserError
from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from submissions.write import blend_files
from tests.benchmarks.synthetic import World, member_log_probs

WORLD = World(n=500, n_test=60, n_classes=6, n_folds=5, margin=4.0)
QUICK = BlendSettings(trials=16, half_samples=1, keep="equal")
CLASSES = ["1", "2", "10", "NA", "null", "1e5"]  # labels that look like numbers, or like nothing


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder with labels.csv, and oof0.csv, test0.csv .. of two members, rows in no order."""
    folder = tmp_path_factory.mktemp("tables")
    target, hidden = WORLD.targets(0), WORLD.targets(1)
    labels = pd.DataFrame({"id": [f"{row:04d}" for row in range(500)], "label": np.array(CLASSES)[target]})
    labels.sample(frac=1, random_state=0).to_csv(folder / "labels.csv", index=False)
    for member in range(2):
        for part, name, truth in ((0, "oof", target), (1, "test", hidden)):
            probs = np.exp(member_log_probs(WORLD, truth, part=part, member=member))
            ids = pd.DataFrame({"id": [f"{row:04d}" for row in range(len(truth))]})
            table = pd.concat([ids, pd.DataFrame(probs, columns=CLASSES)], axis=1)
            table.sample(frac=1, random_state=member).to_csv(folder / f"{name}{member}.csv", index=False)
    return folder


@pytest.fixture
def files(tables, tmp_path):
    pairs = tuple(f"net{m}={tables}/oof{m}.csv:{tables}/test{m}.csv" for m in range(2))
    return FileSettings(labels=str(tables / "labels.csv"), member=pairs, out=str(tmp_path / "made" / "guess.csv"))


def test_files_alone_make_a_checked_csv_and_the_order_of_members_makes_no_difference(files, tmp_path):
    made, written = blend_files(files, QUICK, seed=0)
    guesses = pd.read_csv(written.path, dtype=str, keep_default_na=False)
    assert guesses["id"].tolist() == [f"{row:04d}" for row in range(60)]
    truth = np.array(CLASSES)[WORLD.targets(1)]
    missed = np.mean([label not in row.split() for label, row in zip(truth, guesses["predicted"], strict=True)])
    assert missed < 0.1
    assert sorted(made.blend.weights) == ["net0", "net1"]
    made_files = ["guess.blend.json", "guess.csv", "guess.json"]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == made_files
    first = written.path.read_bytes()
    turned = replace(files, member=tuple(reversed(files.member)))
    assert blend_files(turned, QUICK, seed=0)[1].path.read_bytes() == first


def test_the_samples_order_is_kept(files, tmp_path):
    ids = [f"{row:04d}" for row in reversed(range(60))]
    (tmp_path / "sample.csv").write_text("image,labels\n" + "".join(f"{name},1 2 10\n" for name in ids))
    _, written = blend_files(replace(files, sample_csv=str(tmp_path / "sample.csv")), QUICK, seed=0)
    lines = written.path.read_text().splitlines()
    assert (lines[0], [line.split(",")[0] for line in lines[1:]]) == ("image,labels", ids)


def test_folds_of_the_labels_are_the_folds_of_the_score(files):
    made, _ = blend_files(labelled(files, fold=[("x", "y")[i % 2] for i in range(500)]), QUICK, seed=0)
    assert len(made.kept.fits.without) == 2


def labelled(files, **columns):
    """The files with more columns in the labels."""
    table = pd.read_csv(files.labels, dtype=str, keep_default_na=False).assign(**columns)
    path = Path(files.out).parents[1] / "more.csv"
    table.to_csv(path, index=False)
    return replace(files, labels=str(path))


def folds_of(files, tmp_path):
    workspace = Workspace(tmp_path / "room")
    warnings = make_file_workspace(workspace, files, seed=0)
    return load_folds(workspace), warnings


def test_a_group_without_fold_was_cut_by_the_folds_that_were_drawn(files, tmp_path):
    """26 of 30 groups lay in two folds."""
    folds, warnings = folds_of(labelled(files, group=[f"g{row % 30}" for row in range(500)]), tmp_path)
    pairs = {*zip(folds.group.tolist(), folds.fold.tolist(), strict=True)}
    assert (len(pairs), len(np.unique(folds.group)), warnings) == (30, 30, ())
    assert np.bincount(folds.fold).min() > 60


def test_images_without_a_group_were_one_group_together(files, tmp_path):
    folds, _ = folds_of(labelled(files, group=["a", "a", "b", "b", *[""] * 496]), tmp_path)
    assert len(np.unique(folds.group)) == 2 + 496


def test_folds_of_the_labels_that_cut_groups_are_used_with_a_warning(files):
    cut = labelled(files, group=[str(row // 2) for row in range(500)], fold=[str(row % 2) for row in range(500)])
    made, _ = blend_files(cut, QUICK, seed=0)
    assert made.warnings[0] == "the folds of more.csv cut 250 of its groups: the scores may be too good"


def test_too_few_groups_for_the_folds_are_refused(files):
    with pytest.raises(UserError) as caught:
        blend_files(labelled(files, group=[str(row % 4) for row in range(500)]), QUICK, seed=0)
    assert caught.value.message == "500 labelled images in 4 groups do not fill 5 folds"
    assert caught.value.hint == "`--blend-folds 2`"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"member": ("a.csv",)}, "the member `a.csv` names no two files"),
        ({"member": ()}, "a blend of files needs labels and members"),
        ({"labels": "nowhere.csv"}, "cannot read nowhere.csv: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(files, tmp_path, change, sentence):
    with pytest.raises(UserError) as caught:
        blend_files(replace(files, **change), QUICK, seed=0)
    assert caught.value.message == sentence
    assert not (tmp_path / "made").exists()


def test_an_id_of_the_sample_without_a_prediction_is_named_with_the_file_that_lacks_it(files, tables, tmp_path):
    """The error spoke of a manifest in a temporary folder, and of `prepare DATA`, after the whole search."""
    sample = tmp_path / "sample.csv"
    sample.write_text("image,labels\n0001,1 2 10\nx9,1 2 10\nx10,1 2 10\n")
    with pytest.raises(UserError) as caught:
        blend_files(replace(files, sample_csv=str(sample)), QUICK, seed=0)
    assert caught.value.message == (f"{tables}/test0.csv has no prediction for 2 of the 3 ids of {sample}: x9, x10")
    assert caught.value.hint == "add their rows, or take them out of the sample"
    assert not (tmp_path / "made").exists()


def test_two_members_of_one_name_are_refused(files):
    with pytest.raises(UserError, match="two members are called net0"):
        blend_files(replace(files, member=(files.member[0],) * 2), QUICK, seed=0)


def test_a_member_whose_file_is_called_like_siblings_needs_a_name(files, tmp_path):
    oof, test = files.member[0].partition("=")[2].split(":")
    plus = shutil.copy(oof, tmp_path / "s0+s1.csv")
    with pytest.raises(UserError, match=r"^`s0\+s1` is no name for a member: ") as caught:
        blend_files(replace(files, member=(f"{plus}:{test}",)), QUICK, seed=0)
    assert caught.value.hint == f"`--member NAME={plus}:{test}`"
