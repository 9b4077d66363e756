"""Sets up the processes of all tests: how many, their threads, and where they write."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")  # every file that the kit writes is synced: 12 ms on a disk, 0.04 ms there
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
# Before torch is imported, and inherited by every command that a test starts. Small nets gain nothing from a second
# thread, and threads that wait for one another beside other processes take the suite several times as long.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="foldblend-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

LONGEST = "test_readme.py"  # the demo, begun first
SHARED = ("nursery", "finished", "whole", "blended")  # fixtures of a session that take seconds, and so one process


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite takes two processes, if pytest-xdist is there; what is asked for by path or mark takes one."""
    is_whole = config.args_source is config.ArgsSource.TESTPATHS and config.option.markexpr.startswith("not ")
    is_free = getattr(config.option, "numprocesses", 0) is None and not hasattr(config, "workerinput")
    if is_whole and is_free and not config.option.usepdb:
        config.option.numprocesses, config.option.dist, config.option.loadscopereorder = 2, "loadgroup", False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """The tests of a file, and those that share a fixture, stay in one process."""
    items.sort(key=lambda item: item.path.name != LONGEST)
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            shared = [name for name in SHARED if name in item.fixturenames]
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}-{(shared or [item.path.stem])[0]}"))
