"""Tests what may enter a blend, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ensemble.blend.make_blend import make_blend
from ensemble.members import members as members_module
from ensemble.members.members import load_members
from ensemble.members.oof_file import file_digest
from folds.base.errors import UserError
from folds.base.workspace import read_json, write_json
from models.predict.predictions import load_predictions
from tests.benchmarks.synthetic import World, make_folds, write_fold
from tests.ensemble.small import QUICK, SMALL, refusal, small_oof, small_test, small_work, write_small


def rewrite(work, folds, name, *, oof_id=None, oof=None, classes=None, fold=0):
    """Write one fold of a run anew, with something wrong about it."""
    rows = folds.fold == fold
    ids = folds.image_id[rows] if oof_id is None else oof_id
    values = small_oof(folds, 0)[rows] if oof is None else oof
    test = small_test(0)[:, : values.shape[-1]]
    test = test - np.log(np.exp(test).sum(axis=1, keepdims=True))
    write_fold(work, folds, name, fold, ids, values, SMALL.test_id, test, classes=classes)


def test_members_are_joined_by_id_and_read_piece_by_piece(tmp_path):
    work, folds = small_work(tmp_path, members=2)
    members = load_members(work)
    place = {name: row for row, name in enumerate(folds.image_id)}
    order = [place[name] for name in members.rows.image_id]
    expected = np.exp(small_oof(folds, 1)[order])
    for piece, probs in members.chunks(size=17):
        assert probs[1] == pytest.approx(expected[piece], abs=1e-6)
        assert len(set(members.rows.fold[piece])) == 1


def test_members_too_large_for_memory_make_the_same_blend(tmp_path, monkeypatch):
    work, _ = small_work(tmp_path)
    kept = make_blend(work, QUICK, seed=0).path.read_bytes()
    monkeypatch.setattr(members_module, "KEPT_BYTES", 0)
    assert load_members(work).kept is None
    assert make_blend(work, QUICK, seed=0).path.read_bytes() == kept


@pytest.mark.parametrize("moved", ["rows", "classes"])
def test_rows_or_classes_in_another_order_make_the_same_member(tmp_path, moved):
    work, folds = small_work(tmp_path, members=2)
    before = make_blend(work, QUICK, seed=0).blend
    rng = np.random.default_rng(0)
    order = rng.permutation(len(folds.classes)) if moved == "classes" else np.arange(len(folds.classes))
    for fold in range(folds.n_folds):
        rows = np.flatnonzero(folds.fold == fold)
        rows = rng.permutation(rows) if moved == "rows" else rows
        write_fold(
            work, folds, "m00", fold, folds.image_id[rows], small_oof(folds, 0)[rows][:, order], SMALL.test_id,
            small_test(0)[:, order], classes=tuple(folds.classes[c] for c in order),
        )  # fmt: skip
    after = make_blend(work, QUICK, seed=0).blend
    assert (after.weights, after.scores) == (before.weights, before.scores)


def test_the_order_in_which_members_are_named_makes_no_difference(tmp_path):
    work, _ = small_work(tmp_path)
    first = make_blend(work, QUICK, seed=0, members=("m02", "m00")).blend
    assert make_blend(work, QUICK, seed=0, members=("m00", "m02")).blend == first


def test_views_are_averaged_as_probabilities(tmp_path):
    work, folds = small_work(tmp_path, members=1)
    rows = folds.fold == 0
    one, other = small_oof(folds, 0)[rows], small_oof(folds, 5)[rows]
    rewrite(work, folds, "m00", oof=np.stack([one, other], axis=1))
    for fold in (1, 2):
        rows_k = folds.fold == fold
        rewrite(work, folds, "m00", oof=np.stack([small_oof(folds, 0)[rows_k]] * 2, axis=1), fold=fold)
    both = load_members(work).members[0].probs(0, 5)
    mirror = load_members(work, views=("mirror",)).members[0].probs(0, 5)
    assert both == pytest.approx((np.exp(one[:5]) + np.exp(other[:5])) / 2, rel=1e-5)
    assert mirror == pytest.approx(np.exp(other[:5]), rel=1e-6)
    with pytest.raises(UserError, match="m00 has no view wide; it has centre, mirror"):
        load_members(work, views=("wide",))


def test_runs_that_differ_in_their_seed_alone_are_one_member(tmp_path):
    work, folds = small_work(tmp_path, members=1)
    for name, seed in (("s0", 0), ("s1", 1)):
        write_small(work, folds, name, small_oof(folds, seed + 5), seed=seed)
        for fold in range(folds.n_folds):
            write_json(work.fold(name, fold) / "settings.json", {"run": name, "seed": seed, "settings": {"lr": 1}})
    members = load_members(work)
    assert members.names == ("m00", "s0+s1")
    rows = np.flatnonzero(folds.fold == 0)[:9]
    mean = (np.exp(small_oof(folds, 5)) + np.exp(small_oof(folds, 6)))[rows] / 2
    assert members.members[1].probs(0, 9) == pytest.approx(mean, rel=1e-5)
    assert load_members(work, separate_seeds=True).names == ("m00", "s0", "s1")


def test_a_missing_fold_is_named(tmp_path):
    work, _ = small_work(tmp_path)
    (work.fold("m01", 2) / "done.json").unlink()
    assert refusal(load_members, work) == (
        "m01 lacks fold 2 of 3",
        "`python run.py train --run m01`, or `python run.py blend --partial` for the folds that are done",
    )


def test_predictions_made_on_other_folds_are_named(tmp_path):
    work, folds = small_work(tmp_path)
    other, other_folds = small_work(tmp_path / "other", members=1, world=World(600, 40, 8, 3, seed=5, margin=4.0))
    shutil.copytree(other.models / "m00", work.models / "m00", dirs_exist_ok=True)
    assert refusal(load_members, work)[0] == (
        f"m00: fold 0 was made on other folds ({other_folds.digest}) than this work folder's ({folds.digest})"
    )


@pytest.mark.parametrize(("damage", "fault"), [(np.nan, "are NaN or infinite"), (0.5, "do not sum to 1")])
def test_rows_that_are_no_probabilities_are_refused_by_name(tmp_path, damage, fault):
    work, _ = small_work(tmp_path)  # NaN would count as a hit
    path = work.fold("m01", 0) / "oof.npz"
    with np.load(path) as arrays:
        stored = dict(arrays)
    stored["log_probs"][3, 0, 2] += np.float32(damage)
    np.savez(path, **stored)
    done = read_json(path.parent / "done.json", hint="")
    done["files"]["oof.npz"] = file_digest(path)  # even if the writer had meant it
    write_json(path.parent / "done.json", done)
    message = f"m01: the probabilities of {stored['image_id'][3]} {fault}"
    assert refusal(load_members, work) == (message, "`python run.py predict --run m01`")


def test_other_classes_are_named(tmp_path):
    work, folds = small_work(tmp_path)
    rewrite(work, folds, "m01", classes=(*folds.classes[:-1], "zebra"))
    assert refusal(load_members, work)[0] == (
        "m01: fold 0 has 8 classes where the folds have 8; the difference is c007, zebra"
    )


def test_images_without_a_prediction_and_strange_ones_are_named(tmp_path):
    work, folds = small_work(tmp_path)
    rows = np.flatnonzero(folds.fold == 0)
    rewrite(work, folds, "m01", oof_id=folds.image_id[rows[2:]], oof=small_oof(folds, 1)[rows[2:]])
    gaps = ", ".join(folds.image_id[rows[:2]])
    assert refusal(load_members, work)[0] == f"m01: fold 0 has no prediction for {gaps}"
    ids = np.append(folds.image_id[rows], "train/stranger.jpg")
    rewrite(work, folds, "m01", oof_id=ids, oof=small_oof(folds, 1)[np.append(rows, 0)])
    assert refusal(load_members, work)[0] == "m01: fold 0 predicts images that are not in it: train/stranger.jpg"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "text", "another fold's"])
def test_every_damage_to_a_members_file_is_named(tmp_path, damage):
    work, _ = small_work(tmp_path, members=1)
    path = work.fold("m00", 1) / "oof.npz"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    made = {"flip": bytes(data), "cut": bytes(data[:-50]), "empty": b"", "gone": None, "text": b"hello"}
    made["another fold's"] = (work.fold("m00", 0) / "oof.npz").read_bytes()
    made = made[damage]
    path.unlink() if made is None else path.write_bytes(made)
    fault = "lacks its file fold1/oof.npz" if made is None else ": fold1/oof.npz is damaged: checksum mismatch"
    assert fault in refusal(load_members, work)[0]
    assert refusal(load_members, work)[1] == "`python run.py predict --run m00`"


def test_a_run_called_fold0_acts_like_any_other(tmp_path):
    work, folds = small_work(tmp_path, members=1)
    write_small(work, folds, "fold0", small_oof(folds, 1))
    assert load_members(work).names == ("fold0", "m00")


def test_runs_that_are_not_there_are_answered_with_the_next_command(tmp_path):
    work, folds = small_work(tmp_path, members=0)
    assert refusal(load_members, work) == ("there is no finished run to blend", "`python run.py train`")
    write_small(work, folds, "m00", small_oof(folds, 0))
    assert refusal(load_members, work, ("m00", "n01")) == ("there is no finished run n01", "there are m00")


def test_rows_shifted_by_one_are_noticed(tmp_path):
    # ids sorted by class, as class folders give them: accuracy does not see the shift
    work, _ = small_work(tmp_path, members=0)
    folds = by_class(work)
    for name, member in (("m00", 0), ("m01", 1), ("m02", 2), ("moved", 3)):
        oof = small_oof(folds, member)
        write_small(work, folds, name, np.roll(oof, 1, axis=0) if name == "moved" else oof)
    warnings = make_blend(work, QUICK, seed=0).warnings
    assert [w for w in warnings if "are its rows shifted?" in w and w.startswith("moved ")]
    assert not [w for w in warnings if w.startswith("m0")]


def by_class(work):
    """Folds of images whose ids are in the order of their classes."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Sorted(World):
        def targets(self, part):
            return np.sort(super().targets(part))

    shutil.rmtree(work.root)
    return make_folds(work, Sorted(600, 40, 8, 3, margin=4.0))


