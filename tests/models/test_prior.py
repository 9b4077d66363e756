"""Tests the choice between the restored and the shifted class prior, and that a kill never spoils a file."""

import os
import sys
from signal import SIGKILL

import numpy as np
import pytest

from folds.base.errors import UserError
from folds.base.workspace import Workspace, digest, read_json, write_json
from folds.split.assign import Folds
from models.input.sampling import sampling_correction
from models.predict.predictions import Predictions, load_predictions, save_predictions
from models.predict.prior import choose_prior
from models.settings import TrainSettings
from models.watch.tables import event_lines

C = 10
SHARE = 0.6 ** np.arange(C) / (0.6 ** np.arange(C)).sum()
TARGET = np.random.default_rng(0).choice(C, size=1800, p=SHARE)
SETTINGS = {"restore_prior": "oof", "sampling_power": 0.5, "max_repeats": 4.0}


def make_folds():
    ids = np.array([f"{i:04d}.jpg" for i in range(len(TARGET))])
    return Folds(
        image_id=ids, path=ids, label=np.array([f"c{one}" for one in TARGET]), target=TARGET, group=np.arange(len(ids)),
        fold=np.arange(len(ids)) % 3, classes=tuple(f"c{i}" for i in range(C)), n_folds=3, seed=0, digest="folds",
    )  # fmt: skip


FOLDS = make_folds()


def correction(k, folds=FOLDS):
    """What undoes the shift of fold k's sampling. (C,)"""
    return sampling_correction(TARGET[folds.fold != k], TrainSettings(sampling_power=0.5), n_classes=C)


def normal(logits):
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def write_part(folder, log_probs, ids, *, fold, settings=SETTINGS):
    """Store a folder as a trainer would; log_probs by file (n, V, C)."""
    files = {}
    for name, values in log_probs.items():
        views = np.array(["centre", "mirror"])
        made = Predictions(ids[name], np.array(FOLDS.classes), views, values, FOLDS.digest)
        save_predictions(folder / f"{name}.npz", made)
        files[f"{name}.npz"] = digest((folder / f"{name}.npz").read_bytes())
    write_json(folder / "settings.json", {"run": "a", "settings": settings})
    write_json(folder / "done.json", {"fold": fold, "prior_restored": True, "oof_top3_error": 9.0, "files": files})


def write_run(folder, *, shift, settings=SETTINGS, refit=False):
    """Three folds: with shift 0 the restored prior is right, as Bayes would have it; with 3 the shifted one is."""
    workspace = Workspace(folder)
    tests = np.array([f"t{i}" for i in range(20)])
    for k in range(3):
        rng = np.random.default_rng(k)
        rows = np.flatnonzero(FOLDS.fold == k)
        logits = np.log(SHARE) + 1.2 * rng.normal(size=(len(rows), 1, C)) + np.zeros((1, 2, 1))
        logits[np.arange(len(rows)), :, TARGET[rows]] += 1.2**2
        stored = {"oof": normal(logits + shift * correction(k)), "test": normal(rng.normal(0, 1, (20, 2, C)))}
        ids = {"oof": FOLDS.image_id[rows], "test": tests}
        write_part(workspace.fold("a", k), stored, ids, fold=k, settings=settings)
    if refit:
        stored = {"test": normal(np.random.default_rng(9).normal(0, 1, (20, 2, C)))}
        write_part(workspace.refit("a"), stored, {"test": tests}, fold="all", settings=settings)
    return workspace


def contents(workspace):
    return {path: path.read_bytes() for path in sorted(workspace.root.rglob("*.*"))}


def stored(workspace, k, name="oof"):
    return load_predictions(workspace.fold("a", k) / f"{name}.npz", hint="").log_probs


def is_sound(workspace):
    """Every done.json names the bytes that lie beside it, no rewriting is open, and all parts hold one variant."""
    parts = [read_json(path, hint="") | {"folder": path.parent} for path in workspace.root.rglob("done.json")]
    for part in parts:
        assert "rewriting" not in part
        for file, known in part["files"].items():
            assert digest((part["folder"] / file).read_bytes()) == known
    return len({part["prior_restored"] for part in parts}) == 1


def test_the_restored_prior_is_kept_where_the_shifted_one_is_no_better(tmp_path):
    workspace = write_run(tmp_path, shift=0)
    before = stored(workspace, 1)
    choice = choose_prior(workspace, "a", FOLDS)
    assert choice.kept == "restored"
    assert choice.restored_error < choice.shifted_error
    np.testing.assert_array_equal(stored(workspace, 1), before)
    assert is_sound(workspace)


def test_the_shifted_prior_is_kept_where_it_is_clearly_better(tmp_path):
    workspace = write_run(tmp_path, shift=3)
    before = [stored(workspace, k) for k in range(3)]
    choice = choose_prior(workspace, "a", FOLDS)
    assert choice.kept == "shifted"
    assert choice.difference == pytest.approx(choice.restored_error - choice.shifted_error)
    assert 0 < choice.low < choice.difference < choice.high
    for k in range(3):
        assert stored(workspace, k) == pytest.approx(normal(before[k] - correction(k)), abs=1e-5)
        assert np.exp(stored(workspace, k, "test")).sum(axis=2) == pytest.approx(1, abs=1e-5)
    done = [read_json(workspace.fold("a", k) / "done.json", hint="") for k in range(3)]
    assert [one["prior_restored"] for one in done] == [False] * 3
    assert np.mean([one["oof_top3_error"] for one in done]) == pytest.approx(choice.shifted_error)
    assert is_sound(workspace)


