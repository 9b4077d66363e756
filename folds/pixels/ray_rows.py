"""Has files decoded by all machines of a Ray cluster; their rows come here, where one process writes them.

Nobody else writes to the store: what several machines write to one file of a network file system may get lost.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from folds.base.errors import UserError
from folds.engine import EngineSettings
from folds.pixels.pool import Casualty, in_processes
from folds.pixels.worker import Row, RowTask, slot_room, write_all, write_row
from models.jobs.ray_cluster import on_ray

TASK_BYTES = 1 << 25  # of rows that come back at a time
AHEAD = 2  # tasks for each core: one is at work, one waits


def rows_on_ray(tasks: Sequence[RowTask], *, engine: EngineSettings) -> Iterator[tuple[int, Row | Casualty]]:
    """Yield (position, what became of the file) for every task, in the order in which they are done.

    A machine that goes costs time only: Ray sends its files to another. Raises UserError for one that lacks the files.
    """
    if not tasks:
        return
    with on_ray(engine) as ray, open(tasks[0].store, "r+b", buffering=0) as store:
        for position, row, data in _decoded(ray, tasks):
            if data:
                write_all(store, memoryview(data), at=tasks[position].slot * slot_room(tasks[position]))
            yield position, row


def _decoded(ray: Any, tasks: Sequence[RowTask]) -> Iterator[tuple[int, Row | Casualty, bytes]]:
    decode = ray.remote(_decode_there).options(num_cpus=1, scheduling_strategy="SPREAD")
    size = max(1, TASK_BYTES // slot_room(tasks[0]))
    todo = deque(range(at, min(at + size, len(tasks))) for at in range(0, len(tasks), size))
    running: dict[Any, range] = {}
    while todo or running:
        while todo and len(running) < AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))):
            part = todo.popleft()
            running[decode.remote([_anywhere(tasks[position]) for position in part])] = part
        ready, _ = ray.wait(list(running), timeout=1.0)
        for answer in ready:
            for position, (row, data) in zip(running.pop(answer), _got(ray, answer), strict=True):
                yield position, row, data


def _anywhere(task: RowTask) -> RowTask:
    return replace(task, source=os.path.abspath(task.source))


def _got(ray: Any, answer: Any) -> list[tuple[Row | Casualty, bytes]]:
    try:
        return list(ray.get(answer))
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, UserError):
            raise err.cause from None
        raise


def _decode_there(tasks: Sequence[RowTask]) -> list[tuple[Row | Casualty, bytes]]:
    """Decode files in a process beside this one, into a file of its own, and read its rows. Runs on Ray."""
    if not any(os.path.lexists(task.source) for task in tasks):
        raise UserError(
            f"{socket.gethostname()} does not see {tasks[0].source}", hint="put DATA on storage that all machines see"
        )
    vars(sys.modules["__main__"]).pop("__file__", None)  # each decoding process would import Ray's, half a second each
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        path.touch()
        here = [replace(task, store=str(path), slot=slot) for slot, task in enumerate(tasks)]
        rows = dict(in_processes(write_row, here, workers=1))
        with open(path, "rb") as file:
            return [(rows[slot], _read(file, task, rows[slot])) for slot, task in enumerate(here)]


def _read(file: Any, task: RowTask, row: Row | Casualty) -> bytes:
    if isinstance(row, Casualty):
        return b""
    file.seek(task.slot * slot_room(task))
    return bytes(file.read(row.n_bytes))
