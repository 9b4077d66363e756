"""Trains small nets on a tiny work folder: what a batch may hold, and that a seed decides every byte."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from folds.base.errors import UserError
from folds.base.metrics import topk_error
from folds.base.workspace import Workspace, digest
from folds.manifest.prepare import prepare
from folds.pixels.store import open_store
from folds.settings import PrepareSettings, SplitSettings
from folds.split.assign import load_folds, split
from models.input.batches import gather_batches
from models.predict.again import load_trained, predict_run
from models.predict.predictions import load_predictions
from models.runs import done_folds
from models.settings import PredictSettings
from models.watch.events import PredictStarted
from tests.competition import fingerprint, make_competition
from tests.models.small import SETTINGS, VIEWS, copied, predict_anew, prepared, train, trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace = prepared(tmp_path_factory.mktemp("trained"))
    train(workspace)
    return workspace


def test_oof_and_test_carry_their_own_ids_classes_views_and_digest(trained):
    folds = load_folds(trained)
    for fold in (0, 1):
        oof = load_predictions(trained.fold("test_resnet", fold) / "oof.npz", hint="")
        assert oof.image_id.tolist() == folds.image_id[folds.fold == fold].tolist()
        assert oof.classes.tolist() == ["0", "1", "2", "10"]
        assert oof.views.tolist() == ["centre", "mirror"]
        assert oof.folds_digest == folds.digest
        assert oof.log_probs.dtype == np.float32
        test = load_predictions(trained.fold("test_resnet", fold) / "test.npz", hint="")
        assert test.image_id.tolist() == ["000", "001", "002", "003", "004", "005"]


def test_done_json_names_every_file_by_its_digest_and_the_score_of_the_mean_view(trained):
    folds = load_folds(trained)
    for fold, done in done_folds(trained, "test_resnet").items():
        folder = trained.fold("test_resnet", fold)
        assert {name: digest((folder / name).read_bytes()) for name in done["files"]} == done["files"]
        probs = load_predictions(folder / "oof.npz", hint="").probs()
        assert done["oof_top3_error"] == topk_error(probs, folds.target[folds.fold == fold])


def test_the_log_holds_one_row_per_epoch(trained):
    rows = [json.loads(line) for line in (trained.fold("test_resnet", 0) / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["train_loss"] < rows[0]["train_loss"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    workspace = prepared(tmp_path)

    def trained_bytes(run, seed):
        train(workspace, seed=seed, only_folds=[1])
        folder = workspace.fold(run, 1)
        made = [(folder / file).read_bytes() for file in ("network.safetensors", "oof.npz", "test.npz")]
        shutil.rmtree(workspace.models)
        return made

    one, again = (trained_bytes("test_resnet-seed5", 5) for _ in range(2))  # the folds have seed 0
    assert one == again
    assert not set(one) & set(trained_bytes("test_resnet-seed6", 6))


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
    settings = dataclasses.replace(SETTINGS, epochs=3, warmup_epochs=1.0)
    one = trainer(trained, settings)
    seen, step = [], one.stepper.step

    def noted(number, images, target):
        loss = step(number, images, target)
        seen.append((number, one.stepper.lr))
        return loss

    monkeypatch.setattr(one.stepper, "step", noted)
    assert len(list(one.epochs())) == 3
    assert [number for number, _ in seen] == list(range(3 * one.data.epoch_steps))
    rates = [rate for _, rate in seen]
    assert rates[0] == pytest.approx(1e-5)  # 1% of the peak, where the warm-up begins
    assert rates[one.data.epoch_steps] == max(rates) == pytest.approx(1e-3)  # the peak, after an epoch of warm-up


def test_batch_size_at_prediction_makes_no_difference(tmp_path, trained):
    before = load_predictions(trained.fold("test_resnet", 0) / "oof.npz", hint="")
    predict_anew(trained, "test_resnet", PredictSettings(predict_batch=5))
    after = load_predictions(trained.fold("test_resnet", 0) / "oof.npz", hint="")
    np.testing.assert_allclose(after.log_probs, before.log_probs, atol=1e-4)


def test_what_is_stored_predicts_again_what_was_predicted_with_averaging_and_uneven_classes(tmp_path):
    """The network must be the averaged one, and each fold's correction that of its own training part."""
    data = make_competition(tmp_path / "data")
    for number in range(5):
        (data / "TrainVal" / "0" / f"0-{number}.jpg").unlink()
    workspace = Workspace(tmp_path / "work")
    prepare(workspace, data, PrepareSettings(store_size=32, workers=1))
    split(workspace, SplitSettings(n_folds=2), seed=0)
    assert len(set(np.bincount(load_folds(workspace).target[load_folds(workspace).fold == 0]))) > 1
    train(workspace, dataclasses.replace(SETTINGS, ema_share=0.5, sampling_power=1.0))
    files = [workspace.fold("test_resnet", fold) / name for fold in (0, 1) for name in ("oof.npz", "test.npz")]
    before = [load_predictions(path, hint="").log_probs for path in files]
    predict_anew(workspace, "test_resnet")
    for path, log_probs in zip(files, before, strict=True):
        np.testing.assert_allclose(load_predictions(path, hint="").log_probs, log_probs, atol=1e-4, err_msg=str(path))


