"""Tests what `submit` and `report` say of test images without labels, and `submit --match-test`."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

import run
from ensemble.analysis.test_set import class_mix_of, copies_of_training_images
from ensemble.blend.apply import apply_blend
from ensemble.blend.make_blend import make_blend
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, write_manifest
from submissions.settings import SubmitSettings
from submissions.write import write_submission
from tests.benchmarks.synthetic import World, make_folds, write_fold, write_member
from tests.competition import make_competition
from tests.ensemble.analysis.test_class_mix import posteriors
from tests.models.small import save_body
from tests.submissions.conftest import QUICK

WORLD = World(n=800, n_test=300, n_classes=8, n_folds=4)


def shifted_work(folder, *, turned):
    """(work folder, true classes of the test images): two members; turned: the tail of the test images is turned."""
    work = Workspace(folder / "work")
    folds, truth = make_folds(work, WORLD), WORLD.targets(1)
    truth = 7 - truth if turned else truth
    share = np.bincount(folds.target) / 800
    for member in range(2):
        oof, test = (
            np.log(posteriors(own, share, seed=[part, member])).astype(np.float32)
            for part, own in enumerate((folds.target, truth))
        )
        write_member(work, WORLD, folds, f"m{member:02d}", oof, test)
    make_blend(work, QUICK, seed=0)
    return work, np.array(folds.classes)[truth]


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    return shifted_work(tmp_path_factory.mktemp("turned"), turned=True)


def top3_error(path, truth):
    rows = list(csv.DictReader(path.open()))
    named = {row["id"]: row["predicted"].split() for row in rows}
    return np.mean([label not in named[f"{number:07d}"] for number, label in enumerate(truth)])


def typed(capsys, *words):
    code = run.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_match_test_gains_where_the_mix_is_shifted_and_the_lineage_names_the_shares(turned, capsys):
    work, truth = turned
    code, out, _ = typed(capsys, "submit", "--csv-name", "plain", "--work", work.root)
    assert code == 0
    assert "class mix of the test images: shifted from the training images, c00" in out
    said = re.search(
        r"; in a simulation the top-3 error is 0\.\d+, and (-0\.\d+) \+- 0\.\d+ with `submit --match-test`", out
    )
    assert float(said[1]) < -0.01
    code, out, _ = typed(capsys, "submit", "--match-test", "--csv-name", "matched", "--work", work.root)
    assert code == 0
    assert re.search(r"and -0\.\d+ \+- 0\.\d+ weighed by it", out)
    plain, matched = (top3_error(work.submissions / f"{name}.csv", truth) for name in ("plain", "matched"))
    assert matched < plain - 0.03
    lineages = [json.loads((work.submissions / f"{name}.json").read_text()) for name in ("plain", "matched")]
    assert "class_mix" not in lineages[0]
    assert sum(lineages[1]["class_mix"].values()) == pytest.approx(1)
    assert lineages[1]["class_mix"]["c007"] > 2 * np.mean(truth == "c000")


def test_match_test_of_a_single_run_gains_too(turned):
    work, truth = turned
    errors = [
        top3_error(write_submission(work, SubmitSettings(csv_name="m", match_test=wanted), run="m01").path, truth)
        for wanted in (False, True)
    ]
    assert errors[1] < errors[0] - 0.03


def test_without_a_shift_match_test_changes_no_byte(tmp_path, capsys):
    work, _ = shifted_work(tmp_path, turned=False)
    plain = write_submission(work, SubmitSettings(csv_name="plain"))
    assert plain.test_set[-1].startswith(
        "class mix of the test images: no shift from the training images, most for c00"
    )
    code, out, _ = typed(capsys, "submit", "--match-test", "--csv-name", "matched", "--work", work.root)
    assert (code, "; `--match-test` changed nothing" in out) == (0, True)
    assert (work.submissions / "matched.csv").read_bytes() == plain.path.read_bytes()
    assert json.loads((work.submissions / "matched.json").read_text())["class_mix"] is None


def test_a_damaged_out_of_fold_file_stops_match_test_and_not_submit(turned, tmp_path, capsys):
    shutil.copytree(turned[0].root, tmp_path / "work")
    work = Workspace(tmp_path / "work")
    path = work.fold("m00", 1) / "oof.npz"
    path.write_bytes(path.read_bytes()[:-9])
    code, out, _ = typed(capsys, "submit", "--work", work.root)
    assert code == 0
    assert "the class mix of the test images was not estimated: m00: fold1/oof.npz is damaged" in out
    code, _, err = typed(capsys, "submit", "--match-test", "--work", work.root)
    assert code == 2
    assert "`--match-test` needs the class mix, which was not estimated: m00" in err


def test_each_test_image_is_predicted_by_the_networks_of_one_fold_as_out_of_fold_images_are(tmp_path):
    """The mean over four networks that err apart had a lower error than each, and that looked like a shift."""
    work = Workspace(tmp_path / "work")
    folds, truth = make_folds(work, WORLD), WORLD.targets(1)
    share = np.bincount(folds.target) / 800
    ids = np.array([f"{number:07d}" for number in range(300)])
    for fold in range(4):
        rows = folds.fold == fold
        oof, test = (
            np.log(posteriors(own, share, seed=[part, fold])).astype(np.float32)
            for part, own in enumerate((folds.target[rows], truth))
        )
        write_fold(work, folds, "m00", fold, folds.image_id[rows], oof, ids, test)
    blend = make_blend(work, QUICK, seed=0).blend
    mix = class_mix_of(work, blend, apply_blend(work, blend).image_id)
    assert not mix.is_shift
    assert mix.calibration.sharpness == pytest.approx(1, rel=0.2)


@pytest.fixture
def leaked(blended, blended_copy):
    """A work folder where test images 0 and 1 are copies of training images, the second of its least likely class."""
    work, folds, blend = blended_copy, blended[1], blended[2]
    scores = apply_blend(work, blend)
    first, last = (folds.classes[place] for place in (scores.scores[0].argmax(), scores.scores[1].argmin()))
    twins = [folds.image_id[folds.label == label][0] for label in (first, last)]
    manifest = read_manifest(work)
    group = dict(zip(manifest["image_id"], range(len(manifest)), strict=True))
    group |= {"0000000": group[twins[0]], "0000001": group[twins[1]]}
    write_manifest(work, manifest.assign(group=[group[name] for name in manifest["image_id"]]))
    return work, blend


def test_copies_of_training_images_are_named_with_what_their_labels_do_to_the_expected_error(leaked):
    work, blend = leaked
    found = copies_of_training_images(work, apply_blend(work, blend))
    assert (found.images, found.image_id, found.missed) == (40, ("0000000", "0000001"), 1)
    assert found.expected_error(0.1) == pytest.approx((38 * 0.1 + 1) / 40)
    expected = (38 * blend.expected_top3.mean + 1) / 40
    assert write_submission(work, SubmitSettings()).test_set[0] == (
        "2 of 40 test images are copies of training images: with the labels of their twins, 1 of 2 is missed, and the"
        f" expected error of all test images is {expected:.4f}"
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


def test_images_that_give_themselves_away_are_shown_and_blend_submit_and_report_say_so(tmp_path, capsys):
    """Test images of another colour, from the command line: features by `probe`, a sentence each, pictures."""
    data, work = make_competition(tmp_path / "data", per_class=16, n_test=40), tmp_path / "work"
    for path in sorted((data / "Public").glob("*.jpg")):
        ImageOps.invert(Image.open(path)).save(path, quality=92)
    net = ["--backbone", "test_resnet", "--weights", save_body(tmp_path / "body.safetensors"), "--image-size", "32"]
    steps = (
        ["prepare", data, "--store-size", "32", "--workers", "1"],
        ["split", "--n-folds", "2"],
        ["probe", *net, "--device", "cpu"],
        ["blend", "--trials", "16", "--half-samples", "1"],
        ["submit"],
        ["report"],
    )
    said = {}
    for words in steps:
        code, said[words[0]], err = typed(capsys, *words, "--work", work)
        assert code == 0, err
    for command in ("blend", "submit"):
        text = " ".join(said[command].split())
        assert "test images can be told from training images (AUC " in text
        assert "the expected error may not hold, and the report shows which images" in text
    test = json.loads((work / "report" / "report.json").read_text())["test"]
    assert test["likeness"]["features"] == "test_resnet.r160_in1k"
    assert test["likeness"]["auc"] > 0.7
    assert {split: len(images) for split, images in test["giving_away"].items()} == {"test": 10, "train": 10}
    page = (work / "report" / "index.html").read_text()
    assert "Test images least like training images" in page
