"""Tests members that other tools made."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.blend.apply import apply_blend
from ensemble.blend.make_blend import make_blend
from ensemble.members.add_member import add_member
from ensemble.members.members import load_members
from ensemble.settings import AddSettings, BlendSettings
from folds.base.errors import CannotWriteError
from folds.manifest.manifest import read_manifest, write_manifest
from models.predict.predictions import save_predictions
from tests.competition import fingerprint, refusal
from tests.ensemble.small import QUICK, SMALL, flip, small_oof, small_test, with_manifest


def table(ids, classes, probs, **more) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"id": ids, **more}), pd.DataFrame(probs, columns=list(classes))], axis=1)


@pytest.fixture
def settings(folds, tmp_path):
    """The predictions of member 2 as somebody else would have them."""
    oof, test = np.exp(small_oof(folds, 2).astype(np.float64)), np.exp(small_test(2).astype(np.float64))
    table(folds.image_id, folds.classes, oof, fold=folds.fold * 10).to_csv(tmp_path / "oof.csv", index=False)
    table(SMALL.test_id, folds.classes, test).to_csv(tmp_path / "test.csv", index=False)
    return AddSettings(oof=str(tmp_path / "oof.csv"), test=str(tmp_path / "test.csv"))


def rewritten(settings: AddSettings, change) -> AddSettings:
    """The settings with an OOF file that was changed."""
    data = pd.read_csv(settings.oof, dtype={"id": str})
    path = Path(settings.oof).with_name("changed.csv")
    change(data).to_csv(path, index=False)
    return replace(settings, oof=str(path))


def in_order(folds) -> np.ndarray:
    """The third one's out-of-fold probabilities as members give them: fold by fold. (N, C)"""
    return np.exp(small_oof(folds, 2))[np.argsort(folds.fold, kind="stable")]


def add_refusal(work, settings) -> tuple[str, str | None]:
    said = refusal(add_member, work, "other", settings)
    assert not (work.ensemble / "members" / "other" / "done.json").exists()
    return said


@pytest.mark.parametrize("place", ["fold0/oof.npz", "test.npz", "done.json"])
def test_the_hint_for_a_damaged_added_member_is_no_prediction_of_a_network_that_it_lacks(work, settings, place):
    """It was `predict --run other`, which ends in: there is no run other."""
    folder = add_member(work, "other", settings).folder
    flip(folder / place)
    message, hint = refusal(load_members, work) if "oof" in place else refusal(apply_blend, work, "other")
    assert place.rpartition("/")[2] in message
    assert hint == f"`python run.py add other --oof FILE --test FILE`, or remove {folder}"


def test_the_hint_for_a_view_that_an_added_member_lacks_is_to_leave_one_of_them_out(work, settings):
    add_member(work, "other", settings)
    hint = "no network made it: leave out `--member-views`, or other with `--members`"
    fault = "other has no view centre; it has as-given"
    assert refusal(load_members, work, BlendSettings(members=("other",), member_views=("centre",))) == (fault, hint)


def test_an_added_member_blends_like_a_trained_one(work, folds, settings):
    added = add_member(work, "other", settings)
    assert (added.images, added.test_images, added.warnings) == (600, 40, ())
    members = load_members(work)
    assert members.names == ("m00", "m01", "m02", "other")
    assert members.members[3].probs(0, 600) == pytest.approx(in_order(folds), abs=1e-6)
    assert "other" in make_blend(work, QUICK, seed=0).blend.weights


def test_an_add_that_fails_leaves_the_member_of_that_name_as_it_was(work, settings, monkeypatch):
    """Its `done.json` was removed and its files overwritten one by one: a full disk cost the member."""
    folder = add_member(work, "other", settings).folder
    before = fingerprint(folder)

    def fail_at_the_last(path, predictions):
        if path.name == "test.npz":
            raise CannotWriteError(f"cannot write {path}: No space left on device")
        save_predictions(path, predictions)

    monkeypatch.setattr("ensemble.members.add_member.save_predictions", fail_at_the_last)
    assert "No space left" in refusal(add_member, work, "other", settings)[0]
    assert fingerprint(folder) == before


