"""Trains small nets on a tiny work folder: what a batch may hold, and that a seed decides every byte."""

import dataclasses

import numpy as np
import pytest
import torch

from folds.base.errors import UserError
from folds.pixels.store import open_store
from folds.settings import SplitSettings
from folds.split.assign import load_folds, split
from models.input.batches import gather_batches
from models.predict.again import load_trained, predict_run
from models.runs import done_folds
from models.settings import PredictSettings
from models.watch.events import PredictStarted
from tests.competition import fingerprint, make_competition
from tests.models.small import (
    SETTINGS,
    check_full_run,
    copied,
    log_rows,
    only,
    predict_anew,
    prepared,
    prepared_from,
    stored,
    train,
    trainer,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace = prepared(tmp_path_factory.mktemp("trained"))
    train(workspace)
    return workspace


@pytest.fixture
def own(tmp_path, trained):
    """A copy of what was trained, to change."""
    return copied(trained, tmp_path)


def test_a_run_has_predictions_digests_and_a_score_of_its_own_and_a_row_of_its_log_for_each_epoch(trained):
    check_full_run(trained, "test_resnet")
    one, two = log_rows(trained.fold("test_resnet", 0))
    assert (one["epoch"], two["epoch"]) == (1, 2)
    assert two["train_loss"] < one["train_loss"]


def test_another_seed_gives_other_bytes_and_leaves_the_pixel_store_alone(own, trained):
    """The same seed gives the same ones, see test_recipe.py."""
    before = fingerprint(own.folds)
    train(own, seed=6, only_folds=[1])
    for file in ("network.safetensors", "oof.npz", "test.npz"):
        one, other = (trained.fold("test_resnet", 1) / file, own.fold("test_resnet-seed6", 1) / file)
        assert one.read_bytes() != other.read_bytes(), file
    predict_anew(own, "test_resnet")
    assert fingerprint(own.folds) == before


def test_no_image_of_the_fold_is_ever_in_a_training_batch(trained, monkeypatch):
    folds, store = load_folds(trained), open_store(trained)
    seen = []

    def spy(pixels, batches, device):
        seen.extend(np.concatenate(batches).tolist())
        return gather_batches(pixels, batches, device)

    monkeypatch.setattr("models.train.trainer.gather_batches", spy)  # predict has a name of its own for it
    train(trained, dataclasses.replace(SETTINGS, backbone=("test_vit2",)), only_folds=[1])
    own = store.rows(folds.image_id[folds.fold == 1], split="train")
    others = store.rows(folds.image_id[folds.fold == 0], split="train")
    assert not set(seen) & set(own.tolist())
    assert set(seen) == set(others.tolist())


def test_steps_are_counted_from_zero_through_all_epochs_and_so_is_the_schedule(trained, monkeypatch):
    """A schedule one step ahead never has its first rate, and nobody sees it in the score."""
    one = trainer(trained, dataclasses.replace(SETTINGS, epochs=3, warmup_epochs=1.0))
    rates, step, epoch_steps = {}, one.stepper.step, one.data.epoch_steps

    def noted(number, images, target):
        loss = step(number, images, target)
        rates[number] = one.stepper.lr
        return loss

    monkeypatch.setattr(one.stepper, "step", noted)
    assert len(list(one.epochs())) == 3
    assert list(rates) == list(range(3 * epoch_steps))
    assert rates[0] == pytest.approx(1e-5)  # 1% of the peak, where the warm-up begins
    assert rates[epoch_steps] == max(rates.values()) == pytest.approx(1e-3)  # the peak, after an epoch of warm-up


def test_batch_size_at_prediction_makes_no_difference(own):
    before = stored(own, "test_resnet").log_probs
    predict_anew(own, "test_resnet", PredictSettings(predict_batch=5))
    np.testing.assert_allclose(stored(own, "test_resnet").log_probs, before, atol=1e-4)


def test_what_is_stored_predicts_again_what_was_predicted_with_averaging_and_uneven_classes(tmp_path):
    """The network must be the averaged one, and each fold's correction that of its own training part."""
    data = make_competition(tmp_path / "data")
    for number in range(5):
        (data / "TrainVal" / "0" / f"0-{number}.jpg").unlink()
    workspace = prepared_from(data, tmp_path)
    assert len(set(np.bincount(load_folds(workspace).target[load_folds(workspace).fold == 0]))) > 1
    train(workspace, dataclasses.replace(SETTINGS, ema_share=0.5, sampling_power=1.0))

    def made():
        return [stored(workspace, "test_resnet", fold, name).log_probs for fold in (0, 1) for name in ("oof", "test")]

    before = made()
    predict_anew(workspace, "test_resnet")
    for again, log_probs in zip(made(), before, strict=True):
        np.testing.assert_allclose(again, log_probs, atol=1e-4)


def test_views_that_are_there_stay_to_the_bit_and_the_others_are_predicted(own):
    def asked(*views):
        events = predict_run(own, "test_resnet", PredictSettings(views=views), device_name="cpu")
        started = only(PredictStarted, [one.event for one in events])
        return [(event.networks, event.views, event.kept) for event in started]

    predict_anew(own, "test_resnet")
    centre = stored(own, "test_resnet").log_probs[:, 0]
    assert asked("centre", "centre@48") == [(2, ("centre@48",), ("centre",))]
    made = stored(own, "test_resnet")
    assert made.views.tolist() == ["centre", "centre@48"]
    np.testing.assert_array_equal(made.log_probs[:, 0], centre)
    folds, store = load_folds(own), open_store(own)
    model = load_trained(own, "test_resnet", 0, folds, device=torch.device("cpu")).model
    rows = store.rows(made.image_id, split="train")
    at_48 = dataclasses.replace(model, size=48).log_probs(store, rows, ["centre"])
    np.testing.assert_array_equal(made.log_probs[:, 1], at_48[:, 0])
    path = own.fold("test_resnet", 0) / "oof.npz"
    whole = path.read_bytes()
    (own.fold("test_resnet", 1) / "test.npz").unlink()  # as after a kill between the folds
    assert asked("centre@48", "centre") == [(1, ("centre@48", "centre"), ())]
    assert asked("centre", "centre@48") == []
    assert path.read_bytes() == whole
    with pytest.raises(UserError, match="`centre` and `centre@32` are one view of test_resnet"):
        asked("centre", "centre@32")


def test_a_run_of_other_folds_is_refused(own):
    for path in (own.folds_csv, own.folds_json):
        path.unlink()
    split(own, SplitSettings(n_folds=2), seed=1)
    with pytest.raises(UserError, match=r"the run test_resnet was begun with other settings: .*folds_digest"):
        train(own, seed=1)


def test_everything_is_refused_before_the_first_step(workspace):
    both = dataclasses.replace(SETTINGS, backbone=("test_resnet", "test_vit"), weights=("test_vit=none.pth",))
    with pytest.raises(UserError, match=r"the weights file none\.pth cannot be read"):
        train(workspace, both)
    assert not workspace.models.exists()


def test_a_competition_without_test_images_trains_all_the_same(tmp_path):
    data = make_competition(tmp_path / "data", n_test=0)
    (data / "sample_submission.csv").unlink()
    (data / "Public").rmdir()
    workspace = prepared_from(data, tmp_path)
    train(workspace, dataclasses.replace(SETTINGS, epochs=1), only_folds=[0])
    assert stored(workspace, "test_resnet", 0, "test").log_probs.shape == (0, 2, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_predicts_like_the_cpu(workspace):
    train(workspace, dataclasses.replace(SETTINGS, device="cuda", precision="bf16"))
    assert done_folds(workspace, "test_resnet").keys() == {0, 1}
