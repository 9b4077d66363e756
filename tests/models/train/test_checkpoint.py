"""Stops folds after an epoch and goes on: the bytes are those of a fold that was never stopped."""

import dataclasses
import json

import pytest
import torch

from models.jobs.plan import train_runs
from models.runs import log_line, plan_runs, read_log_line
from models.settings import PredictSettings
from models.train.checkpoint import Checkpoint, RefusedError
from models.train.stepper import Stepper
from models.train.trainer import FoldTrainer
from models.watch.events import CheckpointRefused, EpochRow, FoldResumed
from tests.models.small import SETTINGS, full, prepared, save_body, train

CPU = torch.device("cpu")
LIVELY = dataclasses.replace(SETTINGS, epochs=3, mixup=0.3, erase=0.3, dropout=0.1, ema_share=0.5, drop_path=0.1)
FILES = ("network.safetensors", "oof.npz", "test.npz")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def undisturbed(workspace):
    return trained_files(workspace, LIVELY, "undisturbed")


def trained_files(workspace, settings, name, events=None):
    plans = plan_runs(settings, {}, names=[name])
    for event in train_runs(workspace, plans, PredictSettings(), seed=0, only_folds=[0]):
        if events is not None:
            events.append(event.event)
    folder = workspace.fold(name, 0)
    return {file: (folder / file).read_bytes() for file in FILES} | {"log": scores(folder)}


def scores(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if "second" not in key} for row in rows]


def stop_before(monkeypatch, epoch):
    train_epoch = FoldTrainer._train_epoch

    def stop(self, number, track):
        if number == epoch:
            raise KeyboardInterrupt
        return train_epoch(self, number, track)

    monkeypatch.setattr(FoldTrainer, "_train_epoch", stop)


def test_a_fold_that_goes_on_mixes_in_the_same_weights_before_training_and_freezes_the_same_layers(
    workspace, tmp_path, monkeypatch
):
    body = str(save_body(tmp_path / "body.safetensors"))
    mixed = {"start_share": 0.5, "frozen_share": 0.5}
    settings = dataclasses.replace(SETTINGS, weights=(body,), head="probe", batch_norm="frozen", **mixed)
    whole = trained_files(workspace, settings, "mixed")
    with monkeypatch.context() as during:
        stop_before(during, 1)
        with pytest.raises(KeyboardInterrupt):
            trained_files(workspace, settings, "mixed-stopped")
    assert trained_files(workspace, settings, "mixed-stopped") == whole


def test_a_fold_that_goes_on_after_an_epoch_ends_in_the_same_bytes(workspace, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        stop_before(patch, 2)
        with pytest.raises(KeyboardInterrupt) as caught:
            trained_files(workspace, LIVELY, "stopped")
    assert caught.value.__notes__ == ["stopped fold 0 goes on after epoch 2 of 3; 0:00 of work are lost"]
    events = []
    again = trained_files(workspace, LIVELY, "stopped", events)
    assert FoldResumed(2, 3) in events
    assert again == undisturbed
    assert not (workspace.fold("stopped", 0) / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("before", ["write_network", "FoldFiles.write_predictions", "FoldFiles.write_done"])
def test_a_fold_that_was_stopped_between_its_files_ends_in_the_same_bytes(workspace, undisturbed, monkeypatch, before):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"models.train.fold.{before}", stop)
        with pytest.raises(KeyboardInterrupt):
            trained_files(workspace, LIVELY, before)
    events = []
    assert trained_files(workspace, LIVELY, before, events) == undisturbed
    assert FoldResumed(3, 3) in events
    assert not [event for event in events if isinstance(event, EpochRow)]


def checkpoint(path, of="x"):
    return Checkpoint(path, of={"fold": of})


def stepper(seed=0, *, width=4, settings=SETTINGS):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.BatchNorm2d(width), torch.nn.Flatten())
    network.append(torch.nn.Linear(width * 36, 4))
    network.default_cfg = {"classifier": "3"}
    network.pretrained_cfg = {"classifier": "3"}
    network.get_classifier = lambda: network[3]
    return Stepper(network, full(settings), lr=1e-2, epoch_steps=4, batch_size=8, device=CPU, precision=torch.float32)


def moved(one, steps, first=0):
    for step in range(first, first + steps):
        torch.manual_seed(step)
        one.step(step, torch.randn(8, 3, 8, 8).contiguous(memory_format=torch.channels_last), torch.arange(8) % 4)
    return one


def bytes_of(one):
    return [
        value.numpy().tobytes() for value in (*one.network.state_dict().values(), *one.trained.state_dict().values())
    ]


def test_a_stepper_from_a_checkpoint_moves_as_the_one_that_wrote_it(tmp_path):
    one = moved(stepper(), 3)
    one.micro_batch = 4
    checkpoint(tmp_path / "c").keep(one, [], seconds=1.5)
    other = stepper(seed=1)
    assert checkpoint(tmp_path / "c").resume(other)[1] == 1.5
    assert other.micro_batch == 4
    assert bytes_of(moved(other, 3, first=3)) == bytes_of(moved(one, 3, first=3))


def damages(data):
    yield "a flipped bit in the tensors", data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    yield "a flipped bit in the header", data[:30] + bytes([data[30] ^ 1]) + data[31:]
    yield "a flipped bit in the length", bytes([data[0] ^ 1]) + data[1:]
    yield "cut", data[:-1]
    yield "longer", data + b"x"
    yield "empty", b""
    yield "something else", b"no checkpoint at all, but long enough to be one" * 9


def test_a_damaged_checkpoint_is_refused_and_the_stepper_stays_as_it_was(tmp_path):
    path = tmp_path / "c"
    checkpoint(path).keep(moved(stepper(), 1), [], seconds=0)
    untouched, before = stepper(seed=1), bytes_of(stepper(seed=1))
    for what, damage in damages(path.read_bytes()):
        (tmp_path / "damaged").write_bytes(damage)
        with pytest.raises(RefusedError, match="is damaged"):
            pytest.fail(what) if checkpoint(tmp_path / "damaged").resume(untouched) else None
        assert bytes_of(untouched) == before, what


def test_a_checkpoint_of_another_fold_or_network_is_refused(tmp_path):
    checkpoint(tmp_path / "c").keep(moved(stepper(), 1), [], seconds=0)
    with pytest.raises(RefusedError, match=r"^belongs to another fold, run or store$"):
        checkpoint(tmp_path / "c", of="y").resume(stepper())
    with pytest.raises(RefusedError, match=r"^holds other parameters than this network has$"):
        checkpoint(tmp_path / "c").resume(stepper(width=8))


def test_a_fold_with_a_damaged_checkpoint_says_so_and_begins_anew(workspace, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        stop_before(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            trained_files(workspace, LIVELY, "damaged")
    path = workspace.fold("damaged", 0) / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    events = []
    assert trained_files(workspace, LIVELY, "damaged", events) == undisturbed
    assert [event for event in events if isinstance(event, CheckpointRefused)] == [
        CheckpointRefused(path, "is damaged: checksum mismatch")
    ]


def test_the_rows_of_a_refit_survive_though_they_hold_nan(workspace):
    train(workspace, dataclasses.replace(SETTINGS, epochs=1), only_folds=[0, 1, None])
    lines = (workspace.refit("test_resnet") / "log.jsonl").read_text().splitlines(keepends=True)
    assert [log_line(read_log_line(line)) for line in lines] == lines