def test_rows_and_columns_in_any_order_are_the_same_member(work, settings):
    add_member(work, "one", settings)
    rows = rewritten(settings, lambda data: data.sample(frac=1, random_state=0))
    add_member(work, "two", rewritten(rows, lambda data: data[["id", "fold", *reversed(data.columns[2:])]]))
    members = load_members(work, BlendSettings(members=("one", "two")))
    assert np.array_equal(members.members[0].probs(0, 600), members.members[1].probs(0, 600))


def test_logits_are_said_to_be_logits(work, folds, settings):
    logits = rewritten(settings, lambda data: data.assign(**np.log(data[list(folds.classes)]) + 3))
    turn = "if only these are logits, turn them into probabilities by a softmax of each row"
    assert add_refusal(work, logits)[1] == f"`--logits` where all files hold logits; {turn}"
    one_kind = f"all files must be of one kind, and {settings.oof} holds"
    mixed = replace(settings, test=logits.oof)
    assert add_refusal(work, mixed)[1] == f"{one_kind} probabilities; {turn}"
    path = Path(settings.test).with_name("logits.csv")
    table(SMALL.test_id, folds.classes, small_test(2) - 1).to_csv(path, index=False)
    add_member(work, "other", replace(logits, test=str(path), logits=True))
    (other,) = load_members(work, BlendSettings(members=("other",))).members
    assert other.probs(0, 600) == pytest.approx(in_order(folds), abs=1e-5)


def test_probabilities_that_are_said_to_be_logits_are_refused_in_either_file(work, folds, settings, tmp_path):
    """They were taken, and blended as almost even rows."""
    hint = "leave out `--logits`: it holds for all files"
    rows = "rows no number is negative and the sum is about 1"
    fault = f"oof.csv holds probabilities, not logits: in 600 of its 600 {rows}"
    assert add_refusal(work, replace(settings, logits=True)) == (fault, hint)
    one_off = rewritten(settings, lambda data: data.assign(c000=data.c000 - (data.index == 3)))
    assert add_refusal(work, one_off)[1] is None  # it said `--logits`
    fault = f"changed.csv holds probabilities, not logits: in 599 of its 600 {rows}"
    assert add_refusal(work, replace(one_off, logits=True)) == (fault, hint)
    logits = rewritten(settings, lambda data: data.assign(**np.log(data[list(folds.classes)]) + 3))
    fault = f"test.csv holds probabilities, not logits: in 40 of its 40 {rows}"
    hint = (
        f"all files must be of one kind, and {logits.oof} holds logits: leave out `--logits`,"
        " and turn those into probabilities by a softmax of each row"
    )
    assert add_refusal(work, replace(logits, logits=True)) == (fault, hint)


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        (lambda probs: probs * 3, "3", "divide each row by its sum"),  # summed over three folds
        (
            lambda probs: probs.mul(np.resize([0.95, 1.05], 600), axis=0),
            "0.95 to 1.05",
            "divide each row by its sum, or save more decimals",
        ),
    ],
)
def test_probabilities_of_another_sum_were_said_to_be_logits_and_then_taken_for_them(
    work, folds, settings, change, said, hint
):
    changed = rewritten(settings, lambda data: data.assign(**change(data[list(folds.classes)])))
    fault, way_out = add_refusal(work, changed)
    assert fault.endswith(f": no number is negative, but the sum is {said}, not 1")
    assert way_out == hint
    fault = add_refusal(work, replace(changed, logits=True))[0]
    assert fault.startswith("changed.csv holds probabilities, not logits: in ")


def test_the_outputs_of_sigmoids_were_said_to_be_logits(work, folds, settings):
    sigmoids = rewritten(settings, lambda data: data.assign(**data[list(folds.classes)] ** 0.3))
    fault, hint = add_refusal(work, sigmoids)
    assert ": no number is negative, but the sum is " in fault
    assert hint == "divide each row by its sum"
    fault = add_refusal(work, replace(sigmoids, logits=True))[0]
    assert fault == "changed.csv holds probabilities, not logits: all numbers lie between 0 and 1"


