"""Checks how a process is set up for its device: on a CPU, malloc keeps what it was given."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = """
import resource, sys, torch
from models.device import choose_device
if sys.argv[1] == "kept":
    choose_device("cpu")
def work():
    for _ in range(3):
        torch.ones(1 << 24)  # 64 MB: glibc maps a block of more than 32 MB on its own, whatever came before
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc on Linux")
def test_large_blocks_are_not_handed_back_and_zeroed_again():
    def faults(how):
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    kept, left = faults("kept"), faults("left")
    assert 10 * kept < left, (kept, left)


def test_a_system_without_glibc_is_left_as_it_is(monkeypatch):
    from models.device import keep_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory.__wrapped__() is False
