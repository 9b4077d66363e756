"""Stops folds after an epoch and goes on: the bytes are those of a fold that was never stopped."""

import dataclasses

import pytest

from models.jobs.plan import train_runs
from models.predict.again import FoldFiles
from models.runs import log_line, plan_runs, read_log_line
from models.settings import PredictSettings
from models.train.checkpoint import Checkpoint, RefusedError
from models.train.trainer import FoldTrainer
from models.watch.events import CheckpointRefused, EpochRow, FoldResumed
from tests.models.small import SETTINGS, log_rows, moved, only, prepared, stepper, train

LIVELY = dataclasses.replace(SETTINGS, epochs=3, mixup=0.3, erase=0.3, dropout=0.1, ema_share=0.5, drop_path=0.1)
FILES = ("network.safetensors", "oof.npz", "test.npz")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def undisturbed(shared):
    return trained_files(shared, LIVELY, "undisturbed")


def trained_files(workspace, settings, name, events=None):
    """What fold 0 leaves: bytes by name, and its log without times. events: a list to fill with those of training"""
    for event in train_runs(
        workspace, plan_runs(settings, {}, names=[name]), PredictSettings(), seed=0, only_folds=[0]
    ):
        if events is not None:
            events.append(event.event)
    folder = workspace.fold(name, 0)
    log = [{key: row[key] for key in row if "second" not in key} for row in log_rows(folder)]
    return {file: (folder / file).read_bytes() for file in FILES} | {"log": log}


def stop_before(epoch, workspace, settings, name):
    """Train fold 0 until an epoch begins; returns what stopped it."""
    train_epoch = FoldTrainer._train_epoch

    def stop(self, number, track):
        if number == epoch:
            raise KeyboardInterrupt
        return train_epoch(self, number, track)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FoldTrainer, "_train_epoch", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            trained_files(workspace, settings, name)
    return caught.value


def test_a_fold_that_goes_on_mixes_in_the_same_weights_before_training_and_freezes_the_same_layers(shared, weights):
    mixed = {"head": "probe", "batch_norm": "frozen", "start_share": 0.5, "frozen_share": 0.5}
    settings = dataclasses.replace(SETTINGS, weights=(str(weights),), **mixed)
    whole = trained_files(shared, settings, "mixed")
    stop_before(1, shared, settings, "mixed-stopped")
    assert trained_files(shared, settings, "mixed-stopped") == whole


def test_a_fold_that_goes_on_after_an_epoch_ends_in_the_same_bytes(shared, undisturbed):
    stopped, events = stop_before(2, shared, LIVELY, "stopped"), []
    assert stopped.__notes__ == ["stopped fold 0 goes on after epoch 2 of 3; 0:00 of work are lost"]
    assert trained_files(shared, LIVELY, "stopped", events) == undisturbed
    assert FoldResumed(2, 3) in events
    assert not (shared.fold("stopped", 0) / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_other_pictures_is_refused(shared, undisturbed, monkeypatch):
    """A store of the same shape was enough."""
    stop_before(2, shared, LIVELY, "changed")
    monkeypatch.setattr(FoldFiles, "pixels", "of other pictures")
    events = []
    trained_files(shared, LIVELY, "changed", events)
    (refused,) = only(CheckpointRefused, events)
    assert refused.why == "belongs to another fold, run or store"
    assert not only(FoldResumed, events)


@pytest.mark.parametrize("before", ["write_network", "FoldFiles.write_predictions", "FoldFiles.write_done"])
def test_a_fold_that_was_stopped_between_its_files_ends_in_the_same_bytes(shared, undisturbed, monkeypatch, before):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"models.train.fold.{before}", stop)
        with pytest.raises(KeyboardInterrupt):
            trained_files(shared, LIVELY, before)
    events = []
    assert trained_files(shared, LIVELY, before, events) == undisturbed
    assert FoldResumed(3, 3) in events
    assert not only(EpochRow, events)


def checkpoint(path, of="x"):
    return Checkpoint(path, of={"fold": of})


def resnet(**options):
    return stepper(backbone="test_resnet", **options)


def bytes_of(one):
    states = (one.network.state_dict(), one.trained.state_dict())
    return [value.numpy().tobytes() for state in states for value in state.values()]


def test_a_stepper_from_a_checkpoint_moves_as_the_one_that_wrote_it(tmp_path):
    one, other = moved(resnet(), range(3)), resnet(seed=1)
    one.micro_batch = 4
    checkpoint(tmp_path / "c").keep(one, [], seconds=1.5)
    assert checkpoint(tmp_path / "c").resume(other)[1] == 1.5
    assert other.micro_batch == 4
    (smaller := resnet()).micro_batch = 2  # as asked for now: memory may be shorter than it was
    checkpoint(tmp_path / "c").resume(smaller)
    assert smaller.micro_batch == 2
    assert bytes_of(moved(other, range(3, 6))) == bytes_of(moved(one, range(3, 6)))


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: flipped(data, len(data) - 5), id="a flipped bit in the tensors"),
        pytest.param(lambda data: flipped(data, 30), id="a flipped bit in the header"),
        pytest.param(lambda data: flipped(data, 0), id="a flipped bit in the length"),
        pytest.param(lambda data: data[:-1], id="cut"),
        pytest.param(lambda data: data + b"x", id="longer"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"no checkpoint at all, but long enough to be one" * 9, id="something else"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_stepper_stays_as_it_was(tmp_path, damage):
    path, untouched = tmp_path / "c", resnet(seed=1)
    before = bytes_of(untouched)
    checkpoint(path).keep(moved(resnet(), range(1)), [], seconds=0)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RefusedError, match="is damaged"):
        checkpoint(path).resume(untouched)
    assert bytes_of(untouched) == before


def test_a_checkpoint_of_another_fold_or_network_is_refused(tmp_path):
    checkpoint(tmp_path / "c").keep(moved(resnet(), range(1)), [], seconds=0)
    with pytest.raises(RefusedError, match=r"^belongs to another fold, run or store$"):
        checkpoint(tmp_path / "c", of="y").resume(resnet())
    with pytest.raises(RefusedError, match=r"^holds other parameters than this network has$"):
        checkpoint(tmp_path / "c").resume(resnet(n_classes=5))


def test_a_fold_with_a_damaged_checkpoint_says_so_and_begins_anew(shared, undisturbed):
    stop_before(2, shared, LIVELY, "damaged")
    path, events = shared.fold("damaged", 0) / "checkpoint.safetensors", []
    path.write_bytes(path.read_bytes()[:-1])
    assert trained_files(shared, LIVELY, "damaged", events) == undisturbed
    assert only(CheckpointRefused, events) == [CheckpointRefused(path, "is damaged: checksum mismatch")]


def test_the_rows_of_a_refit_survive_though_they_hold_nan(workspace):
    train(workspace, dataclasses.replace(SETTINGS, epochs=1), only_folds=[0, 1, None])
    lines = (workspace.refit("test_resnet") / "log.jsonl").read_text().splitlines(keepends=True)
    assert [log_line(read_log_line(line)) for line in lines] == lines
