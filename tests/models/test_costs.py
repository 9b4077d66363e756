"""Estimates how long jobs take: by the epochs that were seen, else by what their networks cost."""

import dataclasses

from folds.split.assign import load_folds
from models.jobs.costs import Costs
from models.jobs.plan import plan_run
from models.runs import RunPlan, log_line
from models.watch.events import EpochRow
from tests.models.test_trainer import SETTINGS, prepared


def row(epoch, seconds):
    return EpochRow(epoch, 1e-3, 32, 1.0, 1.0, 0.5, 0.5, 100.0, seconds)


def planned(workspace, **runs):
    folds = load_folds(workspace)
    plans = [RunPlan(name, "test_resnet", None, dataclasses.replace(SETTINGS, **more)) for name, more in runs.items()]
    jobs = [plan_run(workspace, plan, folds, [0, 1], seed=0).folds for plan in plans]
    return Costs({(job.plan.name, job.fold): job for some in jobs for job in some})


def test_without_any_epoch_seen_more_epochs_and_larger_images_cost_more(tmp_path):
    costs = planned(prepared(tmp_path), short={"epochs": 2}, long={"epochs": 4}, large={"epochs": 2, "image_size": 64})
    short, long, large = (costs.left(run, 0) for run in ("short", "long", "large"))
    assert long == 2 * short
    assert large == 4 * short


def test_epochs_that_were_seen_decide_and_lend_their_speed_to_other_runs(tmp_path):
    workspace = prepared(tmp_path)
    workspace.fold("short", 0).mkdir(parents=True)
    (workspace.fold("short", 0) / "log.jsonl").write_text(log_line(row(1, 10.0)))
    costs = planned(workspace, short={"epochs": 5}, large={"epochs": 2, "image_size": 64})
    costs.read_logs(workspace)
    assert costs.left("short", 0) == 40.0
    assert costs.left("short", 1) == 50.0
    assert costs.left("large", 0) == 80.0
    costs.saw("short", 0, row(2, 10.0))
    assert costs.left("short", 0) == 30.0
