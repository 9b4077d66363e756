"""Tests the trackers: curves in their own formats, read back; a fold that goes on has no epoch twice."""

import dataclasses
import importlib.util
import math

import pytest

import run
from folds.base.workspace import Workspace, write_bytes, write_json
from models.jobs.plan import train_runs
from models.runs import log_line, plan_runs
from models.settings import PredictSettings, TrackSettings
from models.watch.curves import TRACKERS, row_figures, tracking
from models.watch.events import EpochRow, FoldDone, FoldResumed, FoldStarted, JobEvent, JobKey
from tests.models.small import SETTINGS, prepared

STARTED = FoldStarted("tag", 60, 30, 32, 32, 32, "cpu", "float32", 1e-3, False)
DONE = FoldDone(0.125, 40.0, True, ("centre",))


def row(epoch):
    return EpochRow(epoch, 1e-3, 32, 1.0 / epoch, 0.75, 0.5, 0.25, 100.0, 10.0)


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def follow(workspace, settings, *events, say=pytest.fail):
    with tracking(workspace, settings, say=say) as trackers:
        for event in events:
            if isinstance(event, EpochRow):
                log = workspace.fold("a", 0) / "log.jsonl"
                before = log.read_text().splitlines(keepends=True) if event.epoch > 1 else []
                write_bytes(log, "".join([*before[: event.epoch - 1], log_line(event)]).encode())
            trackers.take(JobEvent(JobKey("a", 0), event))


@pytest.fixture
def workspace(tmp_path):
    """A work folder in which fold 0 of the run `a` has begun."""
    workspace = Workspace(tmp_path / "work")
    settings = {"run": "a", "backbone": "tag", "seed": 0, "settings": {"epochs": 4, "mirror": True, "image_size": None}}
    write_json(workspace.fold("a", 0) / "settings.json", settings)
    return workspace


def killed_and_resumed(workspace, settings):
    """Three epochs; then, from a checkpoint behind the second one, the third again and the fourth."""
    follow(workspace, settings, STARTED, row(1), row(2), row(3))
    follow(workspace, settings, STARTED, FoldResumed(2, 4), row(3), row(4), DONE)


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(name)]


@needs("tensorboard")
def test_tensorboard_has_each_epoch_once_when_a_fold_was_killed_and_went_on(workspace):
    killed_and_resumed(workspace, TrackSettings(tensorboard=True))
    folder = workspace.root / "tensorboard" / "a" / "fold0"
    assert scalars(folder, "loss/train") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert scalars(folder, "fold/OOF_top-3_error") == [(0, 0.125)]


@needs("tensorboard")
def test_a_fold_that_another_process_takes_over_within_one_command_has_each_epoch_once(workspace):
    follow(workspace, TrackSettings(tensorboard=True), STARTED, row(1), row(2), STARTED, FoldResumed(1, 4), row(2))
    folder = workspace.root / "tensorboard" / "a" / "fold0"
    assert scalars(folder, "loss/train") == [(1, 1.0), (2, 0.5)]


@needs("tensorboard")
def test_tensorboard_forgets_the_curve_of_a_fold_that_begins_anew(workspace):
    follow(workspace, TrackSettings(tensorboard=True), STARTED, row(1), row(2), row(3))
    follow(workspace, TrackSettings(tensorboard=True), STARTED, row(1))
    assert scalars(workspace.root / "tensorboard" / "a" / "fold0", "loss/train") == [(1, 1.0)]


@needs("tensorboard")
def test_a_real_training_leaves_curves_and_settings_of_every_fold_side_by_side(tmp_path):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    workspace = prepared(tmp_path)
    with tracking(workspace, TrackSettings(tensorboard=True), say=pytest.fail) as trackers:
        for event in train_runs(workspace, plan_runs(SETTINGS, {}), PredictSettings(), seed=0):
            trackers.take(event)
    shown = EventMultiplexer().AddRunsFromDirectory(str(workspace.root / "tensorboard")).Reload()
    assert sorted(shown.Runs()) == ["test_resnet/fold0", "test_resnet/fold1"]
    for fold in shown.Runs():
        assert [point.step for point in shown.Scalars(fold, "error/top-3")] == [1, 2]
        (text,) = shown.Tensors(fold, "settings/text_summary")
        assert b"| epochs | 2 |" in text.tensor_proto.string_val[0]
        assert "_hparams_/session_start_info" in shown.PluginRunToTagToContent("hparams")[fold]


@needs("wandb")
def test_wandb_goes_on_under_the_same_id_and_asks_for_nothing_where_there_is_no_account(workspace, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(workspace.root))  # no login of this machine's user
    follow(workspace, TrackSettings(wandb=True), STARTED, row(1), row(2))
    kept = workspace.root / "wandb" / "a.fold0.id"
    first = kept.read_text()
    follow(workspace, TrackSettings(wandb=True), STARTED, FoldResumed(2, 4), row(3), row(4), DONE)
    assert kept.read_text() == first
    assert len(list((workspace.root / "wandb").rglob(f"run-{first}.wandb"))) == 2


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_with_the_line_that_installs_it(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    assert run.main(["all", "data", f"--{name}"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: `--{name}` needs the package {name}, which is not installed"
    assert hint == f"hint: `pip install -e '.[{name}]'`"


def test_figures_of_nothing_are_left_out():
    refit = dataclasses.replace(row(1), valid_loss=math.nan, valid_top1_error=math.nan, valid_top3_error=math.nan)
    assert row_figures(refit).keys() == {"loss/train", "speed/images per second", "speed/seconds", "rate"}


@needs("tensorboard")
def test_a_tracker_that_fails_is_left_out_and_training_goes_on(workspace):
    write_bytes(workspace.root / "tensorboard", b"a file where a folder is needed")
    said = []
    follow(workspace, TrackSettings(tensorboard=True), STARTED, row(1), row(2), DONE, say=said.append)
    (sentence,) = said
    assert sentence.startswith("TensorBoard logging stopped: ")


def test_no_tracker_is_on_by_default(workspace):
    follow(workspace, TrackSettings(), STARTED, row(1), DONE)
    assert sorted(path.name for path in workspace.root.iterdir()) == ["models"]
