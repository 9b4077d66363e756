"""Trains small nets on a tiny work folder: what a batch may hold, the parts of the recipe, what a seed decides."""

import dataclasses

import numpy as np
import pytest
import torch

from folds.base.errors import UserError
from folds.base.metrics import log_loss, topk_error
from folds.base.progress import silently
from folds.pixels.store import open_store
from folds.settings import SplitSettings
from folds.split.assign import load_folds, split
from models.backbones import resolve_backbone
from models.input.batches import gather_batches
from models.input.sampling import sampling_shift
from models.jobs.plan import plan_run
from models.predict.again import FILES, load_trained, predict_run
from models.predict.model import Model
from models.predict.predictions import load_predictions
from models.probe.features import FrozenBody
from models.probe.heads import start_head
from models.runs import done_folds, done_refit, plan_runs
from models.settings import PredictSettings
from models.train.fold import do_job
from models.watch.events import EpochRow, FoldPredicted, FoldStarted, MemoryShort, PredictStarted
from tests.competition import fingerprint, make_competition, refusal
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
    return copied(trained, tmp_path)


def test_a_run_has_predictions_digests_and_a_score_of_its_own_and_a_row_of_its_log_for_each_epoch(trained):
    check_full_run(trained, "test_resnet")
    one, two = log_rows(trained.fold("test_resnet", 0))
    assert (one["epoch"], two["epoch"]) == (1, 2)
    assert two["train_loss"] < one["train_loss"]


def test_another_seed_gives_other_bytes_and_leaves_the_pixel_store_alone(own, trained):
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


def test_what_is_stored_predicts_again_what_was_predicted_averaged_at_another_size_and_with_uneven_classes(tmp_path):
    """The network must be the averaged one, and each fold's correction that of its own training part."""
    data = make_competition(tmp_path / "data")
    for number in range(5):
        (data / "TrainVal" / "0" / f"0-{number}.jpg").unlink()
    workspace = prepared_from(data, tmp_path)
    assert len(set(np.bincount(load_folds(workspace).target[load_folds(workspace).fold == 0]))) > 1
    train(workspace, dataclasses.replace(SETTINGS, ema_share=0.5, sampling_power=1.0, test_size=48))

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
    (as_before, _) = predict_run(own, "test_resnet", PredictSettings(), device_name="cpu")
    assert as_before.event == FoldPredicted(as_before.event.top3_error, ("centre", "centre@48"))
    path = own.fold("test_resnet", 0) / "oof.npz"
    whole = path.read_bytes()
    (own.fold("test_resnet", 1) / "test.npz").unlink()  # as after a kill between the folds
    assert asked("centre@48", "centre") == [(1, ("centre@48", "centre"), ())]
    assert asked("centre", "centre@48") == []
    assert path.read_bytes() == whole
    assert "`centre` and `centre@32` are one view of test_resnet" in refusal(asked, "centre", "centre@32")[0]


def test_a_run_of_other_folds_is_refused(own):
    for path in (own.folds_csv, own.folds_json):
        path.unlink()
    split(own, SplitSettings(n_folds=2), seed=1)
    with pytest.raises(UserError, match=r"the run test_resnet was begun with other settings: .*folds_digest"):
        train(own, seed=1)


def test_of_two_commands_that_begin_one_run_with_other_settings_the_second_is_refused(workspace):
    folds, store = load_folds(workspace), open_store(workspace)
    (job,) = plan_run(workspace, plan_runs(SETTINGS, {})[0], folds, [1], seed=0)  # planned before the other begins
    train(workspace, dataclasses.replace(SETTINGS, epochs=1), only_folds=[0])
    with pytest.raises(UserError, match="the run test_resnet was begun with other settings: epochs 1 -> 2"):
        list(do_job(workspace, job, folds, store, PredictSettings(), lr=1e-3, track=silently))
    assert done_folds(workspace, "test_resnet").keys() == {0}


def test_everything_is_refused_before_the_first_step(workspace):
    both = dataclasses.replace(SETTINGS, backbone=("test_resnet", "test_vit"), weights=("test_vit=none.pth",))
    assert "none.pth cannot be read" in refusal(train, workspace, both)[0]
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


EVERYTHING = dataclasses.replace(
    SETTINGS,
    epochs=4,
    start_size=16,
    test_size=48,
    layer_decay=0.8,
    cycles=2,
    rotate=10,
    colour_jitter=0.2,
    erase=0.25,
    mixup=0.2,
    cutmix=1.0,
    dropout=0.1,
    drop_path=0.1,
    micro_batch=4,
    batch_norm="frozen",
    ema_share=0.2,
)


def test_everything_at_once_trains_and_the_same_seed_gives_the_same_bytes(tmp_path):
    folders = []
    for name in ("one", "two"):
        own = prepared(tmp_path / name)
        train(own, EVERYTHING, only_folds=[0])
        folders.append(own.fold("test_resnet", 0))
    for file in FILES:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    assert [row["image_size"] for row in log_rows(folders[0])] == [16, 16, 32, 32]


