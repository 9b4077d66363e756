"""Tests CSVs as people save them: whatever stands in them is read as text, or refused in one sentence."""

import contextlib
import csv
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folds.base.csvfile import CsvTable, read_csv
from folds.base.errors import UserError
from folds.base.workspace import Workspace
from folds.find.dataset import find_dataset
from folds.manifest.manifest import read_manifest
from folds.manifest.prepare import prepare
from folds.settings import PrepareSettings, SplitSettings
from folds.split.assign import load_folds
from folds.split.groups import training_images
from submissions.check import check_submission, score_submission
from submissions.csv_form import Layout
from tests.competition import QUICK, jpeg, refusal, write_files
from tests.faults.whole import count

LIKE_NUMBERS = ("NA", "null", "nan", "1e5", "inf", "True", "-0", "007", "7", "1.0", "None", "#N/A")
LAYOUT = Layout(("id", "predicted"), ("01", "2", "10"), ("a", "b", "c", "d"), ",", " ")
ANY_BYTES = st.binary(max_size=80) | st.text(alphabet="abc01,;\t|\"'\r\n \0\ufeff\xa0", max_size=80).map(str.encode)
FUZZ = settings(
    max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def joined(*parts: str) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(parts)).map(lambda drawn: "".join(drawn).encode())


@pytest.mark.parametrize("name", ["has space", "a,b", "a;b", 'a"b', "007", "1e5", "NA", "-1", "two\nlines", "\u00e9"])
def test_ids_of_any_text_find_their_file(tmp_path, name):
    data = write_files(tmp_path, f"train/{name}.jpg", "train/other.jpg", f"test/{name}.png")
    for file, rows in (
        ("train.csv", [["id", "label"], [name, "x"], ["other", "y"]]),
        ("sample_submission.csv", [["id"], [name]]),
    ):
        with open(data / file, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    items = find_dataset(data, PrepareSettings()).items
    assert [(i.split, i.image_id) for i in items if i.label != "y"] == [("train", f"{name}.jpg"), ("test", name)]


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../outside", "C:\\x", "..", "\\\\host\\x", "./../x"]
)
@pytest.mark.parametrize("csv_name", ["train", "sample"])
def test_ids_that_lead_outside_are_refused(tmp_path, csv_name, name):
    write_files(tmp_path, "outside.jpg", "outside")
    classes = ("train/a/1.jpg", "train/b/2.jpg", "test/1.jpg")
    data = write_files(tmp_path / "data", *classes, **{csv_name: f"id,label\n1,a\n{name},b\n"})
    said, _ = refusal(find_dataset, data, PrepareSettings())
    file = {"train": "train.csv", "sample": "sample_submission.csv"}[csv_name]
    assert said == f"{file} names {name}, which may lead outside the data folder: it is not read"


@FUZZ
@given(ANY_BYTES)
def test_any_bytes_are_a_table_or_one_sentence(content):
    count("CSVs")
    with contextlib.suppress(UserError):
        table = read_csv(content, name="any.csv")
        assert isinstance(table, CsvTable)
        assert {len(row) for row in table.rows} <= {len(table.header)}


@FUZZ
@given(ANY_BYTES | joined("01,", "2,", "10,", "a b c", "d", '"', "\n", "\r\n", "id,predicted\n"))
def test_any_bytes_are_checked_and_scored_without_a_crash(tmp_path, content):
    count("CSVs")
    (tmp_path / "guess.csv").write_bytes(content)
    (tmp_path / "truth.csv").write_text("id,label\n01,a\n2,b\n")
    assert check_submission(tmp_path / "guess.csv", LAYOUT).faults or content.count(b"\n") == 4
    with contextlib.suppress(UserError):
        score_submission(tmp_path / "guess.csv", tmp_path / "truth.csv", LAYOUT)


@pytest.mark.parametrize("name", ["a,b", 'a"b', "two\nlines", "re\rturn", "both\r\nends", " ", "007"])
def test_a_submission_with_odd_ids_and_labels_is_valid_as_it_is_written(tmp_path, name):
    """An id with a carriage return made a CSV that its own check refused; one of two lines counted as two rows."""
    layout = Layout(("id", "predicted"), (name, "1"), ("x y", "y", "z"), ",", ";")
    path = tmp_path / "guess.csv"
    path.write_bytes("".join(map(layout.line, [layout.header, (name, "x y;y;z"), ("1", "z;y;x y")])).encode())
    assert check_submission(path, layout).sentence == f"{path}: 2 rows, valid"


