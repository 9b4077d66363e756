"""Measures how jobs on Ray scale with its nodes: `python -m tests.benchmarks.ray`.

Twelve small jobs of a core each, by one process without Ray, and on clusters of one node, two nodes and so on, each
with one core of this machine. Seconds of the whole command, and from its first epoch to its last. A machine that is
busy with something else says nothing here, nor one with fewer cores than nodes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from folds.settings import COMMA_LIST
from tests.benchmarks.measure import finish, show
from tests.cluster import JOBS, cluster, make_place, start


def main(
    *,
    nodes: Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="sizes of clusters")] = ("1", "2"),
    epochs: Annotated[int, Parameter(help="of each job")] = 100,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    ways = {"one process": measure(epochs, nodes=0)}
    for n in map(int, nodes):
        ways[f"Ray, {n} node{'s' if n > 1 else ''}"] = measure(epochs, nodes=n)
    rows = [(way, f"{seconds['command']:.1f}", f"{seconds['epochs']:.1f}") for way, seconds in ways.items()]
    show(f"{JOBS} jobs of {epochs} epochs, a core each", ("way", "whole command, s", "first epoch to last, s"), rows)
    finish("ray", {"jobs": JOBS, "epochs": epochs, "seconds": ways}, keep=record)


def measure(epochs: int, *, nodes: int) -> dict[str, float]:
    """Seconds of a `train` with nothing done before. nodes: 0 for no Ray."""
    with tempfile.TemporaryDirectory() as temporary:
        place = make_place(Path(temporary), epochs=epochs, longest=epochs)
        if not nodes:
            return timed(["train"], folder=place)
        with cluster(nodes=nodes) as made:
            return timed(["train", "--address", made.address], folder=place)


def timed(words: list[str], *, folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    with start(words, folder=folder) as process:
        moments = [time.perf_counter() for _ in lines_of_epochs(process)]
    assert process.returncode == 0, f"{' '.join(words)} ended with {process.returncode}"
    return {"command": time.perf_counter() - began, "epochs": moments[-1] - moments[0]}


def lines_of_epochs(process: Any) -> Any:
    """The lines that tell of an epoch or of its job's end, as they come."""
    return (line for line in process.stdout if "  32  " in line or "done in" in line)


if __name__ == "__main__":
    cyclopts.run(main)
