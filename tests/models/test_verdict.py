"""Checks the sentence on a fold: no gain over its frozen probe, overfitting, underfitting or fine."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from folds.split.assign import load_folds
from models.backbones import build_network, resolve_backbone
from models.probe.probe import probe_runs
from models.runs import done_folds, plan_runs
from models.settings import PredictSettings, TrainSettings
from models.train.verdict import against_probe, judge, remedy_for
from models.watch.events import AgainstProbe, EpochRow, Verdict
from models.watch.tables import event_lines
from tests.models.test_trainer import SETTINGS, VIEWS, prepared, train


def rows(*valid_losses, error=0.10):
    return [
        EpochRow(
            epoch=i + 1,
            lr=1e-3,
            image_size=64,
            train_loss=1.0,
            valid_loss=loss,
            valid_top1_error=0.3,
            valid_top3_error=error,
            images_per_second=100,
            seconds=1,
        )
        for i, loss in enumerate(valid_losses)
    ]


@pytest.mark.parametrize(
    ("losses", "train_error", "kind", "says"),
    [
        ((2.0, 1.2, 1.0, 1.1), 0.05, "overfitting", "risen by 10% since epoch 3: fewer epochs (`--epochs 3`)"),
        ((2.0, 1.5, 1.2, 1.0), 0.08, "underfitting", "took 17% off the valid loss: more of them (`--epochs 6`)"),
        ((2.0, 1.1, 1.01, 1.0), 0.01, "overfitting", "nearly memorised: more epochs would add little"),
        ((2.0, 1.1, 1.01, 1.0), 0.08, "fine", "has settled"),
        ((1.0,), 0.08, "fine", "has settled"),
    ],
)
def test_a_fold_is_judged_by_its_valid_loss_and_its_own_training_images(losses, train_error, kind, says):
    verdict = judge("x", 0, rows(*losses), train_loss=0.5, train_top3_error=train_error)
    assert verdict.kind == kind
    assert says in verdict.advice


def test_the_figures_are_those_of_the_last_epoch():
    verdict = judge("x", 2, rows(2.0, 1.0, 1.0), train_loss=0.5, train_top3_error=0.04)
    assert (verdict.fold, verdict.valid_loss, verdict.train_loss) == (2, 1.0, 0.5)
    assert (verdict.valid_top3_error, verdict.train_top3_error, verdict.gained) == (0.10, 0.04, 0.0)


def against(*, is_better, top3_error=0.0262):
    return AgainstProbe("x-probe", ("centre",), top3_error, 0.0197, 0.11, 0.08, is_better)


def test_a_net_that_is_no_better_than_its_frozen_probe_hears_that_first_and_what_to_turn():
    said = judge(
        "x",
        0,
        rows(2.0, 1.1, 1.01, 1.0),
        train_loss=0.5,
        train_top3_error=0.01,
        against_probe=against(is_better=False),
        remedy="`--batch-norm frozen --head probe`, or a smaller `--lr`",
    )
    assert said.kind == "no gain"
    assert said.advice == (
        "no better than its own frozen probe (top-3 error 0.0262 against 0.0197, log loss 0.1100 against 0.0800): "
        "`--batch-norm frozen --head probe`, or a smaller `--lr`"
    )


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ((2.0, 1.2, 1.0, 1.1), "; the valid loss has risen by 10% since epoch 3, so fewer epochs may help too "),
        ((2.0, 1.5, 1.2, 1.0), "; the last epochs still took 17% off the valid loss, so more of them may help too "),
    ],
)
def test_a_net_behind_its_probe_also_hears_where_its_epochs_were_too_many_or_too_few(losses, says):
    said = judge("x", 0, rows(*losses), train_loss=0.5, train_top3_error=0.05, against_probe=against(is_better=False))
    assert says in said.advice


def test_a_net_that_is_better_than_its_probe_is_judged_as_before_and_both_figures_are_shown():
    better = against(is_better=True, top3_error=0.0175)
    said = judge("x", 0, rows(2.0, 1.01, 1.0), train_loss=0.5, train_top3_error=0.08, against_probe=better)
    assert said.kind == "fine"
    assert event_lines(said)[-1] == (
        "  (better than its own frozen probe: top-3 error 0.0175 against 0.0197, log loss 0.1100 against 0.0800)"
    )


@pytest.mark.parametrize(
    ("settings", "has_batch_norm", "says"),
    [
        ({"batch_norm": "train", "head": "random"}, True, "`--batch-norm frozen --head probe`, or a smaller `--lr`"),
        ({"batch_norm": "frozen", "head": "random"}, True, "`--head probe`, or a smaller `--lr`"),
        ({"batch_norm": "train", "head": "probe"}, True, "`--batch-norm frozen`, or a smaller `--lr`"),
        ({"batch_norm": "train", "head": "random"}, False, "`--head probe`, or a smaller `--lr`"),
        (
            {"batch_norm": "frozen", "head": "probe", "head_lr_scale": 10.0},
            True,
            "`--head-lr-scale 1`, or a smaller rate (`--lr 0.0001`)",
        ),
        (
            {"batch_norm": "frozen", "head": "probe", "head_lr_scale": 1.0},
            True,
            "a smaller rate (`--lr 0.0001`)",
        ),
    ],
)
def test_only_what_is_not_so_already_is_proposed(settings, has_batch_norm, says):
    said = remedy_for(TrainSettings(**settings), lr=3e-4, has_batch_norm=has_batch_norm, takes_head=True)
    assert said == says


def test_a_head_that_cannot_be_put_in_is_not_proposed():
    said = remedy_for(TrainSettings(batch_norm="train", head="random"), lr=3e-4, has_batch_norm=True, takes_head=False)
    assert said == "`--batch-norm frozen`, or a smaller `--lr`"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a body, as a hub would have it."""
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    torch.manual_seed(3)
    save_file(build_network(resolve_backbone("test_resnet"), 7, size=32).state_dict(), path)
    return path


