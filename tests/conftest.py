"""Sets up the processes of all tests: how many, their threads, and where they write."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

MEMORY = Path("/dev/shm")  # every file that the kit writes is synced: 12 ms on a disk, 0.04 ms there
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
# Before torch is imported, and inherited by every command that a test starts. Small nets gain nothing from a second
# thread, and threads that wait for one another beside other processes take the suite several times as long.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="foldblend-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

FIRST = ("cli/test_readme.py", "faults", "submissions")  # what takes longest is begun first
SHARED = ("faults", "submissions")  # folders whose tests share fixtures of a session that take seconds
FORKING = "cli/test_screen.py"  # shares a fixture with faults


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite takes two processes, if pytest-xdist is there; what is asked for by path or mark takes one."""
    is_whole = config.args_source is config.ArgsSource.TESTPATHS and config.option.markexpr.startswith("not ")
    is_free = getattr(config.option, "numprocesses", 0) is None and not hasattr(config, "workerinput")
    if is_whole and is_free and not config.option.usepdb:
        config.option.numprocesses, config.option.dist, config.option.loadscopereorder = 2, "loadfile", False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file stay in one process, and those of a folder that share a fixture."""
    from xdist.scheduler import LoadFileScheduling

    class ByFixtures(LoadFileScheduling):
        def _split_scope(self, nodeid):
            folder = "faults" if FORKING in nodeid else nodeid.split("/")[1]
            return folder if folder in SHARED else super()._split_scope(nodeid)

    return ByFixtures(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    items.sort(key=lambda item: not item.path.relative_to(here).as_posix().startswith(FIRST))


@pytest.fixture(scope="session")
def nursery():
    """A process that has the imports behind it, and forks one for every command."""
    from tests.faults.nursery import Nursery

    made = Nursery()
    yield made
    made.close()


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def typed(capsys):
    """Type a command that must end in this exit code, or in any if it is None; returns what it said."""
    import run

    def type_(*words, code=0):
        said = Said(run.main([str(word) for word in words]), *capsys.readouterr())
        assert code in (said.code, None), said.err
        return said

    return type_
