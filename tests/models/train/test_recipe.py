"""Trains tiny runs with each part of the recipe: all at once, refits, siblings, sizes, batch norm."""

import dataclasses

import numpy as np
import pytest
import torch

from folds.base.errors import UserError
from folds.base.metrics import log_loss, topk_error
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.backbones import resolve_backbone
from models.input.sampling import sampling_shift
from models.predict.again import FILES, predict_run
from models.predict.model import Model
from models.predict.predictions import load_predictions
from models.probe.features import FrozenBody
from models.probe.heads import start_head
from models.runs import done_refit
from models.settings import PredictSettings
from models.watch.events import EpochRow, FoldStarted, MemoryShort
from tests.models.small import SETTINGS, log_rows, only, predict_anew, prepared, stored, train, trainer

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


def test_a_loss_that_is_not_finite_stops_the_fold_with_step_rate_and_advice(workspace):
    one = trainer(workspace, dataclasses.replace(SETTINGS, clip_norm=0))
    with torch.no_grad():
        one.stepper.network.fc.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"the loss of fold 0 is no longer finite at step \d+, at a rate of") as refused:
        list(one.epochs())
    assert "`--lr 0.0003`, or `--precision fp32`" in refused.value.hint


def test_predictions_are_made_at_the_test_size(workspace):
    train(workspace, dataclasses.replace(SETTINGS, test_size=48, backbone=("test_convnext",)), only_folds=[0])
    before = stored(workspace, "test_convnext").log_probs
    predict_anew(workspace, "test_convnext")
    np.testing.assert_array_equal(stored(workspace, "test_convnext").log_probs, before)


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
