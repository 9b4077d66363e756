"""Stops and kills commands, and starts two at once: what is done stays, is done once, and the way on is said."""

import csv
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from folds.base import locks
from folds.base.locks import Holder, claim
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


def write_lock(path, *, pid=None, host=None):
    """A lock as filelock writes it, of this process and machine unless said otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with claim(path):
        text = path.read_text().replace(f"pid={os.getpid()}\n", f"pid={pid or os.getpid()}\n")
    path.write_text(text.replace(f"host={socket.gethostname()}", f"host={host or socket.gethostname()}"))


def dead_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def is_free(path):
    with claim(path) as holder:
        return holder is None


def test_two_processes_train_each_fold_once_and_end_in_the_same_bytes(place, nursery, world):
    outs = [place / "out-1", place / "out-2"]
    pids = [nursery.start(["all", "data"], folder=place, out=out) for out in outs]
    codes, said = [nursery.wait(pid) for pid in pids], [out.read_text() for out in outs]
    assert codes == [0, 0], said
    trained = [line for text in said for line in text.splitlines() if "done in" in line]
    assert sorted(line.split(":")[0] for line in trained) == ["a fold 0", "a fold 1", "b fold 0", "b fold 1"]
    assert sum(text.count("was done before") for text in said) == 4
    assert differing(made_in(place / "work"), world.made) == []
    assert left_over(place / "work") == []
    count("pairs of processes")


def test_a_lock_says_who_holds_it_and_is_free_afterwards(tmp_path):
    path = tmp_path / "locks" / "a.lock"
    with claim(path) as mine:
        assert mine is None
        with claim(path) as holder:
            assert isinstance(holder, Holder)
            assert (holder.pid, holder.machine, holder.is_this_process) == (os.getpid(), socket.gethostname(), True)
            assert holder.sentence == f"process {os.getpid()} on {socket.gethostname()}"
    assert list(path.parent.iterdir()) == []
    assert is_free(path)


def test_a_lock_whose_owner_was_killed_on_this_machine_is_free_at_once(tmp_path):
    path = tmp_path / "a.lock"
    code = "import os, sys; from pathlib import Path; from folds.base.locks import claim\n"
    code += "with claim(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.exists()
    assert is_free(path)
    count("dead owners")


def test_a_lock_of_another_machine_is_free_once_it_is_no_longer_touched(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.3)
    write_lock(path, host="elsewhere", pid=dead_pid())
    for _ in range(3):
        assert not is_free(path)
        time.sleep(0.2)
        os.utime(path)
    time.sleep(0.4)
    assert not is_free(path)  # the last touch is seen now
    time.sleep(0.4)
    assert is_free(path)
    count("dead owners")


def test_an_empty_lock_counts_until_it_is_old(tmp_path):
    path = tmp_path / "a.lock"
    path.touch()
    assert not is_free(path)
    os.utime(path, (time.time() - locks.LEASE_SECONDS - 1,) * 2)
    assert is_free(path)


def test_a_lock_that_was_taken_over_is_not_removed_by_its_first_owner(tmp_path):
    path = tmp_path / "a.lock"
    with claim(path):
        path.unlink()
        path.write_text("another")
    assert path.read_text() == "another"


def test_many_processes_at_one_lock_never_hold_it_together(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from folds.base.locks import claim\n"
        "lock, inside, n = Path(sys.argv[1]), Path(sys.argv[2]), 0\n"
        "while n < 20:\n"
        "    with claim(lock) as holder:\n"
        "        if holder is None:\n"
        "            os.close(os.open(inside, os.O_CREAT | os.O_EXCL)); time.sleep(0.001); os.unlink(inside); n += 1\n"
    )
    words = [sys.executable, "-c", code, tmp_path / "a.lock", tmp_path / "inside"]
    crew = [subprocess.Popen(words) for _ in range(3)]
    assert [process.wait(timeout=60) for process in crew] == [0, 0, 0]


def test_status_says_who_is_at_work_on_what(place, nursery):
    write_lock(place / "work/locks/a.fold1.lock")
    write_lock(place / "work/locks/a.fold0.lock", pid=dead_pid())
    held = [line for line in nursery.run("status", folder=place).splitlines() if "held by" in line]
    assert [line.split(" on ")[0] for line in held] == [f"a.fold1: held by process {os.getpid()}"]
