"""Tests how a refit on all images enters a submission: as one more network beside those of the folds."""

import numpy as np
import pytest

from ensemble.analysis.explain import explain_image
from ensemble.blend.apply import apply_blend
from ensemble.blend.make_blend import make_blend
from ensemble.members.members import load_members
from ensemble.members.oof_file import file_digest
from folds.base.workspace import read_json, write_json
from models.predict.predictions import Predictions, save_predictions
from tests.competition import refusal
from tests.ensemble.small import (
    EQUAL,
    SMALL,
    change_json,
    change_oof,
    flip,
    small_oof,
    small_test,
    small_work,
    with_manifest,
)
from tests.synthetic import write_fold


def write_refit(work, folds, name, *, views=("centre",), settings=None, digest=None):
    """Store a refit as `train --fold all` would, with the test predictions of member 7 under every view."""
    folder = work.refit(name)
    values = np.stack([small_test(7)] * len(views), axis=1)
    made = Predictions(SMALL.test_id, np.array(folds.classes), np.array(views), values, digest or folds.digest)
    save_predictions(folder / "test.npz", made)
    stored = read_json(work.fold(name, 0) / "settings.json", hint="")
    write_json(folder / "settings.json", {**stored, "settings": settings or stored["settings"]})
    write_json(folder / "done.json", {"fold": "all", "files": {"test.npz": file_digest(folder / "test.npz")}})


def test_a_refit_is_one_more_network_beside_those_of_the_folds_and_changes_no_out_of_fold_prediction(work, folds):
    before = load_members(work).members[1].probs(0, 600)
    write_refit(work, folds, "m01")
    np.testing.assert_array_equal(load_members(work).members[1].probs(0, 600), before)
    refitted = (3 * np.exp(small_test(1)) + np.exp(small_test(7))) / 4
    assert apply_blend(work, "m01").scores == pytest.approx(refitted, abs=1e-6)
    blend = make_blend(work, EQUAL, seed=0).blend
    mean = (np.exp(small_test(0)) + refitted + np.exp(small_test(2))) / 3
    assert apply_blend(work, blend).scores == pytest.approx(mean, abs=1e-6)
    assert "all/test.npz" in blend.files["m01"]


def test_explain_weighed_siblings_by_run_and_submit_by_network_so_that_one_image_had_two_answers(tmp_path):
    work, folds = small_work(tmp_path, members=1)
    for seed in (1, 2):
        for fold in range(3):
            rows, name = folds.fold == fold, f"s{seed}"
            part = folds.image_id[rows], small_oof(folds, seed)[rows]
            write_fold(work, folds, name, fold, *part, SMALL.test_id, small_test(seed), seed=seed, settings={"lr": 1})
            chosen = {"train": "fp32", "forward": "fp32" if seed == 1 else "bf16"}  # measured, on another machine each
            change_json(work.fold(name, fold) / "settings.json", run="s", chosen_precision=chosen)
    write_refit(work, folds, "s2")
    with_manifest(work, folds)
    blend = make_blend(work, EQUAL, seed=0).blend
    assert sorted(blend.weights) == ["m00", "s1+s2"]
    applied, networks = apply_blend(work, blend), [small_test(seed) for seed in (1, 1, 1, 2, 2, 2, 7)]
    siblings = np.mean(np.exp(networks), axis=0)
    assert applied.scores == pytest.approx((np.exp(small_test(0)) + siblings) / 2, abs=1e-6)
    for row in (0, 17, 39):
        expected = np.sort(applied.scores[row] / applied.scores[row].sum())[::-1][:3]
        assert explain_image(work, SMALL.test_id[row]).blend.probs == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("is_there_before", [True, False])
def test_a_refit_that_came_or_went_after_the_blend_is_noticed(work, folds, is_there_before):
    if is_there_before:
        write_refit(work, folds, "m01")
    blend = make_blend(work, EQUAL, seed=0).blend
    (work.refit("m01") / "done.json").unlink() if is_there_before else write_refit(work, folds, "m01")
    message, hint = refusal(apply_blend, work, blend)
    assert "m01 has changed since the blend was made: all/test.npz" in message
    assert hint == "`python run.py blend`"


@pytest.mark.parametrize(
    ("other", "fault", "hint"),
    [
        ({"settings": {"name": "m00", "lr": 0.1}},
         "its refit on all images was trained with other settings than fold 0: lr None -> 0.1", None),
        ({"views": ("centre", "mirror")},
         "its refit has other views or view order (centre, mirror) than fold 0 (centre)",
         "`python run.py predict --run m00 --views centre`"),
        ({"digest": "other"}, "its refit was made on other folds (other) than this work folder's ({digest})", None),
    ],
)  # fmt: skip
def test_a_refit_unlike_its_folds_is_refused_with_the_way_out(work, folds, other, fault, hint):
    write_refit(work, folds, "m00", **other)
    hint = hint or f"remove {work.refit('m00')}, then `python run.py train --fold all --run m00`"
    assert refusal(load_members, work) == (f"m00: {fault.replace('{digest}', folds.digest)}", hint)


def test_a_refit_that_is_damaged_is_named_and_one_that_is_not_done_does_not_count(work, folds):
    write_refit(work, folds, "m00")
    path = work.refit("m00") / "test.npz"
    flip(path)
    fault = "m00: all/test.npz is damaged: checksum mismatch, the file changed after it was written"
    assert refusal(load_members, work)[0] == fault
    path.unlink()
    assert refusal(load_members, work)[0] == "m00 lacks its file all/test.npz"
    write_refit(work, folds, "m00")
    (work.refit("m00") / "done.json").unlink()
    assert apply_blend(work, "m00").scores == pytest.approx(np.exp(small_test(0)), abs=1e-6)


def test_a_fold_with_its_classes_in_another_order_than_the_others_is_refused(work):
    def turned(stored):
        return {"classes": stored["classes"][::-1], "log_probs": stored["log_probs"][:, :, ::-1].copy()}

    change_oof(work.fold("m00", 1), turned)
    assert refusal(load_members, work)[0] == "m00: fold 1 has its classes in another order than fold 0"
