"""Starts two processes on one work folder, and lets owners of locks die: each fold is trained once."""

import json
import os
import subprocess
import sys
import time

import pytest

from folds.base.errors import UserError
from folds.base.locks import STALE_SECONDS, Holder, claim
from folds.base.processes import started, this_host
from tests.faults.tally import count
from tests.faults.whole import again_in, differing, left_over, made_in


def write_lock(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = {"name": "here", "host": this_host(), "pid": os.getpid(), "start": started(os.getpid())}
    path.write_text(json.dumps({**mine, "since": 0.0, "token": "x", **changes}))


def dead_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def is_free(path):
    with claim(path) as holder:
        return holder is None


def test_two_processes_train_each_fold_once_and_end_in_the_same_bytes(tmp_path, nursery, world):
    place = again_in(tmp_path, "two", world)
    outs = [place / "out-1", place / "out-2"]
    pids = [nursery.start(["all", "data"], folder=place, out=out) for out in outs]
    codes = [nursery.wait(pid) for pid in pids]
    said = [out.read_text() for out in outs]
    assert codes == [0, 0], said
    trained = [line for text in said for line in text.splitlines() if "done in" in line]
    assert sorted(line.split(":")[0] for line in trained) == ["a fold 0", "a fold 1", "b fold 0", "b fold 1"]
    assert sum(text.count("was done before") for text in said) == 4
    assert differing(made_in(place / "work"), world[1]) == []
    assert left_over(place / "work") == []
    count("pairs of processes")


def test_a_lock_says_who_holds_it_and_is_free_afterwards(tmp_path):
    path = tmp_path / "locks" / "a.json"
    with claim(path) as mine:
        assert mine is None
        with claim(path) as holder:
            assert isinstance(holder, Holder)
            assert (holder.pid, holder.host) == (os.getpid(), this_host())
            assert holder.sentence.startswith(f"process {os.getpid()} on ")
    assert list(path.parent.iterdir()) == []
    assert is_free(path)


@pytest.mark.parametrize("how", ["gone", "number used again"])
def test_a_lock_whose_owner_died_on_this_machine_is_free_at_once(tmp_path, how):
    path = tmp_path / "a.json"
    write_lock(path, pid=dead_pid()) if how == "gone" else write_lock(path, start="1")
    assert is_free(path)
    count("dead owners")


def test_a_lock_of_another_machine_is_free_once_it_is_no_longer_touched(tmp_path):
    path = tmp_path / "a.json"
    write_lock(path, host="elsewhere", pid=dead_pid())
    assert not is_free(path)
    os.utime(path, (time.time() - STALE_SECONDS - 1,) * 2)
    assert is_free(path)
    count("dead owners")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_a_lock_that_cannot_be_read_counts_until_it_is_old(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert not is_free(path)
    os.utime(path, (time.time() - STALE_SECONDS - 1,) * 2)
    assert is_free(path)


def test_a_lock_that_was_taken_over_is_not_removed_by_its_first_owner(tmp_path):
    path = tmp_path / "a.json"
    with claim(path):
        write_lock(path, token="another")
    assert json.loads(path.read_text())["token"] == "another"


def test_many_processes_at_one_lock_never_hold_it_together(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from folds.base.locks import claim\n"
        "lock, inside, n = Path(sys.argv[1]), Path(sys.argv[2]), 0\n"
        "while n < 20:\n"
        "    with claim(lock) as holder:\n"
        "        if holder is None:\n"
        "            os.close(os.open(inside, os.O_CREAT | os.O_EXCL)); time.sleep(0.001); os.unlink(inside); n += 1\n"
    )
    words = [sys.executable, "-c", code, tmp_path / "a.json", tmp_path / "inside"]
    crew = [subprocess.Popen(words) for _ in range(3)]
    assert [process.wait(timeout=60) for process in crew] == [0, 0, 0]


def test_status_says_who_is_at_work_on_what(tmp_path, nursery, world):
    place = again_in(tmp_path, "status", world)
    write_lock(place / "work/locks/a.fold1.json")
    write_lock(place / "work/locks/a.fold0.json", pid=dead_pid())
    code, out = nursery.run(["status"], folder=place)
    assert code == 0, out
    assert [line.split(" on ")[0] for line in out.splitlines() if "held by" in line] == [
        f"a.fold1: held by process {os.getpid()}"
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "locks").write_text("a file in place of the folder")
    with pytest.raises(UserError, match=r"^cannot write .*a\.json: "), claim(tmp_path / "locks" / "a.json"):
        pass