def test_training_images_are_scored_with_the_network_that_is_kept_and_not_those_of_the_fold(workspace, monkeypatch):
    one, asked, log_probs = trainer(workspace), [], Model.log_probs

    def noted(model, store, rows, views):
        asked.extend(rows.tolist())
        return log_probs(model, store, rows, views)

    monkeypatch.setattr(Model, "log_probs", noted)
    loss, error = one.score_training()
    assert len(asked) == len(set(asked)) == len(one.data.valid_rows)
    assert set(asked) <= set(one.data.train_rows)
    where = dict(zip(one.data.train_rows, one.data.train_target, strict=True))
    probs = np.exp(log_probs(one.model, one.store, np.array(asked), ["centre"])[:, 0])
    target = np.array([where[row] for row in asked])
    assert (loss, error) == (pytest.approx(log_loss(probs, target)), topk_error(probs, target))


def test_a_refit_needs_its_folds_trains_on_every_image_and_predicts_the_test_images_alone(workspace):
    settings, refit = dataclasses.replace(SETTINGS, epochs=1), workspace.refit("test_resnet")
    with pytest.raises(
        UserError, match="takes its weight in the blend from the run's folds, and test_resnet lacks folds 0, 1"
    ):
        train(workspace, settings, only_folds=[None])
    train(workspace, settings)
    (started,) = only(FoldStarted, train(workspace, settings, only_folds=[None]))
    assert (started.n_train, started.n_valid) == (len(load_folds(workspace).fold), 0)
    done = done_refit(workspace, "test_resnet")
    assert done["fold"] == "all"
    assert set(done["files"]) == {"network.safetensors", "settings.json", "test.npz"}
    assert not (refit / "oof.npz").exists()
    assert [row["valid_loss"] for row in log_rows(refit)] == [None]
    assert train(workspace, settings, only_folds=[None])[-1].trained is False
    list(predict_run(workspace, "test_resnet", PredictSettings(views=("whole",)), device_name="cpu"))
    assert load_predictions(refit / "test.npz", hint="").views.tolist() == ["whole"]


def test_short_memory_is_told_and_the_fold_goes_on(workspace):
    one = trainer(workspace)

    def refuse(module, inputs):
        if module.training and len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    one.stepper.network.register_forward_pre_hook(refuse)
    events = list(one.epochs())
    assert events[0] == MemoryShort(micro_batch=4, batch_size=8)
    assert [type(event) for event in events] == [MemoryShort, EpochRow, EpochRow]


def test_prediction_goes_on_in_smaller_passes_where_memory_is_short(workspace):
    """It ended in a traceback, after the training, and `--predict-batch` had no say in the score of each epoch."""
    model, store = trainer(workspace).model, open_store(workspace)
    whole = model.log_probs(store, store.test_rows, ["centre", "whole"])
    features = [one.clone() for one in next(model.features(store, store.test_rows, ["centre"]))]
    assert len(store.test_rows) == 6
    holds, passes = [4], []

    def refuse(module, inputs):
        if len(inputs[0]) > holds[0] and len(passes) >= 2:  # first `fused` compares its answers to one image
            raise torch.OutOfMemoryError("CUDA out of memory.")
        passes.append(len(inputs[0]))

    model.network.conv1.register_forward_pre_hook(refuse)
    np.testing.assert_allclose(model.log_probs(store, store.test_rows, ["centre", "whole"]), whole, atol=1e-5)
    assert passes == [1, 1, 3, 3, 3, 3]
    for small, one in zip(next(model.features(store, store.test_rows, ["centre"])), features, strict=True):
        torch.testing.assert_close(small, one, atol=1e-5, rtol=1e-4)
    holds[0] = 0
    passes.clear()
    why, _ = refusal(model.log_probs, store, store.test_rows, ["centre"])
    assert why == "out of memory with one image of 32 pixels at prediction"


def test_a_loss_that_is_not_finite_stops_the_fold_with_step_rate_and_advice(workspace):
    one = trainer(workspace, dataclasses.replace(SETTINGS, clip_norm=0))
    with torch.no_grad():
        one.stepper.network.fc.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"the loss of fold 0 is no longer finite at step \d+, at a rate of") as refused:
        list(one.epochs())
    assert "`--lr 0.0003`, or `--precision fp32`" in refused.value.hint


def test_a_fold_starts_from_its_probed_head_with_the_prior_that_sampling_makes(workspace, weights):
    settings = dataclasses.replace(SETTINGS, weights=(str(weights),), sampling_power=1.0, head="probe")
    folds, store = load_folds(workspace), open_store(workspace)
    probed, plain = trainer(workspace, settings), trainer(workspace, dataclasses.replace(settings, head="random"))
    assert (probed.is_probed, plain.is_probed) == (True, False)
    body = FrozenBody(resolve_backbone("test_resnet"), weights, 32, torch.device("cpu"), torch.float32)
    head, network = start_head(workspace, folds, store, body, fold=0, stages=2), probed.stepper.network
    torch.testing.assert_close(torch.cat([network.stage_head.weight, network.fc.weight], dim=1), head.weight)
    narrow = trainer(workspace, dataclasses.replace(settings, stages=1)).stepper.network
    assert not hasattr(narrow, "stage_head")
    torch.testing.assert_close(narrow.fc.weight, start_head(workspace, folds, store, body, fold=0).weight)
    target = folds.target[folds.fold != 0]
    shift = torch.from_numpy(sampling_shift(target, settings, n_classes=4)).float()
    torch.testing.assert_close(network.fc.bias, head.bias - shift)
    assert probed.score_training()[0] < plain.score_training()[0]


def test_a_random_start_has_no_features_to_fit_a_head_to(workspace):
    assert not trainer(workspace, dataclasses.replace(SETTINGS, head="probe")).is_probed
