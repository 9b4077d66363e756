"""Checks the learning-rate finder: what it suggests, what it leaves behind, and that `--lr find` uses it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from folds.base.errors import UserError
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.jobs.plan import find_rates, plan_job
from models.runs import done_folds, plan_runs
from models.train.fold import make_trainer
from models.train.lr_find import judge_sweep, smoothed, sweep
from tests.models.test_trainer import SETTINGS, prepared, train

LONG = dataclasses.replace(SETTINGS, epochs=1, batch_size=4)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("lr-find"))


def trainer(workspace):
    folds = load_folds(workspace)
    job = plan_job(workspace, plan_runs(LONG, {})[0], folds, 0, seed=0)
    return make_trainer(workspace, job, folds, open_store(workspace), lr=1.0)


def test_the_network_is_as_it_was_after_a_sweep(workspace):
    one = trainer(workspace)
    before = {name: value.clone() for name, value in one.stepper.network.state_dict().items()}
    found = sweep(one, steps=40)
    assert len(found.rates) == len(found.losses)
    for name, value in one.stepper.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_suggestion_lies_on_the_slope_of_a_valley():
    rates = np.geomspace(1e-6, 1, 100)
    at = np.log10(rates)
    losses = 3.0 - 2.0 / (1 + np.exp(-4 * (at + 3))) + np.exp(3 * (at + 1))  # falls fastest at 1e-3, rises from 1e-2 on
    found = judge_sweep(rates, losses)
    assert 3e-4 < found.suggested < 1e-2
    assert found.steepest < found.lowest


def test_a_loss_that_never_falls_is_refused():
    with pytest.raises(UserError, match="the loss falls at no rate from 1e-06 to 1e\\+00"):
        judge_sweep(np.geomspace(1e-6, 1, 50), np.linspace(1, 2, 50))


def test_smoothing_keeps_a_constant_and_starts_at_the_first_loss():
    np.testing.assert_allclose(smoothed(np.full(20, 1.5)), 1.5)
    assert smoothed(np.array([3.0, 1.0]))[0] == pytest.approx(3.0)


def test_a_sweep_leaves_a_number_and_a_picture(workspace):
    found = next(find_rates(workspace, plan_runs(LONG, {}), fold=1, seed=0))
    stored = json.loads(found.json.read_text())
    assert stored["suggested"] == found.sweep.suggested
    assert stored["fold"] == 1
    assert len(stored["rates"]) == len(stored["losses"])
    with Image.open(found.picture) as picture:
        assert picture.size == (1200, 750)


def test_train_with_lr_find_trains_all_folds_at_one_found_rate(workspace):
    train(workspace, dataclasses.replace(LONG, lr="find"))
    stored = json.loads((workspace.models / "test_resnet" / "lr-find.json").read_text())
    assert {done["lr"] for done in done_folds(workspace, "test_resnet").values()} == {stored["suggested"]}


def test_a_fold_that_is_not_there_is_refused(workspace):
    with pytest.raises(UserError, match="there is no fold 7: there are 2, 0 to 1"):
        next(find_rates(workspace, plan_runs(LONG, {}), fold=7, seed=0))
