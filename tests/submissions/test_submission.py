"""Tests the CSV: what is in it, where it comes from, and what is wrong with other people's."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ensemble.analysis.test_set import copies_of_test_images
from ensemble.blend.make_blend import make_blend
from folds.base.interval import wilson_interval
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, write_manifest
from submissions.check import check_submission, expected_top3, is_changed, read_lineage, score_submission
from submissions.csv_form import Layout, read_layout
from submissions.settings import SubmitSettings, Wanted
from submissions.status import what_is_missing
from submissions.write import submission_summary, write_submission
from tests.competition import TRAIN, fingerprint, refusal
from tests.ensemble.small import EQUAL, change_oof, small_oof, small_test, small_work, with_manifest, write_small
from tests.synthetic import World, write_member

LAYOUT = Layout(("id", "predicted"), ("01", "2", "10"), ("a", "b", "c", "d"), ",", " ")
GOOD = "id,predicted\n01,a b c\n2,b c d\n10,d a b\n"


def writer(path):
    def write(text):
        path.write_bytes(text.encode())
        return path

    return write


@pytest.fixture
def guess(tmp_path):
    """Writes a CSV of guesses, its bytes as they are; returns its path."""
    return writer(tmp_path / "guess.csv")


@pytest.fixture
def truth(tmp_path):
    return writer(tmp_path / "truth.csv")


def test_every_id_gets_its_three_best_labels_in_the_samples_order_and_format(blended, work):
    folds = blended[1]
    ids = [f"{number:07d}" for number in np.random.default_rng(0).permutation(40)] + ["x2", "x1"]
    work.sample.write_text("image;guess\n" + "".join(f"{name};c001|c000|c002\n" for name in ids))
    result = write_submission(work, SubmitSettings())
    lines = result.path.read_text().splitlines()
    assert lines[0] == "image;guess"
    assert [line.split(";")[0] for line in lines[1:]] == ids
    mean = np.mean([np.exp(small_test(m)) for m in range(3)], axis=0)
    best = np.argsort(-mean, axis=1, kind="stable")[:, :3]
    first = int(ids[0])
    assert lines[1] == f"{ids[0]};{'|'.join(folds.classes[c] for c in best[first])}"
    frequent = np.argsort(-np.bincount(folds.target), kind="stable")[:3]
    assert lines[-1] == "x1;" + "|".join(folds.classes[c] for c in frequent)
    assert (result.rows, result.guessed) == (42, ("x2", "x1"))


@pytest.mark.parametrize("text", ["id,label\n1,a\n2,a\n3,a\n4,a\n9,\n", "label,id\na,4\na,3\na,2\na,1\n"])
def test_ranks_one_two_three_and_none_are_three_first_errors_and_one_of_three(guess, truth, text):
    """Image 9 has no true label and does not count; the columns are known by their names, not by their places."""
    guesses = guess("id,predicted\n1,a b c\n2,b a c\n3,b c a\n4,b c d\n9,a b c\n")
    score = score_submission(guesses, truth(text), LAYOUT)
    assert (score.images, score.top1_error, score.top3_error) == (4, 3 / 4, 1 / 4)
    assert "of 4 of 5 images: top-1 error 0.7500, top-3 error 0.2500" in score.sentence


@pytest.mark.parametrize(
    ("csv", "labels", "says"),
    [
        (GOOD, "id,label\n7,a\n", "none of the ids of {csv} has a label in {labels}, whose ids are 7"),
        ("id,predicted\n01,a|b|c\n2,b|c|d\n", "id,label\n01,a\n2,a\n", "holds a known label, separated by ` `"),
        (GOOD, "id,label\n01,a\n01,b\n", "has the id 01 more than once"),
        ("id,predicted\n01,a b c\n01,a b c\n", "id,label\n01,a\n", "{csv} has the id 01 more than once"),
        ("id\n01\n", "id,label\n01,a\n", "guess.csv has one column, not an id and labels"),  # it was an IndexError
        (
            GOOD,
            "id,Usage,label\n01,Public,A\n",
            "column label of {labels} holds no class: it has A, and the classes are a",
        ),
    ],
)
def test_a_csv_or_labels_that_mean_nothing_were_scored_without_a_word(guess, truth, csv, labels, says):
    guesses, labels = guess(csv), truth(labels)
    assert says.format(csv=guesses, labels=labels) in refusal(score_submission, guesses, labels, LAYOUT)[0]


def test_a_label_that_a_mac_wrote_decomposed_was_an_error(guess, truth):
    layout = replace(LAYOUT, labels=("cafe\u0301", "b", "c", "d"))
    guesses = guess("id,predicted\n1,cafe\u0301 b c\n")
    assert score_submission(guesses, truth("id,label\n1,caf\u00e9\n"), layout).top1_error == 0


def test_a_work_folder_without_a_readable_test_image_ended_in_an_assertion(tmp_path):
    """After all training: a competition with a hidden test set is such a one."""
    world = World(n=600, n_test=0, n_classes=8, n_folds=3, margin=4.0)
    work, folds = small_work(tmp_path, members=0, world=world)
    for name in ("m0", "m1"):
        oof = small_oof(folds, int(name[1]), world=world)
        write_member(work, world, folds, name, oof, np.zeros((0, 8), np.float32))
    with_manifest(work, folds, tests=(), unreadable=())
    make_blend(work, EQUAL, seed=0)
    made = write_submission(work, SubmitSettings())
    assert (made.rows, made.path.read_text()) == (0, "id,predicted\n")


def test_two_errors_of_450_were_scored_as_if_0_0106_were_the_worst(guess, truth):
    names = [f"{number:03d}" for number in range(450)]
    guesses = guess("id,predicted\n" + "".join(f"{name},a b c\n" for name in names))
    labels = truth("id,label\n000,d\n001,d\n" + "".join(f"{name},a\n" for name in names[2:]))
    alone = score_submission(guesses, labels, LAYOUT).sentence
    assert alone == "on the true labels of 450 images: top-1 error 0.0044, top-3 error 0.0044 (0.0012 to 0.0161)"
    twice = {name: number // 2 for number, name in enumerate(names)}  # the two errors are copies of one picture
    copies = score_submission(guesses, labels, LAYOUT, copies=twice)
    assert (copies.low, copies.high) == pytest.approx(wilson_interval(1 / 225, 225), rel=0.01)


def test_copies_among_the_test_images_are_those_of_the_manifest(work):
    assert copies_of_test_images(work) == {f"{number:07d}": 0 for number in range(40)}
    work.manifest.unlink()
    assert copies_of_test_images(work) == {}


def test_a_readable_test_image_without_a_prediction_is_refused(work):
    work.manifest.write_text(work.manifest.read_text().replace("x1,x1,test,,unreadable", "x1,x1,test,,usable"))
    assert refusal(write_submission, work, SubmitSettings())[0] == "1 readable test images have no prediction: x1"


def test_one_run_alone_can_be_submitted(blended, work):
    folds, result = blended[1], write_submission(work, SubmitSettings(), run="m01")
    assert result.path.name == "m01.csv"
    assert submission_summary(result).startswith(f"{result.path}: 42 rows, valid\n2 unreadable test images got ")
    assert "expected" not in submission_summary(result)
    best = np.argsort(-np.exp(small_test(1)), axis=1, kind="stable")[0, :3]
    assert result.path.read_text().splitlines()[1] == f"0000000,{' '.join(folds.classes[c] for c in best)}"
    assert json.loads(result.path.with_suffix(".json").read_text())["run"] == "m01"


def test_two_classes_give_two_labels(tmp_path):
    world = World(n=120, n_test=40, n_classes=2, n_folds=3, margin=3.0)
    work, folds = small_work(tmp_path, world=world)
    with_manifest(work, folds, unreadable=())
    make_blend(work, EQUAL, seed=0)
    result = write_submission(work, SubmitSettings())
    assert all(len(line.split(",")[1].split()) == 2 for line in result.path.read_text().splitlines()[1:])


def test_the_lineage_names_everything_but_this_machine(blended, work):
    blend = blended[2]
    result = write_submission(work, SubmitSettings(csv_name="final"))
    lineage = json.loads(result.path.with_suffix(".json").read_text())
    assert result.path.name == "final.csv"
    assert (lineage["oof_top3_error"], lineage["weights"]) == (blend.oof_top3_error, blend.weights)
    assert expected_top3(result.path) == result.blend.expected_top3 == blend.expected_top3
    assert lineage["unreadable_test_images"] == ["x1", "x2"]
    assert sorted(lineage["files"]) == ["m00", "m01", "m02"]
    assert str(work.root.parent) not in result.path.with_suffix(".json").read_text()


@pytest.mark.parametrize("csv_name", [None, "final"])
def test_a_valid_csv_that_was_changed_after_submit_wrote_it_is_not_valid_and_status_says_so(work, csv_name):
    written = write_submission(work, SubmitSettings(csv_name=csv_name))
    path, text = written.path, written.path.read_text()
    assert expected_top3(path) == written.blend.expected_top3
    assert check_submission(path, read_layout(work)).faults == ()
    assert what_is_missing(work, Wanted(["m00"])) == (["nothing is missing"], f"check {path}")
    labels = text.splitlines()[1].split(",")[1]
    path.write_text(text.replace(labels, " ".join(reversed(labels.split(" "))), 1))
    assert expected_top3(path) is None
    fault = f"it was changed after `submit` wrote it: {path.with_suffix('.json').name} has another checksum"
    assert check_submission(path, read_layout(work)).faults == (fault,)
    assert what_is_missing(work, Wanted(["m00"])) == ([f"{path} was changed after `submit` wrote it"], "submit")
    path.write_text(text)
    assert check_submission(path, read_layout(work)).faults == ()
    path.with_suffix(".json").unlink()
    assert expected_top3(path) is None


def test_a_submit_that_fails_leaves_the_last_valid_csv_as_it_was(work, monkeypatch):
    """It was overwritten, and then deleted."""
    written = write_submission(work, SubmitSettings())
    before = fingerprint(work.submissions)
    text = written.path.read_text().replace("c0", "zebra", 1)
    monkeypatch.setattr("submissions.csv_form.Layout.text", lambda *args, **kwargs: text)
    message, _ = refusal(write_submission, work, SubmitSettings())
    assert message.startswith("the submission would not be valid, and was not written: 1 row with labels")
    assert fingerprint(work.submissions) == before


@pytest.mark.parametrize(
    "said", [[], [{"digest": 1}], "text", 7, None, {}, {"csv": 1}, {"csv": "guess.csv", "digest": []}]
)
def test_a_json_beside_a_csv_that_is_no_lineage_ends_no_command_in_a_traceback(guess, said):
    """`score`, `check` and `report` read it each in its way; of a list, `score` asked for a key."""
    path = guess(GOOD)
    path.with_suffix(".json").write_text(json.dumps(said))
    assert read_lineage(path) == {}
    assert expected_top3(path) is None
    assert not is_changed(path)


def test_a_member_that_is_gone_or_was_made_again_since_the_blend_is_named_by_status(work):
    write_submission(work, SubmitSettings())
    change_oof(work.fold("m00", 0), lambda stored: {"log_probs": stored["log_probs"] - 1})
    changed = "m00 has changed since the blend was made: fold0/oof.npz"
    assert what_is_missing(work, Wanted(["m01"])) == ([changed], "blend")
    shutil.rmtree(work.models / "m00")
    (sentence,), command = what_is_missing(work, Wanted(["m01"]))
    assert (sentence, command) == ("the blend needs m00, which is gone", "blend")


def test_a_run_that_came_after_the_blend_and_a_csv_of_the_blend_before_are_named_by_status(work, blended):
    folds = blended[1]
    path = write_submission(work, SubmitSettings()).path
    write_small(work, folds, "m03", small_oof(folds, 3))
    assert what_is_missing(work, Wanted(["m00"])) == (["the blend was made before m03 was done"], "blend")
    make_blend(work, replace(EQUAL, members=("m00", "m01")), seed=0)  # m02 and m03 were there, and left out
    assert what_is_missing(work, Wanted(["m00"])) == (
        [f"{path} was made from another blend than {work.blend}"],
        "submit",
    )
    write_submission(work, SubmitSettings())
    assert what_is_missing(work, Wanted(["m00"])) == (["nothing is missing"], f"check {path}")
    write_submission(work, SubmitSettings(), run="m03")
    assert what_is_missing(work, Wanted(["m00"]))[0] == ["nothing is missing"]


def test_images_that_changed_since_the_folds_are_named_by_status_train_blend_and_submit(whole, tmp_path, typed):
    work = Workspace(shutil.copytree(whole, tmp_path / "work"))
    table = read_manifest(work)
    first = table.index[table["split"] == "train"][0]
    table.loc[first, "label"] = "2"
    write_manifest(work, table)
    changed = f"1 training image changed since the folds in {work.folds_csv} were assigned: {table['image_id'][first]}"
    assert what_is_missing(work, Wanted(["one"])) == ([changed], "split")
    for step in (["train", "--run", "one", *TRAIN, "--epochs", "2"], ["blend", "--keep", "equal"], ["submit"]):
        _, out, err = typed(*step, "--work", work.root)
        assert f"warning: {changed}" in " ".join((out + err).split())


def test_a_lineage_that_is_cut_off_is_named_by_status_too(work):
    path = write_submission(work, SubmitSettings()).path
    path.with_suffix(".json").write_text('{"csv": "blend.csv", ')
    for read in (read_lineage, expected_top3, is_changed):
        message, hint = refusal(read, path)
        assert "blend.json is damaged" in message
        assert hint == "`python run.py submit` writes the CSV and its lineage again"
    (sentence,), command = what_is_missing(work, Wanted(["m00"]))
    assert ("blend.json" in sentence, command) == (True, "submit")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD.replace("predicted", "label"), "its header is `id,label`, not `id,predicted`"),
        (GOOD.replace("2,b c d\n", ""), "1 id is missing: 2"),
        (GOOD + "11,a b c\n", "1 id is not in the test set: 11"),
        (GOOD + "2,a b c\n", "1 id is there more than once: 2"),
        (GOOD.replace("01,", "1,"), "1 id is missing: 01"),
        ("id,predicted\n2,b c d\n01,a b c\n10,d a b\n",
         "its ids are in another order: row 1 is 2 where 01 is expected"),
        (GOOD.replace("b c d", "b c"), "1 row without 3 labels separated by ` `: line 3 `2 | b c`"),
        (GOOD.replace("b c d", "b,c,d"), "1 row without 2 cells: line 3 `2 | b | c | d`"),
        (GOOD.replace("b c d", "b c zebra"),
         "1 row with labels that are not among the classes: line 3 `2 | b c zebra`"),
        (GOOD.replace("b c d", "b c b"), "1 row with the same label twice: line 3 `2 | b c b`"),
        ("\ufeff" + GOOD, "it begins with a byte-order mark, which becomes part of the first column's name"),
        (GOOD.replace("\n", "\r\n"), "4 of its lines end in CR LF, not LF"),
        (GOOD.replace("2,b", "\n2,b"), "line 3 is empty"),
        (GOOD.replace("b c d", '"b c d"'), "it has 2 quotation marks around cells that need none"),
        (GOOD.rstrip("\n"), "its last line does not end, as if the file were cut off"),
        ("", "it is empty"),
        (GOOD.replace(",", ";"), "its header is `id;predicted`, not `id,predicted`"),
        (GOOD.replace("b c d", "b  c d"), "1 row without 3 labels separated by ` `: line 3 `2 | b  c d`"),
    ],
)  # fmt: skip
def test_every_fault_of_a_csv_is_named(guess, text, fault):
    assert fault in check_submission(guess(text), LAYOUT).faults


def test_bytes_that_are_no_text_are_a_fault_and_no_crash(tmp_path):
    path = tmp_path / "guess.csv"
    path.write_bytes(b"id,predicted\n01,\xff\n")
    assert check_submission(path, LAYOUT).faults == ("it is not UTF-8: byte 16 is 0xff",)
    path.write_bytes(b"\xef\xbb\xbfid,predicted\n01,\xff\n")  # it was said to be byte 16, 0x30
    assert check_submission(path, LAYOUT).faults[1:] == ("it is not UTF-8: byte 19 is 0xff",)
    assert "cannot read" in refusal(check_submission, tmp_path / "nowhere.csv", LAYOUT)[0]
