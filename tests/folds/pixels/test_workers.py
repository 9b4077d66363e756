import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from folds.find.reasons import Reason
from folds.pixels import pool
from folds.pixels.pool import in_processes

ROOT = Path(__file__).parents[3]


def act(item):
    """What a decoder may do to its process: item is what to do."""
    if item == "crash":
        os.abort()
    if item == "hang":
        time.sleep(60)
    if item == "bug":
        raise ZeroDivisionError("on purpose")
    if item == "memory":
        try:
            return len(bytearray(2 << 30))
        except MemoryError:
            return "no memory"
    return item * 2


CRASHED = Reason("decoder crashed")


@pytest.mark.parametrize(
    ("items", "workers", "answers"),
    [
        (list(range(50)), 2, list(range(0, 100, 2))),
        ([], 2, []),
        ([1, 2, "crash", 3, 4, "crash", 5, 6], 1, [2, 4, CRASHED, 6, 8, CRASHED, 10, 12]),
        (["memory", 1], 1, ["no memory", 2]),
    ],
    ids=["many", "none", "crash", "memory is bounded for each process"],
)
def test_every_item_is_answered_at_its_position_and_a_crash_costs_one_item_only(items, workers, answers):
    assert dict(in_processes(act, items, workers=workers)) == dict(enumerate(answers))


def test_a_hang_costs_one_item_only(monkeypatch):
    monkeypatch.setattr(pool, "SECONDS", 0.5)
    answers = dict(in_processes(act, [1, "hang", 2], workers=1))
    assert answers == {0: 2, 1: Reason("cannot be read", "not within 0 s"), 2: 4}


def spin(seconds):
    """What a decoder may do that is busy and never done."""
    pool.CPU_SECONDS = 0.3  # in this process, for the items to come
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="processor time is limited on POSIX only")
def test_an_item_that_spins_is_ended_by_its_processor_time():
    answers = dict(in_processes(spin, [0, 0.01, 20, 0.02], workers=1))
    assert answers == {0: 0, 1: 0.01, 2: Reason("decoder took too long", "more than 10 s"), 3: 0.02}


def has_main_script(item):
    return hasattr(sys.modules["__main__"], "__file__")


def test_a_process_does_not_import_the_main_script():
    main = sys.modules["__main__"]
    assert dict(in_processes(has_main_script, [0], workers=1)) == {0: False}
    assert sys.modules["__main__"] is main


def test_a_bug_shows_its_traceback():
    with pytest.raises(RuntimeError, match="on purpose"):
        list(in_processes(act, [1, "bug"], workers=1))


IN_PROCESSES = """
import sys
sys.path.insert(0, sys.argv[1])  # the current folder comes second
from folds.find.reasons import from_cell
from folds.pixels.pool import in_processes
print(list(in_processes(from_cell, ["truncated"], workers=1)))
"""


def test_in_a_work_folder_the_processes_took_its_folders_for_modules(tmp_path):
    for room in ("folds", "models"):
        (tmp_path / room).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESSES, str(ROOT)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[(0, (Reason(code='truncated', detail=''),))]\n")
