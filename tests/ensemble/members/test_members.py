"""Tests what may enter a blend, and what is refused by name."""

import gc
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from ensemble.blend.make_blend import make_blend
from ensemble.members import members as members_module
from ensemble.members.members import load_members
from ensemble.members.oof_file import in_threads, open_predictions
from ensemble.settings import BlendSettings
from folds.base.workspace import write_json
from models.predict.predictions import load_predictions
from tests.competition import refusal
from tests.ensemble.small import (
    QUICK,
    SMALL,
    as_probes,
    change_json,
    change_oof,
    flip,
    small_oof,
    small_test,
    small_work,
    write_small,
)
from tests.synthetic import World, write_fold


def rewrite(work, folds, rows, *, ids=None, classes=None):
    """Write fold 0 of m01 anew, with something wrong about it: its rows in folds.csv, their ids, its classes."""
    ids = folds.image_id[rows] if ids is None else ids
    write_fold(work, folds, "m01", 0, ids, small_oof(folds, 1)[rows], SMALL.test_id, small_test(0), classes=classes)


def test_members_are_joined_by_id_and_read_piece_by_piece(work, folds):
    members = load_members(work)
    stored = load_predictions(work.fold("m00", 0) / "oof.npz", hint="")
    assert np.array_equal(members.members[0].probs(0, 50), stored.probs()[:50])
    place = {name: row for row, name in enumerate(folds.image_id)}
    expected = np.exp(small_oof(folds, 1)[[place[name] for name in members.rows.image_id]])
    for piece, probs in members.chunks(size=17):
        assert probs[1] == pytest.approx(expected[piece], abs=1e-6)
        assert len(set(members.rows.fold[piece])) == 1


def test_the_same_seed_writes_the_same_bytes_whatever_the_order_of_names_and_from_files_too(work, monkeypatch):
    first = make_blend(work, replace(QUICK, members=("m02", "m00")), seed=3).path.read_bytes()
    assert make_blend(work, replace(QUICK, members=("m00", "m02")), seed=3).path.read_bytes() == first
    assert str(work.root) not in first.decode()
    monkeypatch.setattr(members_module, "KEPT_BYTES", 0)  # as if too large for memory
    assert load_members(work).kept is None
    assert make_blend(work, replace(QUICK, members=("m00", "m02")), seed=3).path.read_bytes() == first


@pytest.mark.parametrize("moved", ["rows", "classes"])
def test_rows_or_classes_in_another_order_make_the_same_member(work, folds, moved):
    before = make_blend(work, QUICK, seed=0).blend
    rng = np.random.default_rng(0)
    order = rng.permutation(8) if moved == "classes" else np.arange(8)
    classes = tuple(folds.classes[c] for c in order)
    for fold in range(3):
        rows = np.flatnonzero(folds.fold == fold)
        rows = rng.permutation(rows) if moved == "rows" else rows
        own = folds.image_id[rows], small_oof(folds, 0)[rows][:, order], SMALL.test_id, small_test(0)[:, order]
        write_fold(work, folds, "m00", fold, *own, classes=classes)
    after = make_blend(work, QUICK, seed=0).blend
    assert (after.weights, after.scores) == (before.weights, before.scores)


def test_views_are_averaged_as_probabilities(tmp_path):
    work, folds = small_work(tmp_path, members=1)
    views = np.stack([small_oof(folds, 0), small_oof(folds, 5)], axis=1)
    write_small(work, folds, "m00", views)
    one, other = np.exp(views[folds.fold == 0][:5]).swapaxes(0, 1)
    both = load_members(work).members[0].probs(0, 5)
    mirror = load_members(work, BlendSettings(member_views=("mirror",))).members[0].probs(0, 5)
    assert both == pytest.approx((one + other) / 2, rel=1e-5)
    assert mirror == pytest.approx(other, rel=1e-6)
    assert (
        refusal(load_members, work, BlendSettings(member_views=("wide",)))[0]
        == "m00 has no view wide; it has centre, mirror"
    )


