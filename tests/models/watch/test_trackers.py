"""Tests the trackers: curves in their own formats, read back; a fold that goes on has no epoch twice."""

import importlib.util
import math

import pytest

from folds.base.workspace import Workspace, write_bytes, write_json
from models.jobs.plan import train_runs
from models.runs import log_line, plan_runs
from models.settings import PredictSettings, TrackSettings
from models.watch.curves import TRACKERS, row_figures, tracking
from models.watch.events import EpochRow, FoldDone, FoldResumed, JobEvent, JobKey
from tests.models.small import SETTINGS, STARTED, prepared
from tests.models.small import epoch_row as row

DONE = FoldDone(0.125, 40.0, True, ("centre",))
TENSORBOARD, WANDB = TrackSettings(tensorboard=True), TrackSettings(wandb=True)


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


@needs("tensorboard")
@pytest.mark.parametrize(
    ("commands", "losses", "errors"),
    [
        pytest.param(
            [[STARTED, row(1), row(2), row(3)], [STARTED, FoldResumed(2, 4), row(3), row(4), DONE]],
            [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)],
            [(0, 0.125)],
            id="killed in epoch 4, its checkpoint behind epoch 2",
        ),
        pytest.param(
            [[STARTED, row(1), row(2), STARTED, FoldResumed(1, 4), row(2)]],
            [(1, 1.0), (2, 0.5)],
            [],
            id="taken over by another process within one command",
        ),
        pytest.param([[STARTED, row(1), row(2), row(3)], [STARTED, row(1)]], [(1, 1.0)], [], id="begun anew"),
    ],
)
def test_tensorboard_has_each_epoch_of_a_fold_once(workspace, commands, losses, errors):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for events in commands:
        follow(workspace, TENSORBOARD, *events)
    shown = EventAccumulator(str(workspace.root / "tensorboard" / "a" / "fold0")).Reload()

    def points(name):
        return [(point.step, point.value) for point in shown.Scalars(name)] if name in shown.scalars.Keys() else []

    assert points("loss/train") == losses
    assert points("fold/OOF_top-3_error") == errors


@needs("tensorboard")
def test_a_real_training_leaves_curves_and_settings_of_every_fold_side_by_side(tmp_path):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    workspace = prepared(tmp_path)
    with tracking(workspace, TENSORBOARD, say=pytest.fail) as trackers:
        for event in train_runs(workspace, plan_runs(SETTINGS, {}), PredictSettings(), seed=0):
            trackers.take(event)
    shown = EventMultiplexer().AddRunsFromDirectory(str(workspace.root / "tensorboard")).Reload()
    assert sorted(shown.Runs()) == ["test_resnet/fold0", "test_resnet/fold1"]
    for name in shown.Runs():
        assert [point.step for point in shown.Scalars(name, "error/top-3")] == [1, 2]
        (text,) = shown.Tensors(name, "settings/text_summary")
        assert b"| epochs | 2 |" in text.tensor_proto.string_val[0]
        assert "_hparams_/session_start_info" in shown.PluginRunToTagToContent("hparams")[name]


@needs("wandb")
def test_wandb_goes_on_under_the_same_id_and_asks_for_nothing_where_there_is_no_account(workspace, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(workspace.root))  # no login of this machine's user
    follow(workspace, WANDB, STARTED, row(1), row(2))
    kept = workspace.root / "wandb" / "a.fold0.id"
    first = kept.read_text()
    follow(workspace, WANDB, STARTED, FoldResumed(2, 4), row(3), row(4), DONE)
    assert kept.read_text() == first
    assert len(list((workspace.root / "wandb").rglob(f"run-{first}.wandb"))) == 2


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_with_the_line_that_installs_it(tmp_path, monkeypatch, typed, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    assert typed("all", "data", f"--{name}", code=2).err.splitlines() == [
        f"error: `--{name}` needs the package {name}, which is not installed",
        f"hint: `pip install -e '.[{name}]'`",
    ]


def test_figures_of_nothing_are_left_out():
    refit = row(1, **dict.fromkeys(("valid_loss", "valid_top1_error", "valid_top3_error"), math.nan))
    assert row_figures(refit).keys() == {"loss/train", "speed/images per second", "speed/seconds", "rate"}


@needs("tensorboard")
def test_a_tracker_that_fails_is_left_out_and_training_goes_on(workspace):
    write_bytes(workspace.root / "tensorboard", b"a file where a folder is needed")
    said = []
    follow(workspace, TENSORBOARD, STARTED, row(1), row(2), DONE, say=said.append)
    assert [sentence.partition(": ")[0] for sentence in said] == ["TensorBoard logging stopped"]


def test_no_tracker_is_on_by_default(workspace):
    follow(workspace, TrackSettings(), STARTED, row(1), DONE)
    assert sorted(path.name for path in workspace.root.iterdir()) == ["models"]