def test_choosing_again_changes_no_byte(tmp_path):
    workspace = write_run(tmp_path, shift=3)
    first = choose_prior(workspace, "a", FOLDS)
    before = contents(workspace)
    assert choose_prior(workspace, "a", FOLDS) == first
    assert contents(workspace) == before


def test_the_same_is_chosen_whichever_variant_the_files_hold(tmp_path):
    workspace = write_run(tmp_path, shift=3)
    first = choose_prior(workspace, "a", FOLDS)
    for k in range(3):
        path = workspace.fold("a", k) / "done.json"
        write_json(path, {key: value for key, value in read_json(path, hint="").items() if key != "prior_choice"})
    assert choose_prior(workspace, "a", FOLDS) == first


LAST = 3 * 5 + 3 - 1  # per fold: done.json twice around two files, then the choice; of a refit done.json and one file


def killed_at(workspace, number):
    """Choose in a process that is killed before its number-th file (from 0) is whole; False if it came to its end."""
    child = os.fork()
    if child == 0:
        count, here = iter(range(1000)), os.getpid()
        sys.addaudithook(lambda what, _: what == "os.rename" and next(count) == number and os.kill(here, SIGKILL))
        choose_prior(workspace, "a", FOLDS)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def npz_files(workspace):
    return [data for path, data in contents(workspace).items() if path.suffix == ".npz"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to kill")
def test_a_kill_before_any_file_is_healed_by_the_next_call(tmp_path):
    whole = write_run(tmp_path / "whole", shift=3, refit=True)
    choose_prior(whole, "a", FOLDS)
    assert not killed_at(write_run(tmp_path / "all", shift=3, refit=True), LAST + 1)
    for number in (*range(6), *range(LAST - 2, LAST + 1)):
        workspace = write_run(tmp_path / str(number), shift=3, refit=True)
        assert killed_at(workspace, number)
        choose_prior(workspace, "a", FOLDS)
        assert is_sound(workspace)
        assert npz_files(workspace) == npz_files(whole)


def test_a_fold_that_is_predicted_again_brings_the_choice_up_again(tmp_path):
    workspace = write_run(tmp_path, shift=3)
    choose_prior(workspace, "a", FOLDS)
    write_run(tmp_path, shift=0)
    assert choose_prior(workspace, "a", FOLDS).kept == "restored"


def test_a_refit_follows_its_folds(tmp_path):
    workspace = write_run(tmp_path, shift=3, refit=True)
    path = workspace.refit("a") / "test.npz"
    before = load_predictions(path, hint="").log_probs
    choose_prior(workspace, "a", FOLDS)
    shift = sampling_correction(TARGET, TrainSettings(sampling_power=0.5), n_classes=C)
    assert load_predictions(path, hint="").log_probs == pytest.approx(normal(before - shift), abs=1e-5)
    assert is_sound(workspace)


def test_a_refit_that_comes_later_follows_the_choice_that_was_made(tmp_path):
    workspace = write_run(tmp_path, shift=3)
    first = choose_prior(workspace, "a", FOLDS)
    values = {"test": normal(np.random.default_rng(9).normal(0, 1, (20, 2, C)))}
    write_part(workspace.refit("a"), values, {"test": np.array([f"t{i}" for i in range(20)])}, fold="all")
    assert choose_prior(workspace, "a", FOLDS) == first
    assert is_sound(workspace)


@pytest.mark.parametrize("settings", [{"restore_prior": "yes"}, {"restore_prior": "no"}, {"sampling_power": 0.0}])
def test_there_is_nothing_to_choose_where_settings_decide_or_sampling_is_natural(tmp_path, settings):
    workspace = write_run(tmp_path, shift=3, settings={**SETTINGS, **settings})
    before = contents(workspace)
    assert choose_prior(workspace, "a", FOLDS) is None
    assert contents(workspace) == before


def test_nothing_is_chosen_before_the_last_fold(tmp_path):
    workspace = write_run(tmp_path, shift=3)
    (workspace.fold("a", 1) / "done.json").unlink()
    assert choose_prior(workspace, "a", FOLDS) is None


def test_a_damaged_file_is_refused_and_not_rewritten(tmp_path):
    workspace = write_run(tmp_path, shift=3)
    path = workspace.fold("a", 2) / "test.npz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"fold2/test\.npz is absent or damaged") as caught:
        choose_prior(workspace, "a", FOLDS)
    assert caught.value.hint == "`python run.py predict --run a`"


def test_the_choice_is_told_in_one_sentence(tmp_path):
    (line,) = event_lines(choose_prior(write_run(tmp_path, shift=3), "a", FOLDS))
    assert line.startswith(
        "a: the class prior that sampling shifted is kept at prediction, since it scores better: OOF"
    )
