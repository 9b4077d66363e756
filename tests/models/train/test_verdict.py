"""Checks the learning-rate finder and the verdict on a fold."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from folds.split.assign import load_folds
from models.jobs.plan import find_rates, plan_job
from models.probe.probe import probe_run
from models.runs import done_folds, plan_runs
from models.settings import PredictSettings, TrainSettings
from models.train.lr_find import judge_sweep
from models.train.verdict import against_probe, judge, remedy_for
from models.watch.events import AgainstProbe, JobKey, Verdict
from models.watch.tables import event_lines
from tests.competition import refusal
from tests.models.small import SETTINGS, VIEWS, epoch_row, only, train

RATES = np.geomspace(1e-6, 1, 100)
LONG = dataclasses.replace(SETTINGS, epochs=1, batch_size=4)


def test_a_valid_loss_of_exactly_zero_was_divided_by():
    rows = [epoch_row(number, valid_loss=0.0, valid_top3_error=0.0) for number in (1, 2)]
    assert judge(rows, train_loss=0.0, train_top3_error=0.0).kind == "fine"


def test_the_suggestion_lies_on_the_slope_of_a_valley():
    at = np.log10(RATES)
    losses = 3.0 - 2.0 / (1 + np.exp(-4 * (at + 3))) + np.exp(3 * (at + 1))  # falls fastest at 1e-3, rises from 1e-2 on
    found = judge_sweep(RATES, losses)
    assert 3e-4 < found.suggested < 1e-2
    assert found.steepest < found.lowest


def test_of_a_fitted_head_the_steepest_rate_says_nothing_and_no_first_loss_counts():
    losses = 0.08 - 0.03 / (1 + np.exp(-4 * (np.log10(RATES) + 5))) + np.exp(3 * (np.log10(RATES) + 1))
    losses += np.random.default_rng(0).normal(0, 0.02, 100)
    losses[:3] = 0.02, 0.2, 0.01
    found = judge_sweep(RATES, losses, is_probed=True)
    assert found.suggested == found.lowest / 10
    assert 1e-6 < found.suggested < 1e-3


def test_of_a_fitted_head_whose_loss_only_rises_no_rate_is_suggested():
    losses = 0.05 + 0.02 * (np.log10(RATES) + 5.7) ** 2  # 2.0e-07 was suggested, with which nothing is learned
    said = "the sweep shows no rate: the fitted head knows the training images, and the loss is lowest at "
    message, hint = refusal(judge_sweep, RATES, losses, is_probed=True)
    assert (message.startswith(said), hint) == (True, "leave out `--lr`")


def test_a_loss_that_never_falls_is_refused():
    assert "the loss falls at no rate from 1e-06 to 1e+00" in refusal(judge_sweep, RATES, np.linspace(1, 2, 100))[0]


def test_a_first_loss_that_is_not_finite_was_a_traceback():
    said = "the loss is not finite even at a rate of 1e-06", "`--precision fp32`"
    assert refusal(judge_sweep, RATES[:0], np.array([])) == said


def test_a_sweep_leaves_a_number_and_a_picture(workspace):
    run, found, plot = next(find_rates(workspace, plan_runs(LONG, {}), fold=1, seed=0))
    stored = json.loads((workspace.models / run / "lr-find.json").read_text())
    assert stored["suggested"] == found.suggested
    assert stored["fold"] == 1
    assert len(stored["rates"]) == len(stored["losses"])
    with Image.open(plot) as picture:
        assert picture.size == (1200, 750)


def test_train_with_lr_find_trains_all_folds_at_one_found_rate(workspace):
    train(workspace, dataclasses.replace(LONG, lr="find"))
    stored = json.loads((workspace.models / "test_resnet" / "lr-find.json").read_text())
    assert {done["lr"] for done in done_folds(workspace, "test_resnet").values()} == {stored["suggested"]}


def judged(*valid_losses, train_error=0.08, **beside):
    """The verdict on epochs of these valid losses and a top-3 error of 0.10."""
    rows = [epoch_row(i + 1, valid_loss=loss, valid_top3_error=0.10) for i, loss in enumerate(valid_losses)]
    return judge(rows, train_loss=0.5, train_top3_error=train_error, **beside)


RISING, GAINING, SETTLED = (2.0, 1.2, 1.0, 1.1), (2.0, 1.5, 1.2, 1.0), (2.0, 1.1, 1.01, 1.0)


@pytest.mark.parametrize(
    ("losses", "train_error", "kind", "says"),
    [
        (RISING, 0.05, "overfitting", "risen by 10% since epoch 3: fewer epochs (`--epochs 3`)"),
        (GAINING, 0.08, "underfitting", "took 17% off the valid loss: more of them (`--epochs 6`)"),
        (GAINING, 0.01, "fine", "took 17% off the valid loss, but the training images are nearly memorised"),
        (SETTLED, 0.01, "overfitting", "nearly memorised: more epochs would add little"),
        (SETTLED, 0.08, "fine", "has settled"),
        ((1.0,), 0.08, "fine", "has settled"),
    ],
)
def test_a_fold_is_judged_by_its_valid_loss_and_its_own_training_images(losses, train_error, kind, says):
    verdict = judged(*losses, train_error=train_error)
    assert verdict.kind == kind
    assert says in verdict.advice


@pytest.mark.parametrize(
    ("losses", "change"),
    [
        ((2.30, 2.29, 2.28), "more epochs (`--epochs 4`) or a higher `--lr`, or pretrained weights"),
        ((2.28, 2.60, 2.90), "a smaller `--lr`, or pretrained weights"),
    ],
)
def test_a_net_that_is_no_better_than_the_class_shares_was_called_fine(losses, change):
    said = judged(*losses, train_error=0.5, chance_loss=math.log(10))
    known = "valid loss 2.2800 at best, 2.3026 by the class shares alone"
    assert said.kind == "underfitting"
    assert said.advice == f"the network learned next to nothing ({known}): {change}"


def test_the_figures_are_those_of_the_last_epoch():
    verdict = judged(2.0, 1.0, 1.0, train_error=0.04)
    assert (verdict.valid_loss, verdict.train_loss) == (1.0, 0.5)
    assert (verdict.valid_top3_error, verdict.train_top3_error, verdict.gained) == (0.10, 0.04, 0.0)


BEHIND = AgainstProbe("x-probe", ("centre",), 0.0262, 0.0197, 0.11, 0.08, is_better=False)
NO_BETTER = "no better than its own frozen probe (top-3 error 0.0262 against 0.0197, log loss 0.1100 against 0.0800): "


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        (SETTLED, ""),
        (RISING, "; the valid loss has risen by 10% since epoch 3, so fewer epochs may help too (`--epochs 3`)"),
        (GAINING, "; the last epochs still took 17% off the valid loss, so more of them may help too (`--epochs 6`)"),
    ],
)
def test_a_net_that_is_no_better_than_its_frozen_probe_hears_that_first_and_what_to_turn(losses, says):
    said = judged(*losses, train_error=0.01, against_probe=BEHIND, remedy="`--batch-norm frozen`")
    assert (said.kind, said.advice) == ("no gain", f"{NO_BETTER}`--batch-norm frozen`{says}")


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ((0.0175, 0.0197, 0.11, 0.08), ": top-3 error 0.0175 against 0.0197, log loss 0.1100 against 0.0800"),
        ((0.0907, 0.0858, 0.76, 0.84), " in log loss, and in top 3 within chance of it: "
         "top-3 error 0.0907 against 0.0858, log loss 0.7600 against 0.8400"),
    ],
)  # fmt: skip
def test_a_net_that_is_better_than_its_probe_is_judged_as_before_and_both_figures_are_shown(figures, says):
    said = judged(2.0, 1.01, 1.0, against_probe=AgainstProbe("x-probe", ("centre",), *figures, is_better=True))
    assert said.kind == "fine"
    assert event_lines(JobKey("x", 0), said)[-1] == f"  (better than its own frozen probe{says})"


@pytest.mark.parametrize(
    ("batch_norm", "head", "scale", "has_batch_norm", "takes_head", "says"),
    [
        ("train", "random", 1, True, True, "`--batch-norm frozen --head probe`, or a smaller `--lr`"),
        ("frozen", "random", 1, True, True, "`--head probe`, or a smaller `--lr`"),
        ("train", "probe", 1, True, True, "`--batch-norm frozen`, or a smaller `--lr`"),
        ("train", "random", 1, False, True, "`--head probe`, or a smaller `--lr`"),
        ("train", "random", 1, True, False, "`--batch-norm frozen`, or a smaller `--lr`"),
        ("frozen", "probe", 10, True, True, "`--head-lr-scale 1`, or a smaller rate (`--lr 0.0001`)"),
        ("frozen", "probe", 1, True, True, "a smaller rate (`--lr 0.0001`)"),
    ],
)
def test_only_what_is_not_so_already_and_is_possible_is_proposed(
    batch_norm, head, scale, has_batch_norm, takes_head, says
):
    settings = TrainSettings(batch_norm=batch_norm, head=head, head_lr_scale=scale)
    assert remedy_for(settings, lr=3e-4, has_batch_norm=has_batch_norm, takes_head=takes_head) == says


@pytest.fixture
def slow(weights):
    """Settings that train next to nothing: the frozen probe is far better."""
    at_start = {"weights": (str(weights),), "head": "random", "batch_norm": "train"}
    return dataclasses.replace(SETTINGS, **at_start, epochs=1, warmup_epochs=0, lr=1e-6)


def probe(workspace, settings, *, names=()):
    return list(probe_run(workspace, plan_runs(settings, {}, names=names)[0], VIEWS))


def test_a_fold_worse_than_its_frozen_probe_says_so_in_done_json_with_both_errors(workspace, slow):
    probe(workspace, slow)
    (verdict,) = only(Verdict, train(workspace, slow, only_folds=[0]))
    done = done_folds(workspace, "test_resnet")[0]
    stored, against = done["verdict"], done["verdict"]["against_probe"]
    assert (verdict.kind, stored["kind"]) == ("no gain", "no gain")
    assert (stored["advice"], stored["train_top3_error"]) == (verdict.advice, verdict.train_top3_error)
    assert stored["advice"].startswith("no better than its own frozen probe (top-3 error ")
    assert "`--batch-norm frozen --head probe`, or a smaller `--lr`" in stored["advice"]
    assert (against["probe"], against["views"]) == ("test_resnet-probe", ["centre", "mirror"])
    assert against["top3_error"] == done["oof_top3_error"]
    assert against["probe_top3_error"] == done_folds(workspace, "test_resnet-probe")[0]["oof_top3_error"]


def compare(workspace, weights_digest, *, image_size=32):
    folds, plan = load_folds(workspace), plan_runs(dataclasses.replace(SETTINGS, image_size=image_size), {})[0]
    job = plan_job(workspace, plan, folds, 0, seed=0, is_to_train=False)
    return against_probe(workspace, folds, dataclasses.replace(job, weights_digest=weights_digest))


def test_only_a_probe_of_the_same_weights_and_size_counts_and_a_damaged_one_is_passed_over(workspace, slow):
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


def test_views_that_the_probe_lacks_are_left_aside(workspace, slow):
    probe(workspace, slow)
    train(workspace, slow, only_folds=[0], views=PredictSettings(views=("whole", "centre")))
    assert done_folds(workspace, "test_resnet")[0]["verdict"]["against_probe"]["views"] == ["centre"]
