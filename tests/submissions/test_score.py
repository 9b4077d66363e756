"""Tests the score of a CSV whose true labels are known, and the error that its lineage expects."""

import json

import pytest

from ensemble.blend.expected import ExpectedScore
from folds.base.errors import UserError
from folds.base.workspace import digest
from submissions.check import expected_top3, score_submission
from submissions.csv_form import Layout

LAYOUT = Layout(("id", "predicted"), ("1", "2", "3", "4"), ("a", "b", "c", "d"), ",", " ")
GUESSES = "id,predicted\n1,a b c\n2,b a c\n3,b c a\n4,b c d\n9,a b c\n"


def score_of(folder, truth):
    (folder / "guesses.csv").write_text(GUESSES)
    (folder / "truth.csv").write_text(truth)
    return score_submission(folder / "guesses.csv", folder / "truth.csv", LAYOUT)


@pytest.mark.parametrize("truth", ["id,label\n1,a\n2,a\n3,a\n4,a\n", "label,id\na,4\na,3\na,2\na,1\n"])
def test_ranks_one_two_three_and_none_are_three_first_errors_and_one_of_three(tmp_path, truth):
    """Image 9 has no true label and does not count; the columns are known by their names, not by their places."""
    score = score_of(tmp_path, truth)
    assert (score.images, score.top1_error, score.top3_error) == (4, 3 / 4, 1 / 4)
    assert "of 4 images: top-1 error 0.7500, top-3 error 0.2500" in score.sentence


def test_labels_of_other_images_are_refused(tmp_path):
    fault = r"^none of the ids of .*guesses.csv has a label in .*truth.csv, whose ids are 7$"
    with pytest.raises(UserError, match=fault):
        score_of(tmp_path, "id,label\n7,a\n")


def test_an_expected_score_is_that_of_the_very_bytes_of_its_lineage(tmp_path):
    path = tmp_path / "blend.csv"
    path.write_text(GUESSES)
    assert expected_top3(path) is None
    said = {
        "csv": "blend.csv",
        "digest": digest(path.read_bytes()),
        "oof_top3_error": 0.25,
        "expected_top3": dict.fromkeys(ExpectedScore.__dataclass_fields__, 0.25),
        "unreadable_test_images": [],
    }
    path.with_suffix(".json").write_text(json.dumps(said))
    assert expected_top3(path).mean == 0.25
    path.write_text(GUESSES.replace("1,a b c", "1,b a c"))
    assert expected_top3(path) is None