def test_thirty_thousand_rows_are_read_and_checked(tmp_path):
    ids = tuple(f"{number:07d}" for number in range(30_000))
    rows = "".join(f"{name},{number % 103:03d}\n" for number, name in enumerate(ids))
    data = write_files(tmp_path, "train/0000007.jpg", "train/0000008.jpg", train="id,label\n" + rows)
    items = find_dataset(data, PrepareSettings()).items
    assert len(items) == 30_000
    assert [i.label for i in items if not i.file.fault] == ["007", "008"]
    layout = Layout(("id", "predicted"), ids, LIKE_NUMBERS, ",", " ")
    path = tmp_path / "guess.csv"
    path.write_text("id,predicted\n" + "".join(f"{name},NA 1e5 007\n" for name in ids))
    assert check_submission(path, layout).sentence == f"{path}: 30,000 rows, valid"


def test_labels_that_look_like_numbers_stay_text_from_the_labels_to_the_submission(tmp_path, typed):
    """As names of class folders they are in test_names.py."""
    data, rng, ids = tmp_path / "data", np.random.default_rng(0), ("NA", "1e5", "007", "inf")
    labels = {f"{label.replace('/', '-')}-{n}": label for label in sorted(LIKE_NUMBERS) for n in range(4)}
    for path in (*(f"train/{name}.jpg" for name in labels), *(f"test/{name}.jpg" for name in ids)):
        (write_files(data, path) / path).write_bytes(jpeg((90, 90, 90), rng))
    rows = "".join(f"{name},{label}\n" for name, label in labels.items())
    write_files(
        data, train="id,label\n" + rows, sample="id,predicted\n" + "".join(f"{name},NA 7 007\n" for name in ids)
    )
    work, classes = Workspace(tmp_path / "work"), set(LIKE_NUMBERS)
    typed("all", data, "--work", work.root, *QUICK, "--trials", "16")
    assert set(read_manifest(work).loc[lambda table: table["split"] == "train", "label"]) == classes
    assert set(load_folds(work).classes) == classes
    with np.load(work.fold("test_resnet", 0) / "oof.npz") as arrays:
        assert set(arrays["classes"].tolist()) == classes
    assert set(json.loads(work.blend.read_text())["classes"]) == classes
    lines = [line.split(",") for line in (work.submissions / "blend.csv").read_text().splitlines()[1:]]
    assert [name for name, _ in lines] == list(ids)
    assert all(len(guesses.split(" ")) == 3 and classes.issuperset(guesses.split(" ")) for _, guesses in lines)
    typed("check", work.submissions / "blend.csv", "--work", work.root)


@pytest.fixture(scope="module")
def four_images(tmp_path_factory):
    """A work folder that knows four images, all different, of two classes."""
    data, rng = tmp_path_factory.mktemp("groups") / "data", np.random.default_rng(0)
    for name in ("train/a/0.jpg", "train/a/1.jpg", "train/b/0.jpg", "train/b/01.jpg"):
        (write_files(data, name) / name).write_bytes(jpeg((90, 90, 90), rng))
    work = Workspace(data.parent / "work")
    prepare(work, data, PrepareSettings(store_size=16, workers=1))
    return work


@FUZZ
@given(ANY_BYTES | joined("a/0,", "b/01,", "0.jpg,", "c,", "x", "01", "\n", "id,c\n", "c,id\n", '"', ""), st.booleans())
def test_any_bytes_of_groups_or_folds_are_folds_or_one_sentence(four_images, content, is_fold):
    count("CSVs")
    path, kind = four_images.root / "groups.csv", "fold" if is_fold else "group"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        numbers = training_images(four_images, SplitSettings(groups=path, **{f"{kind}_column": "c"}))[0][kind]
        assert sorted(set(numbers)) == list(range(numbers.nunique()))
        assert len(numbers) == 4


@FUZZ
@given(st.text(alphabet="ab01/.()[]{}\\*+?|^$-P<>=!#", max_size=12))
def test_any_pattern_gives_groups_or_one_sentence(four_images, pattern):
    count("patterns")
    with contextlib.suppress(UserError):
        images, _ = training_images(four_images, SplitSettings(group_regex=pattern))
        assert 1 <= images["group"].nunique() <= 4