def short(text: str) -> str:
    """An id without folder and extension, as the competition has it."""
    return Path(text).stem


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_the_ids_of_the_competition_join_where_one_image_has_them(work, folds, settings, tmp_path, kind):
    """They had no row for any image: `train.csv` says `0000319`, and the id here is `train/0000319.jpg`."""
    with_manifest(work, folds)
    manifest = read_manifest(work)
    is_test = manifest["split"] == "test"
    manifest.loc[is_test, "path"] = "test/s0/" + manifest["image_id"] + ".png"
    write_manifest(work, manifest.assign(image_id=manifest["image_id"].mask(is_test, "s0/" + manifest["image_id"])))
    files = {}
    for part, path in (("oof", settings.oof), ("test", settings.test)):
        data = pd.read_csv(path, dtype={"id": str})
        ids, probs = data["id"].map(short).to_numpy(str), data[list(folds.classes)].to_numpy()
        files[part] = str(tmp_path / f"short_{part}.{kind}")
        if kind == "csv":
            table(ids, folds.classes, probs).to_csv(files[part], index=False)
        else:
            np.savez(files[part], ids=ids, classes=np.array(folds.classes), probs=probs)
    added = add_member(work, "other", AddSettings(**files, trust_folds=True))
    assert (added.images, added.test_images) == (600, 40)
    (other,) = load_members(work, BlendSettings(members=("other",))).members
    assert other.probs(0, 600) == pytest.approx(in_order(folds), abs=1e-6)


def test_an_id_that_fits_two_images_is_refused_with_both_and_so_are_two_rows_of_one(work, folds, settings):
    with_manifest(work, folds)
    manifest = read_manifest(work)
    twin = manifest.head(1).assign(image_id="old/0000000.jpg", path="old/0000000.jpg", status="left out")
    write_manifest(work, pd.concat([manifest, twin]))
    shortened = rewritten(settings, lambda data: data.assign(id=data["id"].map(short)))
    fault, hint = add_refusal(work, shortened)
    assert fault == "changed.csv: the id 0000000 fits 2 files: train/0000000.jpg, old/0000000.jpg"
    assert hint.endswith("a shorter one that no other image has")
    first = {"train/0000002.jpg": "train/0000001", "train/0000000.jpg": "train/0000000"}
    twice = rewritten(settings, lambda data: data.assign(id=data["id"].replace(first)))
    fault = "changed.csv has two rows of train/0000001.jpg: train/0000001.jpg and train/0000001"
    assert add_refusal(work, twice)[0] == fault


def test_a_member_that_is_replaced_is_said_to_be_and_so_are_rows_of_no_image(work, settings, typed):
    words = ("add", "other", "--test", settings.test, "--work", work.root)
    note = "note: it replaces the member other that was there"
    more = rewritten(settings, lambda data: pd.concat([data, data.head(1).assign(id="stranger")]))
    other = rewritten(more, lambda data: data.sample(frac=1, random_state=0).assign(c000=data.c000 * 1.0001))
    assert note not in typed(*words, "--oof", settings.oof).out
    assert note not in typed(*words, "--oof", settings.oof).out
    first, scored, *notes = typed(*words, "--oof", other.oof).out.splitlines()
    assert first.startswith("other: 600 out-of-fold and 40 test images, wrote ")
    assert scored.startswith("other: OOF top-3 error 0.0")
    assert notes[:2] == [note, "note: changed.csv has 1 row of images that are not known here: stranger"]
    swapped = rewritten(settings, lambda data: data.rename(columns={"c000": "c001", "c001": "c002", "c002": "c000"}))
    asked = "by the shares of the classes): are its columns named rightly, and is it out of fold?"
    assert asked in typed(*words, "--oof", swapped.oof).out


