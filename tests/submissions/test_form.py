"""Tests the form of the sample submission: what `submit` would refuse or make up is said by `prepare`."""

import os
import re

import pytest

from folds.base.csvfile import read_csv
from folds.base.workspace import Workspace
from folds.find.dataset import find_dataset
from folds.manifest.manifest import read_manifest
from folds.settings import PrepareSettings
from submissions.check import faults_of, score_submission
from submissions.csv_form import read_layout, sample_layout
from submissions.settings import SubmitSettings
from submissions.write import submission_summary, write_submission
from tests.competition import make_competition, refusal

RENAMED = {"10": "red fox", "2": "007", "1": "1e3"}
SMALL = ("--store-size", "32", "--workers", "1")
ANOTHER = "hint: `python run.py prepare --work work DATA --sample FILE` takes another sample"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A competition with a label of two words; commands are typed beside it."""
    monkeypatch.chdir(tmp_path)
    made = make_competition(tmp_path / "data")
    for label, name in RENAMED.items():
        (made / "TrainVal" / label).rename(made / "TrainVal" / name)
    return made


def sample_text(header, labels):
    return header + "\n" + "".join(f"{number:03d},{labels}\n" for number in range(6))


@pytest.mark.parametrize(
    ("header", "labels", "fault", "hint"),
    [
        ("Id,labels", "007 1e3 0", "separates labels by ` `, which stands inside labels too: red fox",
         ANOTHER + ", such as one with `;` between the labels"),
        ("Id,007,1e3,0,red fox", "0,0,0,1",
         "has the columns Id, 007, 1e3, 0, red fox, not an id and one column for the labels, nor 3 columns with a "
         "label each", ANOTHER),
        ("Id,first,second,third", "0.5,0.3,0.2",
         "has the columns Id, first, second, third, not an id and one column for the labels, nor 3 columns with a "
         "label each", ANOTHER),
    ],
)  # fmt: skip
def test_a_form_that_submit_refuses_was_refused_only_after_all_training(data, typed, header, labels, fault, hint):
    (data / "sample_submission.csv").write_text(sample_text(header, labels))
    said = typed("prepare", data, "--work", "work", *SMALL)
    assert said.err == f"warning: the sample submission {fault}; so `submit` will refuse it\n{hint}\n"
    assert said.out.endswith("next: python run.py split --work work\n")
    typed("split", "--work", "work", "--n-folds", "2")
    assert refusal(read_layout, Workspace(data.parent / "work"))[0] == f"the sample submission {fault}"


def test_a_sample_outside_of_data_takes_the_place_of_one_whose_form_cannot_be_met(data, typed):
    (data / "sample_submission.csv").write_text(sample_text("Id,first,second", "007,1e3"))
    typed("prepare", data, "--work", "work", *SMALL)
    (data.parent / "piped.csv").write_text(sample_text("Id,labels", "007|red fox|0"))
    os.chdir(data)  # where `../piped.csv` was refused
    said = typed("prepare", data, "--work", "../work", *SMALL, "--sample", "../piped.csv")
    assert said.err == ""
    work = Workspace(data.parent / "work")
    assert work.sample.read_text() == (data.parent / "piped.csv").read_text()
    assert str(data.parent) not in read_manifest(work).to_csv()


def test_a_sample_is_looked_for_in_data_and_then_from_here(data):
    (data / "more").mkdir()
    for folder in (data, data / "more", data.parent):
        (folder / "other.csv").write_text(sample_text("id,labels", "007|red fox|0"))

    def sample(given):
        return find_dataset(data, PrepareSettings(sample=given)).sample

    assert sample("other.csv") == sample("./other.csv") == sample("data/other.csv") == "other.csv"
    assert sample("more/other.csv") == sample(str(data / "more" / "other.csv")) == "more/other.csv"
    assert sample("data/../other.csv") == str(data.parent / "other.csv")
    fault = f"`--sample ../other.csv`: there is no such file, neither in {data} nor here"
    assert refusal(sample, "../other.csv") == (fault, None)


def test_a_sample_with_one_label_a_row_gets_a_separator_that_was_made_up_in_silence(data, typed):
    (data / "sample_submission.csv").write_text(sample_text("id,label", "007"))
    said = typed("prepare", data, "--work", "work", *SMALL)
    assert (
        "warning: the sample submission shows one label a row (`000,007`), but each image gets 3 labels, best first, "
        "separated by `;`; if the organiser wants another separator, `python run.py prepare --work work DATA --sample "
        "FILE` takes a sample whose rows show it"
    ) in " ".join(said.out.split())
    assert said.err == ""


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("c001", "one label a row (`0000000,c001`)"),
        ("0 0 0", "no separator between labels of DATA (`0000000,0 0 0`)"),
        ("", "no separator between labels of DATA (`0000000,`)"),
        ("c001|c000|c002", None),
    ],
)
def test_submit_says_which_separator_it_made_up(work, cell, shown):
    ids = [*(f"{number:07d}" for number in range(40)), "x1", "x2"]
    work.sample.write_text("id,label\n" + "".join(f"{name},{cell}\n" for name in ids))
    said = submission_summary(write_submission(work, SubmitSettings())).splitlines()
    assert said[0].endswith("42 rows, valid")
    assert said[1].startswith(
        f"warning: the sample submission shows {shown}, but each image gets 3 labels, best first, separated by ` `; "
        if shown
        else "2 unreadable test images"
    )


@pytest.mark.parametrize("cells", ["c001;c000;c002", ";;"])
def test_a_sample_with_a_column_for_each_of_three_labels_was_refused(work, tmp_path, cells):
    ids = [*(f"{number:07d}" for number in range(40)), "x1", "x2"]
    write_submission(work, SubmitSettings(csv_name="one"))
    work.sample.write_text("ID;Species 1;Species 2;Species 3\n" + "".join(f"{name};{cells}\n" for name in ids))
    path, layout = write_submission(work, SubmitSettings()).path, read_layout(work)
    joined = work.submissions.joinpath("one.csv").read_text().splitlines()[1:]
    head, *rows = path.read_text().splitlines()
    assert (head, rows) == ("ID;Species 1;Species 2;Species 3", [re.sub("[ ,]", ";", row) for row in joined])
    (truth := tmp_path / "truth.csv").write_text(
        "id,label\n" + "".join(f"{r[:7]},{r.split(';')[2]}\n" for r in rows[:4])
    )
    score = score_submission(path, truth, layout)
    assert (score.top1_error, score.top3_error) == (1, 0)
    path.write_text(path.read_text().replace(rows[0], f"{rows[0][:-4]}nope").replace(rows[1], rows[1][:-5]))
    assert [fault.partition(":")[0] for fault in faults_of(path.read_bytes(), layout)] == [
        "1 row without 4 cells", "1 id is missing", "1 row with labels that are not among the classes"
    ]  # fmt: skip


def test_three_columns_called_like_the_classes_are_for_probabilities():
    sample = read_csv(b"id,a,b,c\n1,,,\n", name="sample.csv")
    assert refusal(sample_layout, sample, ["a", "b", "c"])[0].startswith("sample.csv has the columns id, a, b, c, not")


def test_a_label_of_two_words_that_are_labels_too_is_one_label():
    sample = read_csv(b"id,label\n1,red fox\n2,fox\n", name="sample.csv")
    layout = sample_layout(sample, ["red", "fox", "red fox"])
    assert (layout.label_separator, layout.shown) == (";", "sample.csv shows one label a row (`1,red fox`)")
