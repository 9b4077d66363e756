"""Tests what `submit` and `report` say of test images without labels, and `submit --match-test`."""

import csv
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from ensemble.analysis.test_set import class_mix_of, copies_of_training_images
from ensemble.blend.apply import apply_blend
from ensemble.blend.make_blend import make_blend
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, write_manifest
from submissions.settings import SubmitSettings
from submissions.write import write_submission
from tests.competition import make_competition
from tests.ensemble.analysis.test_class_mix import posteriors
from tests.ensemble.small import EQUAL
from tests.models.small import save_body
from tests.synthetic import World, make_folds, write_fold, write_member

WORLD = World(n=800, n_test=300, n_classes=8, n_folds=4)


def shifted_work(folder, *, turned):
    """(work folder, true classes of the test images): two members; turned: the tail of the test images is turned."""
    work = Workspace(folder / "work")
    folds, truth = make_folds(work, WORLD), WORLD.targets(1)
    truth = 7 - truth if turned else truth
    for member in range(2):
        oof, test = (log_posteriors(folds, target, [part, member]) for part, target in enumerate((folds.target, truth)))
        write_member(work, WORLD, folds, f"m{member:02d}", oof, test)
    make_blend(work, EQUAL, seed=0)
    return work, np.array(folds.classes)[truth]


def log_posteriors(folds, target, seed):
    """(n, C) log-probabilities that are right of images with the class mix of the folds."""
    return np.log(posteriors(target, np.bincount(folds.target) / 800, seed=seed)).astype(np.float32)


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    return shifted_work(tmp_path_factory.mktemp("turned"), turned=True)


def top3_error(path, truth):
    rows = list(csv.DictReader(path.open()))
    named = {row["id"]: row["predicted"].split() for row in rows}
    return np.mean([label not in named[f"{number:07d}"] for number, label in enumerate(truth)])


def test_match_test_gains_where_the_mix_is_shifted_and_the_lineage_names_the_shares(turned, typed):
    work, truth = turned
    out = typed("submit", "--csv-name", "plain", "--work", work.root).out
    assert "class mix of the test images: shifted from the training images, c00" in out
    gain = r"; in a simulation the top-3 error is 0\.\d+, and (-0\.\d+) \+- 0\.\d+ with `submit --match-test`"
    assert float(re.search(gain, out)[1]) < -0.01
    out = typed("submit", "--match-test", "--csv-name", "matched", "--work", work.root).out
    assert re.search(r"and -0\.\d+ \+- 0\.\d+ weighed by it", out)
    plain, matched = (top3_error(work.submissions / f"{name}.csv", truth) for name in ("plain", "matched"))
    assert matched < plain - 0.03
    plain, matched = (json.loads((work.submissions / f"{name}.json").read_text()) for name in ("plain", "matched"))
    assert "class_mix" not in plain
    assert sum(matched["class_mix"].values()) == pytest.approx(1)
    assert matched["class_mix"]["c007"] > 2 * np.mean(truth == "c000")


def test_match_test_of_a_single_run_gains_too(turned):
    work, truth = turned
    settings = [SubmitSettings(csv_name="m", match_test=wanted) for wanted in (False, True)]
    plain, matched = (top3_error(write_submission(work, one, run="m01").path, truth) for one in settings)
    assert matched < plain - 0.03


def test_without_a_shift_match_test_changes_no_byte(tmp_path, typed):
    work, _ = shifted_work(tmp_path, turned=False)
    plain = write_submission(work, SubmitSettings(csv_name="plain"))
    said = "class mix of the test images: no shift from the training images, most for c00"
    assert plain.test_set[-1].startswith(said)
    out = typed("submit", "--match-test", "--csv-name", "matched", "--work", work.root).out
    assert "; `--match-test` changed nothing" in out
    assert (work.submissions / "matched.csv").read_bytes() == plain.path.read_bytes()
    assert json.loads((work.submissions / "matched.json").read_text())["class_mix"] is None


def test_a_damaged_out_of_fold_file_stops_match_test_and_not_submit(turned, tmp_path, typed):
    work = Workspace(shutil.copytree(turned[0].root, tmp_path / "work"))
    path = work.fold("m00", 1) / "oof.npz"
    path.write_bytes(path.read_bytes()[:-9])
    out = typed("submit", "--work", work.root).out
    assert "the class mix of the test images was not estimated: m00: fold1/oof.npz is damaged" in out
    err = typed("submit", "--match-test", "--work", work.root, code=2).err
    assert "`--match-test` needs the class mix, which was not estimated: m00" in err