def test_permuted_classes_are_noticed(tmp_path):
    work, folds = small_work(tmp_path)
    write_small(work, folds, "mixed", small_oof(folds, 3)[:, np.roll(np.arange(8), 3)])
    warnings = make_blend(work, QUICK, seed=0).warnings
    assert [w for w in warnings if "are its classes in another order?" in w and w.startswith("mixed ")]


def test_done_json_that_names_no_files_is_refused(tmp_path):
    work, _ = small_work(tmp_path, members=1)
    (work.fold("m00", 0) / "done.json").write_text(json.dumps({"run": "m00"}))
    assert refusal(load_members, work)[0] == "m00: fold0/done.json names no files"


def test_what_the_kit_stores_is_what_is_streamed(tmp_path):
    work, _folds = small_work(tmp_path, members=1)
    stored = load_predictions(work.fold("m00", 0) / "oof.npz", hint="")
    assert np.array_equal(load_members(work).members[0].probs(0, 50), stored.probs()[:50])


def test_views_apart_get_a_weight_each_and_a_useless_view_none(tmp_path):
    work, folds = small_work(tmp_path, members=1)
    noise = np.log(np.random.default_rng(0).dirichlet(np.ones(8), size=600)).astype(np.float32)
    for fold in range(3):
        rows = folds.fold == fold
        rewrite(work, folds, "m00", oof=np.stack([small_oof(folds, 0)[rows], noise[rows]], axis=1), fold=fold)
        rewrite(work, folds, "m01", oof=np.stack([small_oof(folds, 1)[rows]] * 2, axis=1), fold=fold)
    result = make_blend(work, replace(QUICK, separate_views=True), seed=0)
    convex = next(score for score in result.scores if score.candidate.name == "convex")
    weights = dict(zip(sorted(result.blend.weights), convex.fits.whole.weights, strict=True))
    assert sorted(weights) == ["m00:centre", "m00:mirror", "m01:centre", "m01:mirror"]
    assert weights["m00:mirror"] < 0.02
    assert result.blend.views["m00:mirror"] == ("mirror",)
