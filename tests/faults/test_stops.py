"""Stops and kills commands, by signals, by the clock and by jobs that fail: what is done stays, the way on is said."""

from __future__ import annotations

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
from tests.faults.whole import again_in, count, differing, left_over, made_in
from tests.models.small import SETTINGS, prepared

STAGES = (  # (before which event, how often, the last part of the file's name)
    ("os.rename", 1, "pixels-32.u8"),
    ("os.rename", 1, "folds.json"),
    ("os.rename", 1, "checkpoint.safetensors"),
    ("os.rename", 1, "test.npz"),
    ("os.rename", 1, "study.log"),
    ("os.rename", 1, "blend.csv"),
)
GO_ON = "hint: the same command goes on where it was stopped\n"


@pytest.mark.parametrize("stages", [STAGES[::2], pytest.param(STAGES, marks=pytest.mark.faults)])
def test_a_signal_at_every_stage_stops_with_its_code_and_changes_no_byte(tmp_path, nursery, world, stages):
    place = again_in(tmp_path, "signals", world)
    for i, (event, nth, name) in enumerate(stages):
        number = (signal.SIGINT, signal.SIGTERM)[i % 2]
        die = {"event": event, "nth": nth, "name": name, "signal": int(number)}
        code, out = nursery.run(["all", "data"], folder=place, die=die)
        assert code == 128 + number, f"{name}: {out}"
        assert f"error: stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}" in out
        assert out.endswith(GO_ON)
        assert "Traceback" not in out
        assert left_over(place / "work") in ([], [place / "work/models/a/fold0/checkpoint.safetensors"])
        count("signals")
    code, out = nursery.run(["all", "data"], folder=place)
    assert code == 0, out
    assert differing(made_in(place / "work"), world.made) == []


def test_a_signal_inside_an_epoch_says_where_the_fold_goes_on(tmp_path, nursery, world):
    place = again_in(tmp_path, "epoch", world)
    assert nursery.run(["prepare", "data"], folder=place)[0] == nursery.run(["split"], folder=place)[0] == 0
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
def test_a_call_that_knows_no_interruption_does_not_delay_the_end_beyond_ten_seconds(tmp_path):
    code = (
        "import hashlib, sys; from folds.base.signals import stoppable\n"
        "with stoppable():\n"
        "    print('begun', flush=True); hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2 * 10**9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(1)  # it is inside the call by now, on a busy machine too
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (
        143,
        "error: stopped by SIGTERM\nhint: the same command goes on where it was stopped\n",
    )
    count("signals")


def test_when_the_time_is_up_the_csv_is_made_of_what_is_done_and_says_so(tmp_path, nursery, world):
    place = again_in(tmp_path, "hours", world)
    for words in (["prepare", "data"], ["split"], ["train", "--run", "a", "--fold", "1"]):
        assert nursery.run(words, folder=place)[0] == 0
    code, out = nursery.run(["all", "data", "--max-hours", "0"], folder=place)
    assert code == 0, out
    assert "the time is up; a fold 0 goes on after epoch 0 of 2" in out
    assert "partial: made by the networks that are trained so far (1 of a)" in out
    assert out.endswith("next: python run.py all data\n")
    with open(place / "work/submissions/blend.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["005", "004", "003", "002", "001", "000"]
    partial = json.loads((place / "work/submissions/blend.json").read_text())["partial"]
    assert partial == {"folds": [1], "networks": {"a": 1}, "left_out": []}
    assert nursery.run(["all", "data"], folder=place)[0] == 0
    assert differing(made_in(place / "work"), world.made) == []


def test_when_the_time_is_up_before_any_fold_is_done_that_is_said(tmp_path, nursery, world):
    place = again_in(tmp_path, "none", world)
    code, out = nursery.run(["all", "data", "--max-hours", "0"], folder=place)
    assert code == 2
    assert out.endswith("error: the time was up before any fold was done\nhint: `python run.py all data` goes on\n")


def test_a_run_that_fails_stops_no_other_and_nothing_is_submitted_without_a_word(tmp_path, nursery, world):
    place = again_in(tmp_path, "fails", world)
    with open(place / "kit.toml", "a") as kit:
        kit.write("[run.wild]\nlr = 1.0\nhead_lr_scale = 1e30\nclip_norm = 0\nwarmup_epochs = 0\nepochs = 3\n")
    code, out = nursery.run(["all", "data"], folder=place)
    assert code == 2
    error, hint = out.splitlines()[-2:]
    assert error == "error: wild fold 0, wild fold 1 failed: nothing was blended"
    assert hint == ("hint: `python run.py blend --members a,b` blends the others; `python run.py all data` goes on")
    assert not (place / "work/submissions").exists()
    for words in (["blend", "--members", "a,b"], ["submit"]):
        assert nursery.run(words, folder=place)[0] == 0
    assert (place / "work/submissions/blend.csv").read_bytes() == world.made["submissions/blend.csv"]


def test_an_exception_that_nobody_expected_costs_one_fold_and_shows_its_traceback(tmp_path, monkeypatch):
    workspace = prepared(tmp_path)
    from models.train.trainer import FoldTrainer

    train_epoch = FoldTrainer._train_epoch

    def fail(self, epoch, track):
        return 1 / 0 if self.fold == 0 else train_epoch(self, epoch, track)

    monkeypatch.setattr(FoldTrainer, "_train_epoch", fail)
    events = list(train_runs(workspace, plan_runs(SETTINGS, {}), PredictSettings(), seed=0))
    (failed,) = [one.event for one in events if isinstance(one.event, FoldFailed)]
    assert (failed.name, failed.why) == ("test_resnet fold 0", "ZeroDivisionError: division by zero")
    assert "in _train_epoch" in failed.trace or "in fail" in failed.trace
    assert [one.key.fold for one in events if isinstance(one.event, FoldDone)] == [1]


KILLED = (  # (before which event, how often it happened before, the last part of the file's name)
    ("os.rename", 1, "pixels-32.u8"),
    ("os.rename", 1, "manifest.csv"),
    ("os.rename", 1, "folds.json"),
    ("os.rename", 2, "checkpoint.safetensors"),
    ("os.rename", 1, "oof.npz"),
    ("os.rename", 1, "done.json"),
    ("os.rename", 1, "study.log"),
    ("os.rename", 1, "blend.csv"),
)


def test_a_kill_at_every_stage_of_the_way_changes_no_byte(tmp_path, nursery, world):
    place = again_in(tmp_path, "stages", world)
    for event, nth, name in KILLED:
        code, out = nursery.run(["all", "data"], folder=place, die={"event": event, "nth": nth, "name": name})
        assert code == -9, f"{name}: {out}"
        count("kills")
    code, out = nursery.run(["all", "data"], folder=place)
    assert code == 0, out
    assert differing(made_in(place / "work"), world[1]) == []
    assert left_over(place / "work") == []


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(30))
def test_a_kill_at_any_moment_changes_no_byte(tmp_path, nursery, world, seed):
    rng = random.Random(seed)
    place = again_in(tmp_path, "any", world)
    die = {"seconds": rng.uniform(0.0, 6.0)} if seed % 3 == 0 else {"nth": rng.randint(1, world[2])}
    code, out = nursery.run(["all", "data"], folder=place, die=die)
    assert code in (-9, 0), out
    count("kills", int(code == -9))
    code, out = nursery.run(["all", "data"], folder=place)
    assert code == 0, out
    assert differing(made_in(place / "work"), world[1]) == []