@pytest.fixture
def slow(weights):
    """Settings that train next to nothing: the frozen probe is far better."""
    return dataclasses.replace(
        SETTINGS, weights=(str(weights),), epochs=1, warmup_epochs=0, lr=1e-6, head="random", batch_norm="train"
    )


def probe(workspace, settings, *, names=()):
    return list(probe_runs(workspace, plan_runs(settings, {}, names=names), VIEWS))


def test_a_fold_worse_than_its_frozen_probe_says_so_in_done_json_with_both_errors(tmp_path, slow):
    workspace = prepared(tmp_path)
    probe(workspace, slow)
    verdict = next(one for one in train(workspace, slow, only_folds=[0]) if isinstance(one, Verdict))
    stored = done_folds(workspace, "test_resnet")[0]["verdict"]
    assert (verdict.kind, stored["kind"]) == ("no gain", "no gain")
    assert stored["advice"].startswith("no better than its own frozen probe (top-3 error ")
    assert "`--batch-norm frozen --head probe`, or a smaller `--lr`" in stored["advice"]
    against = stored["against_probe"]
    assert (against["probe"], against["views"]) == ("test_resnet-probe", ["centre", "mirror"])
    assert against["top3_error"] == done_folds(workspace, "test_resnet")[0]["oof_top3_error"]
    assert against["probe_top3_error"] == done_folds(workspace, "test_resnet-probe")[0]["oof_top3_error"]


def compare(workspace, weights_digest, *, image_size=32):
    return against_probe(
        workspace,
        "test_resnet",
        load_folds(workspace),
        fold=0,
        backbone="test_resnet.r160_in1k",
        weights_digest=weights_digest,
        image_size=image_size,
    )


def test_only_a_probe_of_the_same_weights_and_size_counts_and_a_damaged_one_is_passed_over(tmp_path, slow):
    workspace = prepared(tmp_path)
    train(workspace, slow, only_folds=[0])
    used = done_folds(workspace, "test_resnet")[0]["weights_digest"]
    assert "against_probe" not in done_folds(workspace, "test_resnet")[0]["verdict"]
    assert compare(workspace, used) is None
    probe(workspace, slow, names=("frozen",))  # under any name
    assert compare(workspace, used).probe == "frozen"
    assert compare(workspace, "0" * 16) is None
    assert compare(workspace, "") is None
    assert compare(workspace, used, image_size=48) is None
    probe(workspace, slow)
    assert compare(workspace, used).probe == "test_resnet-probe"
    path = workspace.fold("test_resnet-probe", 0) / "oof.npz"
    path.write_bytes(path.read_bytes()[:-1])
    assert compare(workspace, used).probe == "frozen"


def test_views_that_the_probe_lacks_are_left_aside(tmp_path, slow):
    workspace = prepared(tmp_path)
    probe(workspace, slow)
    train(workspace, slow, only_folds=[0], views=PredictSettings(views=("whole", "centre")))
    verdict = json.loads((workspace.fold("test_resnet", 0) / "done.json").read_text())["verdict"]
    assert verdict["against_probe"]["views"] == ["centre"]
