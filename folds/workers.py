"""This file runs a function over many files in processes that may die: a crash or a hang costs one file only."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

CHUNK = 16  # files that a process is given at a time
SECONDS_PER_FILE = 30.0  # a file that takes longer is given up; 200 megapixels of PNG take about 5
MEMORY_PER_FILE = 1 << 30  # bytes above what the idle process has


@dataclass(frozen=True)
class Casualty:
    """Why there is no answer for an item."""

    why: str


@dataclass
class _Worker:
    """One process, and the items that it has been given and not yet answered."""

    process: Any
    pipe: Connection
    waiting: deque[int] = field(default_factory=deque)
    since: float = 0.0  # when it began with the first of them
    ended: bool = False  # its end of the pipe is closed: it has died


def in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], *, workers: int
) -> Iterator[tuple[int, Any | Casualty]]:
    """Yield (position, function(item)) for every item, in the order in which they are done.

    function  a module-level function; runs in other processes, which import only its module
    Raises RuntimeError, with its traceback as text, for an exception of `function`: a bug, not a matter of the item.
    """
    todo = deque(range(0, len(items), CHUNK))
    retry: deque[int] = deque()
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    crew = [_start(context, function) for _ in range(min(workers, len(todo)))]
    try:
        for worker in crew:
            _give(worker, items, todo=todo, retry=retry)
        while any(worker.waiting for worker in crew):
            for worker in _ready(crew):
                yield from _collect(worker)
                if not worker.waiting:
                    _give(worker, items, todo=todo, retry=retry)
            for at, worker in enumerate(crew):
                why = _fate(worker)
                if why is not None:
                    yield worker.waiting.popleft(), Casualty(why)
                    retry.extend(worker.waiting)
                    _stop(worker)
                    crew[at] = _start(context, function)
                    _give(crew[at], items, todo=todo, retry=retry)
    finally:
        for worker in crew:
            _stop(worker)


def _start(context: Any, function: Callable[[Any], Any]) -> _Worker:
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, function), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _give(worker: _Worker, items: Sequence[Any], *, todo: deque[int], retry: deque[int]) -> None:
    """Hand over the next chunk; items that a dead process left behind go first, one at a time."""
    if retry:
        worker.waiting.append(retry.popleft())
    elif todo:
        start = todo.popleft()
        worker.waiting.extend(range(start, min(start + CHUNK, len(items))))
    else:
        return
    worker.since = time.monotonic()
    try:
        worker.pipe.send([items[at] for at in worker.waiting])
    except OSError:
        worker.ended = True


def _ready(crew: Sequence[_Worker]) -> list[_Worker]:
    """The workers from which an answer can be read, after at most a second."""
    busy = [worker for worker in crew if worker.waiting]
    pipes = wait([worker.pipe for worker in busy], timeout=1.0)
    return [worker for worker in busy if worker.pipe in pipes]


def _collect(worker: _Worker) -> Iterator[tuple[int, Any]]:
    """The answers that have come; the end of the pipe is left to `_fate`."""
    try:
        while worker.waiting and worker.pipe.poll():
            fault, answer = worker.pipe.recv()
            if fault:
                raise RuntimeError(fault)
            worker.since = time.monotonic()
            yield worker.waiting.popleft(), answer
    except (EOFError, OSError):
        worker.ended = True


def _fate(worker: _Worker) -> str | None:
    """Why the item that a worker has before it will not be answered, or None if all is well."""
    if not worker.waiting:
        return None
    if worker.ended:
        return "crashed the decoder"
    if time.monotonic() - worker.since > SECONDS_PER_FILE:
        return f"took the decoder more than {SECONDS_PER_FILE:.0f} s"
    return None


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """The life of a worker process: answer each item of each chunk, quietly and within its memory."""
    import signal
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it kills this process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others print about every odd file
    _limit_memory()
    try:
        while True:
            for item in pipe.recv():
                answer: tuple[str | None, Any]
                try:
                    answer = (None, function(item))
                except Exception:
                    answer = (traceback.format_exc(), None)
                pipe.send(answer)
    except (EOFError, OSError):
        return  # the parent has closed the pipe


def _limit_memory() -> None:
    """Let an allocation fail (a MemoryError, or a crash of one decoder) before the machine runs out. Linux only."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            idle = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (idle + MEMORY_PER_FILE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        return
