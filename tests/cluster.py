"""Starts Ray clusters of several nodes on this machine, and drivers that send jobs to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from folds.base.locks import holders
from tests.competition import make_competition
from tests.faults.whole import KIT

ROOT = Path(__file__).parents[1]
STORE_BYTES = 100 * 2**20
JOBS = 12


def make_place(folder: Path, *, epochs: int, longest: int) -> Path:
    """A competition of 12 small jobs, prepared and split: those of run c take the longest."""
    make_competition(folder / "data")
    longer = f"[run.c]\nlr = 0.001\nepochs = {longest}"
    (folder / "kit.toml").write_text(KIT.format(epochs=epochs, n_folds=4, more=longer))
    for words in (["prepare", "data"], ["split"]):
        run(words, folder=folder)
    return folder


def run(words: list[str], *, folder: Path) -> str:
    """What a command that ends well prints."""
    with start(words, folder=folder) as process:
        out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return out


def start(words: list[str], *, folder: Path) -> subprocess.Popen[str]:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as of a shell of its own: no signal of the tests' terminal comes here
    )


@contextmanager
def cluster(*, nodes: int) -> Iterator[Any]:
    """A Ray cluster of so many nodes with a core each; `address` is for `--address`."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node, shutdown_at_exit=True)
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def wait_for(what: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    """What the function says, once that is true."""
    until = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.05)
    return answer


def workers(folder: Path) -> dict[str, int]:
    """The live processes that are at work on folds, by the lock's name."""
    return {name: holder.pid for name, holder in holders(folder / "work/locks") if ".fold" in name and holder.pid}
