"""Prints how many faults of each kind were tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.whole import TRIED, make_world


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


def pytest_terminal_summary(terminalreporter):
    if TRIED:
        sums = ", ".join(f"{n:,} {what}" for what, n in sorted(TRIED.items()))
        terminalreporter.write_line(f"faults tried: {sums}")