def test_npz_and_npy_need_their_ids_and_classes(work, folds, settings, tmp_path):
    oof, test = np.exp(small_oof(folds, 2)), np.exp(small_test(2))
    np.savez(tmp_path / "o.npz", ids=folds.image_id, classes=np.array(folds.classes), probs=oof, fold=folds.fold)
    np.save(tmp_path / "t.npy", test)
    bare = replace(settings, oof=str(tmp_path / "o.npz"), test=str(tmp_path / "t.npy"))
    assert add_refusal(work, bare) == (
        "t.npy does not name its ids",
        "save them in a .npz, as the array `image_id`, or in a .csv; `add` takes `--oof-ids FILE` and `--test-ids FILE`"
        " too, one a line",
    )
    (tmp_path / "ids.txt").write_text("\n".join(SMALL.test_id) + "\n")
    (tmp_path / "classes.txt").write_text("\n".join(folds.classes) + "\n")
    named = replace(bare, test_ids=str(tmp_path / "ids.txt"), class_names=str(tmp_path / "classes.txt"))
    assert add_member(work, "other", named).images == 600


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.iloc[2:],
         "changed.csv has no row for 2 of 600 images: train/0000000.jpg, train/0000001.jpg"),
        (lambda data: pd.concat([data, data.iloc[:1]]), "changed.csv has the id train/0000000.jpg more than once"),
        (lambda data: data.drop(columns="c003"), "changed.csv lacks the classes c003"),
        (lambda data: data.assign(zebra=0.0), "changed.csv has columns that are no class: zebra"),
        (lambda data: data.assign(c001=data.c001.where(data.index != 5)),
         "changed.csv has NaN or infinity for train/0000005.jpg"),
        (lambda data: data.assign(c002=data.c002 + (data.index == 7) * 0.5),
         "changed.csv holds no probabilities for train/0000007.jpg: negative, or a sum far from 1"),
        (lambda data: data.drop(columns="fold"), "other does not say on which folds it was made"),
        (lambda data: data.assign(fold=np.arange(600) % 3), "other was made on other folds"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(work, settings, change, sentence):
    assert add_refusal(work, rewritten(settings, change))[0] == sentence


def test_sums_a_little_off_are_divided_by_and_counted_and_trusted_folds_are_recorded(work, folds, settings):
    off = rewritten(settings, lambda data: data.assign(c000=data.c000 + (data.index < 3) * 0.004))
    (note,) = add_member(work, "other", off).warnings
    assert note == "3 rows of changed.csv had a sum up to 0.0040 from 1 and were divided by it"
    assert f"other: {note}" in make_blend(work, QUICK, seed=0).warnings
    with_manifest(work, folds)
    trusted = replace(rewritten(settings, lambda data: data.drop(columns="fold")), trust_folds=True)
    (note,) = add_member(work, "other", trusted).warnings
    assert note == "its folds are trusted, not known to be those of this work folder"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("m00", "`m00` is a trained run"),
        ("../m9", "`../m9` is no name for a member: up to 100 letters, digits, `.`, `_` and `-` are allowed, a letter"),
        ("s0+s1", "`s0+s1` is no name for a member: up to 100 letters"),  # siblings averaged are called so
        ("Blend", "`Blend` is no name for a member: its CSV would replace the blend's"),
    ],
)
def test_a_member_cannot_take_the_name_of_something_else(work, settings, name, fault):
    message, hint = refusal(add_member, work, name, settings)
    assert message.startswith(fault)
    assert hint == "`python run.py add NAME --oof FILE --test FILE`"


def test_numbers_that_are_none_are_refused_in_a_sentence(work, settings):
    words = rewritten(settings, lambda data: data.astype({"c000": object}).assign(c000="much"))
    assert add_refusal(work, words)[0].startswith("changed.csv cannot be read: could not convert string to float")
    assert add_refusal(work, replace(settings, oof="nowhere.csv"))[0] == "nowhere.csv does not exist"


@pytest.mark.skipif(sys.platform != "linux", reason="a file of /proc that refuses to be read, even by root")
def test_a_csv_that_may_not_be_read_ended_in_a_traceback(work, settings, tmp_path):
    (tmp_path / "mine.csv").symlink_to("/proc/self/mem")
    message, _ = add_refusal(work, replace(settings, oof=str(tmp_path / "mine.csv")))
    assert message == f"cannot read {tmp_path}/mine.csv: Input/output error"