def test_each_test_image_is_predicted_by_the_networks_of_one_fold_as_out_of_fold_images_are(tmp_path):
    """The mean over four networks that err apart had a lower error than each, and that looked like a shift."""
    work = Workspace(tmp_path / "work")
    folds = make_folds(work, WORLD)
    for fold in range(4):
        rows = folds.fold == fold
        oof = folds.image_id[rows], log_posteriors(folds, folds.target[rows], [0, fold])
        write_fold(work, folds, "m00", fold, *oof, WORLD.test_id, log_posteriors(folds, WORLD.targets(1), [1, fold]))
    blend = make_blend(work, EQUAL, seed=0).blend
    mix = class_mix_of(work, apply_blend(work, blend))
    assert not mix.is_shift
    assert mix.calibration.sharpness == pytest.approx(1, rel=0.2)


def test_copies_of_training_images_are_named_with_what_their_labels_do_to_the_expected_error(blended, work):
    """Test images 0 and 1 are copies of training images, one of its likeliest class, the other of its least likely."""
    _, folds, blend = blended
    scores = apply_blend(work, blend)
    labels = [folds.classes[place] for place in (scores.scores[0].argmax(), scores.scores[1].argmin())]
    twins = [folds.image_id[folds.label == label][0] for label in labels]
    manifest = read_manifest(work)
    names = manifest["image_id"].replace({"0000000": twins[0], "0000001": twins[1]})
    write_manifest(work, manifest.assign(group=pd.factorize(names)[0]))
    found = copies_of_training_images(work, scores)
    assert (found.images, found.image_id, found.missed) == (40, ("0000000", "0000001"), 1)
    assert found.expected_error(0.1) == pytest.approx((38 * 0.1 + 1) / 40)
    said = write_submission(work, SubmitSettings()).test_set[0]
    assert said == (
        "2 of 40 test images are copies of training images: with the labels of their twins, 1 of 2 is missed, and the"
        f" expected error of all test images is {(38 * blend.expected_top3.mean + 1) / 40:.4f}"
    )


def test_the_report_has_the_class_mix_and_names_the_command_that_keeps_features(reported):
    _, made, said = reported
    test, page = said["test"], made.path.read_text()
    assert test["mix"]["is_shift"] is False
    assert sum(test["mix"]["test"]) == pytest.approx(1)
    assert test["likeness"] is None
    assert "python run.py probe" in page
    assert len(test["twins"]["image_id"]) == 1
    assert "With the labels of their twins, " in page


def test_images_that_give_themselves_away_are_shown_and_blend_submit_and_report_say_so(tmp_path, typed):
    """Test images of another colour, from the command line: features by `probe`, a sentence each, pictures."""
    data, work = make_competition(tmp_path / "data", per_class=16, n_test=40), tmp_path / "work"
    for path in sorted((data / "Public").glob("*.jpg")):
        ImageOps.invert(Image.open(path)).save(path, quality=92)
    net = ["--backbone", "test_resnet", "--weights", save_body(tmp_path / "body.safetensors"), "--image-size", "32"]
    typed("prepare", data, "--store-size", "32", "--workers", "1", "--work", work)
    typed("split", "--n-folds", "2", "--work", work)
    probe = typed("probe", *net, "--device", "cpu", "--work", work).out
    assert probe.endswith(f"next: python run.py blend --work {work}\n")
    blend = typed("blend", "--trials", "16", "--half-samples", "1", "--work", work).out
    submit = typed("submit", "--work", work).out
    typed("report", "--work", work)
    for said in (blend, submit):
        text = " ".join(said.split())
        assert "test images can be told from training images (AUC " in text
        assert "the expected error may not hold, and the report shows which images" in text
    test = json.loads((work / "report" / "report.json").read_text())["test"]
    assert test["likeness"]["features"] == "test_resnet.r160_in1k"
    assert test["likeness"]["auc"] > 0.7
    assert {split: len(images) for split, images in test["giving_away"].items()} == {"test": 10, "train": 10}
    assert "Test images least like training images" in (work / "report" / "index.html").read_text()
