"""Tests the blend of nothing but files: labels, OOF and test predictions in, CSV out."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.members.from_files import make_file_workspace, member_files
from ensemble.settings import FileSettings
from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from submissions.write import blend_files
from tests.competition import refusal
from tests.ensemble.small import EQUAL
from tests.synthetic import World, member_log_probs

WORLD = World(n=500, n_test=60, n_classes=6, n_folds=5, margin=4.0)
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
            ids = pd.Index([f"{row:04d}" for row in range(len(truth))], name="id")
            table = pd.DataFrame(probs, ids, CLASSES).sample(frac=1, random_state=member)
            table.to_csv(folder / f"{name}{member}.csv")
    return folder


@pytest.fixture
def files(tables, tmp_path):
    pairs = tuple(f"net{m}={tables}/oof{m}.csv:{tables}/test{m}.csv" for m in range(2))
    return FileSettings(labels=str(tables / "labels.csv"), member=pairs, out=str(tmp_path / "made" / "guess.csv"))


def test_files_alone_make_a_checked_csv_in_whatever_order_the_members_come(files, tmp_path, monkeypatch, typed):
    made, written = blend_files(files, EQUAL, seed=0)
    guesses = pd.read_csv(written.path, dtype=str, keep_default_na=False)
    assert guesses["id"].tolist() == [f"{row:04d}" for row in range(60)]
    truth = np.array(CLASSES)[WORLD.targets(1)]
    missed = np.mean([label not in row.split() for label, row in zip(truth, guesses["predicted"], strict=True)])
    assert missed < 0.1
    assert sorted(made.blend.weights) == ["net0", "net1"]
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {"guess.blend.json", "guess.csv", "guess.json"}
    monkeypatch.chdir(tmp_path)
    members = [word for member in reversed(files.member) for word in ("--member", member)]
    out = typed("blend", "--labels", files.labels, *members, "--keep", "equal", "--trials", "16").out
    assert "submission.csv: 60 rows, valid" in out
    assert Path("submission.csv").read_bytes() == written.path.read_bytes()
    assert not Path("work").exists()


def test_the_samples_order_is_kept(files, tmp_path):
    ids = [f"{row:04d}" for row in reversed(range(60))]
    (tmp_path / "sample.csv").write_text("image,labels\n" + "".join(f"{name},1 2 10\n" for name in ids))
    _, written = blend_files(replace(files, sample_csv=str(tmp_path / "sample.csv")), EQUAL, seed=0)
    lines = written.path.read_text().splitlines()
    assert (lines[0], [line.split(",")[0] for line in lines[1:]]) == ("image,labels", ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=runs/lr=0.1/oof.csv:runs/lr=0.1/test.csv", ("a", "runs/lr=0.1/oof.csv", "runs/lr=0.1/test.csv")),
        ("runs/lr=0.1/oof.csv:test.csv", ("oof", "runs/lr=0.1/oof.csv", "test.csv")),
        (r"net=C:\kaggle\oof.csv:C:/kaggle/test.csv", ("net", r"C:\kaggle\oof.csv", "C:/kaggle/test.csv")),
    ],
)
def test_a_path_may_hold_what_parts_a_member_s_name_and_files(tmp_path, monkeypatch, text, expected):
    monkeypatch.chdir(tmp_path)
    Path("oof_lr=3.csv").touch()
    assert member_files(text) == expected
    said = refusal(member_files, "oof_lr=3.csv:test.csv")
    assert said[0].startswith("`oof_lr=3` is no name for a member")
    assert said[1] == "`--member NAME=oof_lr=3.csv:test.csv`"


def test_a_sample_without_ids_made_a_csv_without_rows_and_names_met_in_one_folder(files, tmp_path):
    (tmp_path / "sample.csv").write_text("id,predicted\n")
    sampled = replace(files, sample_csv=str(tmp_path / "sample.csv"))
    assert refusal(blend_files, sampled, EQUAL, seed=0)[0] == "sample.csv has no ids"
    (tmp_path / "sample.csv").write_text("id,predicted\n0001,1\n0001,1\n")
    assert refusal(blend_files, sampled, EQUAL, seed=0)[0] == "sample.csv has the id 0001 twice"
    again = replace(files, member=(files.member[0], files.member[1].replace("net1", "NET0")))
    assert refusal(blend_files, again, EQUAL, seed=0)[0] == "two members are called NET0, net0"


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


def test_the_order_of_the_labels_changed_the_folds(files, tmp_path):
    by_row = labelled(files, group=[str(row // 2) if row < 20 else "" for row in range(500)])
    first = folds_of(by_row, tmp_path / "first")[0]
    pd.read_csv(by_row.labels, dtype=str, keep_default_na=False)[::-1].to_csv(by_row.labels, index=False)
    again = folds_of(by_row, tmp_path / "again")[0]
    assert (again.digest, again.group.tolist()) == (first.digest, first.group.tolist())


def test_a_group_without_fold_was_cut_by_the_folds_that_were_drawn(files, tmp_path):
    """26 of 30 groups lay in two folds."""
    folds, warnings = folds_of(labelled(files, group=[f"g{row % 30}" for row in range(500)]), tmp_path)
    pairs = {*zip(folds.group.tolist(), folds.fold.tolist(), strict=True)}
    assert (len(pairs), len(np.unique(folds.group)), warnings) == (30, 30, ())
    assert np.bincount(folds.fold).min() > 60


def test_images_without_a_group_were_one_group_together(files, tmp_path):
    folds, _ = folds_of(labelled(files, group=["a", "a", "b", "b", *[""] * 496]), tmp_path)
    assert len(np.unique(folds.group)) == 2 + 496


def test_folds_of_the_labels_are_the_folds_of_the_score_with_a_warning_where_they_cut_groups(files):
    cut = labelled(files, group=[str(row // 2) for row in range(500)], fold=["xy"[row % 2] for row in range(500)])
    made, _ = blend_files(cut, EQUAL, seed=0)
    assert len(made.kept.fits.without) == 2
    assert made.warnings[0] == "the folds of more.csv cut 250 of its groups: the scores may be too good"


def test_an_image_without_a_fold_was_put_into_one_of_its_own(files):
    gap = labelled(files, fold=["", *["xy"[row % 2] for row in range(499)]])
    assert refusal(blend_files, gap, EQUAL, seed=0)[0] == "row 2 of more.csv has no fold"


def test_too_few_groups_for_the_folds_are_refused(files):
    few = labelled(files, group=[str(row % 4) for row in range(500)])
    said = "500 labelled images in 4 groups do not fill 5 folds", "`--blend-folds 2`"
    assert refusal(blend_files, few, EQUAL, seed=0) == said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"member": ("a.csv",)}, "the member `a.csv` names no two files"),
        ({"member": ()}, "a blend of files needs labels and members"),
        ({"labels": "nowhere.csv"}, "cannot read nowhere.csv: No such file or directory"),
        ({"out": "x.json"}, "`--out x.json` is where the lineage goes, which has the CSV's name and ends in .json"),
        (
            {"logits": True},
            "oof0.csv holds probabilities, not logits: in 500 of its 500 rows no number is negative"
            " and the sum is about 1",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(files, tmp_path, change, sentence):
    assert refusal(blend_files, replace(files, **change), EQUAL, seed=0)[0] == sentence
    assert not (tmp_path / "made").exists()


def test_an_id_of_the_sample_without_a_prediction_is_named_with_the_file_that_lacks_it(files, tables, tmp_path):
    """The error spoke of a manifest in a temporary folder, and of `prepare DATA`, after the whole search."""
    sample = tmp_path / "sample.csv"
    sample.write_text("image,labels\n0001,1 2 10\nx9,1 2 10\nx10,1 2 10\n")
    fault = f"{tables}/test0.csv has no prediction for 2 of the 3 ids of {sample}: x9, x10"
    hint = "add their rows, or take them out of the sample"
    assert refusal(blend_files, replace(files, sample_csv=str(sample)), EQUAL, seed=0) == (fault, hint)
    assert not (tmp_path / "made").exists()


def test_a_test_file_that_lacks_rows_was_named_by_its_copy_in_a_temporary_folder_after_the_search(files, tmp_path):
    oof, test = files.member[0].partition("=")[2].split(":")
    pd.read_csv(test, dtype=str).query("id not in ('0003', '0007')").to_csv(tmp_path / "less.csv", index=False)
    fault = f"{tmp_path}/less.csv has no prediction for 2 of the 60 ids of all test files: 0003, 0007"
    for members in ((f"{oof}:{tmp_path}/less.csv", files.member[1]), (files.member[1], f"{oof}:{tmp_path}/less.csv")):
        said = refusal(blend_files, replace(files, member=members), EQUAL, seed=0)
        assert said == (fault, "add their rows, or take them out of the others")


def test_a_sample_of_another_form_is_answered_with_the_flag_of_this_command_before_the_search(files, tmp_path):
    (tmp_path / "sample.csv").write_text("image,a,b\n0001,1,2\n")
    trials = replace(EQUAL, trials=10**9)
    message, hint = refusal(blend_files, replace(files, sample_csv=str(tmp_path / "sample.csv")), trials, seed=0)
    assert message.startswith("the sample submission has the columns image, a, b, ")
    assert hint == "`--sample-csv FILE` takes another sample"


def test_files_of_both_kinds_are_refused_with_which_is_which(files, tmp_path):
    oof, test = files.member[1].partition("=")[2].split(":")
    table = pd.read_csv(oof, index_col="id", dtype={"id": str}, keep_default_na=False)
    (np.log(table) + 3).to_csv(tmp_path / "logits.csv")
    mixed = replace(files, member=(files.member[0], f"{tmp_path}/logits.csv:{test}"))
    message, hint = refusal(blend_files, mixed, EQUAL, seed=0)
    assert message.startswith("logits.csv holds no probabilities for ")
    first = files.member[0].partition("=")[2].replace(":", ", ")
    assert hint.startswith(f"all files must be of one kind, and {first} hold probabilities; if only these are logits, ")


def test_two_members_that_predict_the_same_are_said_to_and_no_work_folder_is_spoken_of(files):
    again = replace(files, member=(*files.member, files.member[0].replace("net0", "again")))
    made, _ = blend_files(again, EQUAL, seed=0)
    assert made.warnings == ("again, net0 predict exactly the same: leave out all but one with `--members`",)


def test_two_members_of_one_name_are_refused_and_one_whose_file_is_called_like_siblings_needs_a_name(files, tmp_path):
    twice = replace(files, member=(files.member[0],) * 2)
    assert "two members are called net0" in refusal(blend_files, twice, EQUAL, seed=0)[0]
    oof, test = files.member[0].partition("=")[2].split(":")
    plus = shutil.copy(oof, tmp_path / "s0+s1.csv")
    message, hint = refusal(blend_files, replace(files, member=(f"{plus}:{test}",)), EQUAL, seed=0)
    assert message.startswith("`s0+s1` is no name for a member: ")
    assert hint == f"`--member NAME={plus}:{test}`"
