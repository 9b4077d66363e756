"""Stops and kills commands, by signals, by the clock and by jobs that fail: what is done stays, the way on is said."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from models.jobs.plan import train_runs
from models.runs import plan_runs
from models.settings import PredictSettings
from models.watch.events import FoldDone, FoldFailed
from tests.faults.whole import count, differing, left_over, made_in
from tests.models.small import SETTINGS, prepared

STOPPED = ("pixels-32.u8", "folds.json", "checkpoint.safetensors", "test.npz", "study.log", "blend.csv")
KILLED = (
    *("pixels-32.u8", "manifest.csv", "folds.json", "checkpoint.safetensors"),
    *("oof.npz", "done.json", "study.log", "blend.csv"),
)
GO_ON = "hint: the same command goes on where it was stopped\n"


def before(name, *, nth=1, **more):
    """The moment before a file whose path ends in this name takes it for the n-th time."""
    return {"event": "os.rename", "name": name, "nth": nth, **more}


@pytest.mark.parametrize("stages", [STOPPED[::2], pytest.param(STOPPED, marks=pytest.mark.faults)])
def test_a_signal_at_every_stage_stops_with_its_code_and_changes_no_byte(place, nursery, world, stages):
    for i, name in enumerate(stages):
        number, word = ((signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"))[i % 2]
        out = nursery.run("all data", folder=place, code=128 + number, die=before(name, signal=int(number)))
        assert f"error: stopped by {word}" in out
        assert out.endswith(GO_ON)
        assert "Traceback" not in out
        assert left_over(place / "work") in ([], [place / "work/models/a/fold0/checkpoint.safetensors"])
        count("signals")
    nursery.run("all data", folder=place)
    assert differing(made_in(place / "work"), world.made) == []


def test_a_signal_inside_an_epoch_says_where_the_fold_goes_on(place, nursery):
    for words in ("prepare data", "split"):
        nursery.run(words, folder=place)
    pid = nursery.start(["train", "--epochs", "5000"], folder=place, out=place / "out")
    while not (place / "work/models/a/fold0/checkpoint.safetensors").exists():
        time.sleep(0.05)
    os.kill(pid, signal.SIGTERM)
    assert nursery.wait(pid) == 143
    said = (place / "out").read_text().splitlines()[-2]
    where = r"; a fold 0 goes on after epoch \d+ of 5000; 0:\d\d of work are lost"  # unless a row is just being shown
    assert re.fullmatch(f"error: stopped by SIGTERM({where})?", said)
    count("signals")


@pytest.mark.faults
def test_a_call_that_knows_no_interruption_does_not_delay_the_end_beyond_ten_seconds():
    code = (
        "import hashlib, sys; from folds.base.signals import stoppable\n"
        "with stoppable():\n"
        "    print('begun', flush=True); hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2 * 10**9)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(1)  # it is inside the call by now, on a busy machine too
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (143, f"error: stopped by SIGTERM\n{GO_ON}")
    count("signals")


def test_when_the_time_is_up_the_csv_is_made_of_what_is_done_and_says_so(place, nursery, world):
    for words in ("prepare data", "split", "train --run a --fold 1"):
        nursery.run(words, folder=place)
    out = nursery.run("all data --max-hours 0", folder=place)
    assert "the time is up; a fold 0 goes on after epoch 0 of 2" in out
    assert "partial: made by the networks that are trained so far (1 of a)" in out
    assert out.endswith("next: python run.py all data\n")
    with open(place / "work/submissions/blend.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["005", "004", "003", "002", "001", "000"]
    partial = json.loads((place / "work/submissions/blend.json").read_text())["partial"]
    assert partial == {"folds": [1], "networks": {"a": 1}, "left_out": []}
    nursery.run("all data", folder=place)
    assert differing(made_in(place / "work"), world.made) == []


def test_when_the_time_is_up_before_any_fold_is_done_that_is_said(place, nursery):
    out = nursery.run("all data --max-hours 0", folder=place, code=2)
    assert out.endswith("error: the time was up before any fold was done\nhint: `python run.py all data` goes on\n")


def test_a_run_that_fails_stops_no_other_and_nothing_is_submitted_without_a_word(place, nursery, world):
    with open(place / "kit.toml", "a") as kit:
        kit.write("[run.wild]\nlr = 1.0\nhead_lr_scale = 1e30\nclip_norm = 0\nwarmup_epochs = 0\nepochs = 3\n")
    assert nursery.run("all data", folder=place, code=2).splitlines()[-2:] == [
        "error: wild fold 0, wild fold 1 failed: nothing was blended",
        "hint: `python run.py blend --members a,b` blends the others; `python run.py all data` goes on",
    ]
    assert not (place / "work/submissions").exists()
    for words in ("blend --members a,b", "submit"):
        nursery.run(words, folder=place)
    assert (place / "work/submissions/blend.csv").read_bytes() == world.made["submissions/blend.csv"]


def test_an_exception_that_nobody_expected_costs_one_fold_and_shows_its_traceback(tmp_path, monkeypatch):
    workspace = prepared(tmp_path)
    from models.train.trainer import FoldTrainer

    train_epoch = FoldTrainer._train_epoch

    def fail(self, epoch, track):
        return 1 / 0 if self.job.fold == 0 else train_epoch(self, epoch, track)

    monkeypatch.setattr(FoldTrainer, "_train_epoch", fail)
    events = list(train_runs(workspace, plan_runs(SETTINGS, {}), PredictSettings(), seed=0))
    (failed,) = [one.event for one in events if isinstance(one.event, FoldFailed)]
    assert (failed.name, failed.why) == ("test_resnet fold 0", "ZeroDivisionError: division by zero")
    assert "in _train_epoch" in failed.trace or "in fail" in failed.trace
    assert [one.key.fold for one in events if isinstance(one.event, FoldDone)] == [1]


def test_a_kill_at_every_stage_of_the_way_changes_no_byte(place, nursery, world):
    for name in KILLED:
        nth = 2 if name.startswith("checkpoint") else 1
        nursery.run("all data", folder=place, code=-9, die=before(name, nth=nth))
        count("kills")
    nursery.run("all data", folder=place)
    assert differing(made_in(place / "work"), world.made) == []
    assert left_over(place / "work") == []


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(30))
def test_a_kill_at_any_moment_changes_no_byte(place, nursery, world, seed):
    rng = random.Random(seed)
    die = {"seconds": rng.uniform(0.0, 6.0)} if seed % 3 == 0 else {"nth": rng.randint(1, world.events)}
    code = nursery.wait(nursery.start(["all", "data"], folder=place, out=place / "out", die=die))
    assert code in (-9, 0), (place / "out").read_text()
    count("kills", int(code == -9))
    nursery.run("all data", folder=place)
    assert differing(made_in(place / "work"), world.made) == []