def test_runs_that_differ_in_their_seed_alone_are_one_member(work, folds):
    for name, seed in (("s0", 0), ("s1", 1)):
        write_small(work, folds, name, small_oof(folds, seed + 5), seed=seed)
        for fold in range(folds.n_folds):
            write_json(work.fold(name, fold) / "settings.json", {"run": name, "seed": seed, "settings": {"lr": 1}})
    members = load_members(work, BlendSettings(members=("m00", "s0", "s1")))
    assert members.names == ("m00", "s0+s1")
    rows = np.flatnonzero(folds.fold == 0)[:9]
    mean = (np.exp(small_oof(folds, 5)) + np.exp(small_oof(folds, 6)))[rows] / 2
    assert members.members[1].probs(0, 9) == pytest.approx(mean, rel=1e-5)
    assert load_members(work, BlendSettings(separate_seeds=True)).names == ("m00", "m01", "m02", "s0", "s1")


def test_a_fold_of_another_training_under_the_same_name_is_refused(work):
    change_json(work.fold("m01", 2) / "settings.json", settings={"name": "m01", "lr": 0.1})
    fault = "m01: fold 2 was trained with other settings than fold 0: lr None -> 0.1"
    hint = f"remove {work.fold('m01', 2)}, then `python run.py train --run m01`"
    assert refusal(load_members, work) == (fault, hint)


def test_a_missing_fold_is_named(work):
    (work.fold("m01", 2) / "done.json").unlink()
    hint = "`python run.py train --run m01`, or `python run.py blend --partial` for the folds that are done"
    assert refusal(load_members, work) == ("m01 lacks fold 2 of 3", hint)


def test_a_probe_that_lacks_a_fold_was_to_be_trained(work):
    as_probes(work, "m01")
    (work.fold("m01", 2) / "done.json").unlink()
    assert refusal(load_members, work)[1].startswith(
        f"remove {work.models / 'm01'}, then `python run.py probe` with its"
    )


def test_an_archive_whose_directory_is_damaged_ended_in_a_traceback(work):
    path = work.fold("m00", 1) / "test.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # of its first entry: it is encrypted
    path.write_bytes(content)
    assert refusal(load_predictions, path, hint="")[0].startswith(f"{path} is damaged: ")
    assert refusal(open_predictions, path, hint="")[0].startswith(f"{path} is damaged: ")


def test_predictions_made_on_other_folds_are_named(work, folds, tmp_path):
    other, other_folds = small_work(tmp_path / "other", members=1, world=World(600, 40, 8, 3, seed=5, margin=4.0))
    shutil.copytree(other.models / "m00", work.models / "m00", dirs_exist_ok=True)
    fault = f"m00: fold 0 was made on other folds ({other_folds.digest}) than this work folder's ({folds.digest})"
    assert refusal(load_members, work)[0] == fault


@pytest.mark.parametrize(("damage", "fault"), [(np.nan, "are NaN or infinite"), (0.5, "do not sum to 1")])
def test_rows_that_are_no_probabilities_are_refused_by_name(work, folds, damage, fault):
    def damaged(stored):  # NaN would count as a hit
        stored["log_probs"][3, 0, 2] += np.float32(damage)
        return stored

    change_oof(work.fold("m01", 0), damaged)
    message = f"m01: the probabilities of {folds.image_id[folds.fold == 0][3]} {fault}"
    assert refusal(load_members, work) == (message, "`python run.py predict --run m01`")


def test_other_classes_images_without_a_prediction_and_strange_ones_are_named(work, folds):
    rows = np.flatnonzero(folds.fold == 0)
    rewrite(work, folds, rows, classes=(*folds.classes[:-1], "zebra"))
    fault = "m01: fold 0 has 8 classes where the folds have 8; the difference is c007, zebra"
    assert refusal(load_members, work)[0] == fault
    rewrite(work, folds, rows[2:])
    gaps = ", ".join(folds.image_id[rows[:2]])
    assert refusal(load_members, work)[0] == f"m01: fold 0 has no prediction for {gaps}"
    ids = np.append(folds.image_id[rows], "train/stranger.jpg")
    rewrite(work, folds, np.append(rows, 0), ids=ids)
    assert refusal(load_members, work)[0] == "m01: fold 0 predicts images that are not in it: train/stranger.jpg"