@pytest.fixture
def own(tmp_path, trained):
    """A copy of what was trained, to change."""
    return copied(trained, tmp_path)


def test_views_that_are_there_stay_to_the_bit_and_the_others_are_predicted(own):
    path = own.fold("test_resnet", 0) / "oof.npz"

    def asked(*views):
        events = predict_run(own, "test_resnet", PredictSettings(views=views), device_name="cpu")
        started = [one.event for one in events if isinstance(one.event, PredictStarted)]
        return [(event.networks, event.views, event.kept) for event in started]

    predict_anew(own, "test_resnet")
    centre = load_predictions(path, hint="").log_probs[:, 0]
    assert asked("centre", "centre@48") == [(2, ("centre@48",), ("centre",))]
    made = load_predictions(path, hint="")
    assert made.views.tolist() == ["centre", "centre@48"]
    np.testing.assert_array_equal(made.log_probs[:, 0], centre)
    folds, store = load_folds(own), open_store(own)
    model = load_trained(own, "test_resnet", 0, folds, device=torch.device("cpu")).model
    rows = store.rows(made.image_id, split="train")
    at_48 = dataclasses.replace(model, size=48).log_probs(store, rows, ["centre"])
    np.testing.assert_array_equal(made.log_probs[:, 1], at_48[:, 0])
    whole = path.read_bytes()
    (own.fold("test_resnet", 1) / "test.npz").unlink()  # as after a kill between the folds
    assert asked("centre@48", "centre") == [(1, ("centre@48", "centre"), ())]
    assert asked("centre", "centre@48") == []
    assert path.read_bytes() == whole
    with pytest.raises(UserError, match="`centre` and `centre@32` are one view of test_resnet"):
        asked("centre", "centre@32")


def test_a_damaged_checkpoint_is_refused_by_name(own):
    path = own.fold("test_resnet", 0) / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=r"network\.safetensors is absent or not the file that was trained"):
        list(predict_run(own, "test_resnet", VIEWS, device_name="cpu"))


def test_a_run_of_other_folds_is_refused(own):
    for path in (own.folds_csv, own.folds_json):
        path.unlink()
    split(own, SplitSettings(n_folds=2), seed=1)
    with pytest.raises(UserError, match=r"the run test_resnet was begun with other settings: .*folds_digest"):
        train(own, seed=1)


def test_everything_is_refused_before_the_first_step(tmp_path):
    workspace = prepared(tmp_path)
    both = dataclasses.replace(SETTINGS, backbone=("test_resnet", "test_vit"), weights=("test_vit=none.pth",))
    with pytest.raises(UserError, match=r"the weights file none\.pth cannot be read"):
        train(workspace, both)
    assert not workspace.models.exists()


def test_a_competition_without_test_images_trains_all_the_same(tmp_path):
    data = make_competition(tmp_path / "data", n_test=0)
    (data / "sample_submission.csv").unlink()
    (data / "Public").rmdir()
    workspace = Workspace(tmp_path / "work")
    prepare(workspace, data, PrepareSettings(store_size=32, workers=1))
    split(workspace, SplitSettings(n_folds=2), seed=0)
    train(workspace, only_folds=[0])
    test = load_predictions(workspace.fold("test_resnet", 0) / "test.npz", hint="")
    assert test.log_probs.shape == (0, 2, 4)


def test_work_data_and_training_leave_the_pixel_store_alone(trained):
    before = fingerprint(trained.folds)
    predict_anew(trained, "test_resnet")
    assert fingerprint(trained.folds) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_predicts_like_the_cpu(tmp_path):
    workspace = prepared(tmp_path)
    train(workspace, dataclasses.replace(SETTINGS, device="cuda", precision="bf16"))
    assert done_folds(workspace, "test_resnet").keys() == {0, 1}
