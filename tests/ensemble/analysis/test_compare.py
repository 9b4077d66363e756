"""Tests the comparison of two runs: figures that can be counted by hand, and what cannot be compared."""

import csv
import shutil

import numpy as np
import pytest

from ensemble.analysis.compare import compare_runs, comparison_summary
from folds.base.metrics import log_loss, topk_error
from tests.competition import refusal
from tests.ensemble.small import shown, small_oof


def test_the_losses_are_those_of_each_run_and_the_difference_is_paired(work, folds):
    made = compare_runs(work, "m00", "m01")
    for member in (0, 1):
        probs = np.exp(small_oof(folds, member))
        top3, top1, loss = (measure.losses[member] for measure in made.measures)
        assert top3 == topk_error(probs, folds.target)
        assert top1 == topk_error(probs, folds.target, k=1)
        assert loss == pytest.approx(log_loss(probs, folds.target), rel=1e-6)
    difference = made.measures[0].difference
    assert difference.mean == pytest.approx(made.measures[0].losses[0] - made.measures[0].losses[1])
    assert difference.low < difference.mean < difference.high


def test_the_csv_has_every_image_that_one_run_alone_has_right(work, folds):
    made = compare_runs(work, "m00", "m01")
    rows = list(csv.DictReader(made.path.open()))
    ranks = [(int(row["rank m00"]) <= 3, int(row["rank m01"]) <= 3) for row in rows]
    assert all(a != b for a, b in ranks)
    assert {row["better"] for row, (a, _) in zip(rows, ranks, strict=True) if a} == {"m00"}
    label = dict(zip(folds.image_id.tolist(), folds.label.tolist(), strict=True))
    assert all(row["label"] == label[row["image_id"]] for row in rows)
    assert all((row["label"] in row["top 3 m00"].split(" | ")) == (row["better"] == "m00") for row in rows)
    top3 = [small_oof(folds, member).argsort(1)[:, -3:] for member in (0, 1)]
    hits = [(top == folds.target[:, None]).any(1) for top in top3]
    assert len(rows) == (hits[0] != hits[1]).sum()


def test_what_is_shown_names_both_runs_and_the_file(work):
    made = compare_runs(work, "m00", "m01")
    text = shown(comparison_summary(made), width=120)
    only = [(made.changes["better"] == run).sum() for run in ("m00", "m01")]
    assert f"images that one run alone has among its first three: m00 {only[0]}, m01 {only[1]}; " in text
    assert "compare-m00-m01.csv" in text


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("m00", "m00"), "m00 cannot be compared with itself"),
        (("m00", "m99"), "there is no finished fold of a run m99"),
        (("m01", "m00"), "m01 lacks fold 2 of 3"),
        (("m00", "blend"),
         "the blend cannot be compared: its weights were fitted on the images that it would be compared on"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(work, names, error):
    shutil.rmtree(work.fold("m01", 2))
    assert refusal(compare_runs, work, *names)[0] == error
    assert not work.report.exists()