DAMAGES = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "text": lambda path: path.write_text("hello"),
    "another fold's": lambda path: shutil.copy(path.parents[1] / "fold0" / "oof.npz", path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_a_members_file_is_named(work, damage):
    DAMAGES[damage](work.fold("m00", 1) / "oof.npz")
    message, hint = refusal(load_members, work)
    fault = "lacks its file fold1/oof.npz" if damage == "gone" else ": fold1/oof.npz is damaged: checksum mismatch"
    assert fault in message
    assert hint == "`python run.py predict --run m00`"


def test_a_run_called_fold0_acts_like_any_other(work, folds):
    write_small(work, folds, "fold0", small_oof(folds, 1))
    assert load_members(work).names == ("fold0", "m00", "m01", "m02")


def test_runs_that_are_not_there_are_answered_with_the_next_command(tmp_path):
    work, folds = small_work(tmp_path, members=0)
    assert refusal(load_members, work) == ("there is no finished run to blend", "`python run.py train`")
    write_small(work, folds, "m00", small_oof(folds, 0))
    assert refusal(load_members, work, BlendSettings(members=("m00", "n01"))) == (
        "there is no finished run n01",
        "there are m00",
    )


class ByClass(World):
    """Ids are sorted by class, as class folders give them: accuracy does not see a shift."""

    def targets(self, part):
        return np.sort(super().targets(part))


def test_rows_shifted_by_one_are_noticed(tmp_path):
    work, folds = small_work(tmp_path, world=ByClass(600, 40, 8, 3, margin=4.0))
    write_small(work, folds, "moved", np.roll(small_oof(folds, 3), 1, axis=0))
    warnings = make_blend(work, QUICK, seed=0).warnings
    assert [w for w in warnings if "are its rows shifted?" in w and w.startswith("moved ")]
    assert not [w for w in warnings if w.startswith("m0")]


def test_permuted_classes_are_noticed(work, folds):
    write_small(work, folds, "mixed", small_oof(folds, 3)[:, np.roll(np.arange(8), 3)])
    warnings = make_blend(work, QUICK, seed=0).warnings
    assert [w for w in warnings if "are its classes in another order?" in w and w.startswith("mixed ")]


def test_done_json_that_names_no_files_is_refused(work):
    (work.fold("m00", 0) / "done.json").write_text(json.dumps({"run": "m00"}))
    assert refusal(load_members, work)[0] == "m00: fold0/done.json names no files"


def test_views_apart_get_a_weight_each_and_a_useless_view_none(tmp_path):
    work, folds = small_work(tmp_path, members=0)
    noise = np.log(np.random.default_rng(0).dirichlet(np.ones(8), size=600)).astype(np.float32)
    write_small(work, folds, "m00", np.stack([small_oof(folds, 0), noise], axis=1))
    write_small(work, folds, "m01", np.stack([small_oof(folds, 1)] * 2, axis=1))
    result = make_blend(work, replace(QUICK, separate_views=True), seed=0)
    convex = next(score for score in result.scores if score.candidate.name == "convex")
    weights = dict(zip(sorted(result.blend.weights), convex.fits.whole.weights, strict=True))
    assert sorted(weights) == ["m00:centre", "m00:mirror", "m01:centre", "m01:mirror"]
    assert weights["m00:mirror"] < 0.02
    assert result.blend.views["m00:mirror"] == ("mirror",)


def test_files_that_were_opened_side_by_side_while_garbage_was_collected_ended_in_a_system_error(work):
    before, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(lambda *_: sum(range(50)))  # Python code, in which another thread may take over
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    try:
        path = work.fold("m00", 0) / "oof.npz"
        opened = list(in_threads(lambda _: open_predictions(path, hint=""), range(100)))
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(interval)
        gc.callbacks.pop()
    assert [len(one.image_id) for one in opened] == [200] * 100
