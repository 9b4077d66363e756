"""Starts two processes on one work folder, and lets owners of locks die: each fold is trained once."""

import os
import socket
import subprocess
import sys
import time

from folds.base import locks
from folds.base.locks import Holder, claim
from tests.faults.whole import count, differing, left_over, made_in


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
