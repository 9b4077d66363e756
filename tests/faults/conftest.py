"""Prints how many faults of each kind were tried."""

from pathlib import Path

import pytest

from tests.faults.whole import TRIED, begin_again, make_world


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """`-m faults` is everything in this folder, the short form too."""
    if config.option.markexpr == "faults":
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker("faults")


@pytest.fixture(scope="session")
def world(tmp_path_factory, nursery):
    return make_world(tmp_path_factory.mktemp("world"), nursery)


@pytest.fixture
def place(tmp_path, world):
    """Another folder with the data and the settings of the undisturbed one."""
    return begin_again(tmp_path, world)


def pytest_terminal_summary(terminalreporter):
    if TRIED:
        sums = ", ".join(f"{n:,} {what}" for what, n in sorted(TRIED.items()))
        terminalreporter.write_line(f"faults tried: {sums}")
