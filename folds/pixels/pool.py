"""Runs a function over many files in processes that may die: a crash or a hang costs one file only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

CHUNK = 16  # most files that a process is given at a time
CPU_SECONDS = 10.0  # of processor time for a file, whoever else is busy; 200 megapixels of PNG take about 5
SECONDS = 30.0  # by the clock, for a chunk, and then for each of its files alone
MEMORY_PER_FILE = 1 << 30  # bytes above what the idle process has in memory, whatever it keeps from earlier files
LATE_PAGES = 1 << 26  # bytes of its libraries, at most, that an idle process has mapped but not yet in memory
KEPT_MEMORY = 1 << 26  # bytes, at most, that a process keeps from one file for the next
MOST_MMAP_THRESHOLD = 1 << 25  # bytes; glibc takes no more
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@dataclass(frozen=True)
class Casualty:
    """Why there is no answer for an item."""

    why: str


@dataclass
class _Worker:
    """One process, the positions of the items that it has before it, and since when (seconds)."""

    process: Any
    pipe: Connection
    chunk: Sequence[int] = ()
    since: float = 0.0
    ended: bool = False  # its end of the pipe is closed: it has died


def in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], *, workers: int
) -> Iterator[tuple[int, Any | Casualty]]:
    """Yield (position, function(item)) for every item, in the order in which they are done.

    function  a module-level function of a module that imports little: every process imports it
    Raises RuntimeError, with its traceback as text, for an exception of `function`: a bug, not a matter of the item.
    """
    todo = _chunks(len(items), workers=workers)
    context = _context(function)
    crew = [_start(context, function) for _ in range(min(workers, len(todo)))]
    try:
        for worker in crew:
            _greet(worker)
        while todo or any(worker.chunk for worker in crew):
            for at, worker in enumerate(crew):
                if _is_lost(worker):
                    if len(worker.chunk) == 1:
                        yield worker.chunk[0], Casualty(_fate(worker))
                    else:  # one of them is to blame: each gets a chunk of its own
                        todo.extendleft([position] for position in worker.chunk)
                    _stop(worker)
                    crew[at] = _start(context, function)
                    _greet(crew[at])
                if todo and not crew[at].chunk:
                    _give(crew[at], todo.popleft(), items)
            for worker in _ready(crew):
                yield from _collect(worker)
    finally:
        for worker in crew:
            _stop(worker)


def start_early(function: Callable[[Any], Any]) -> None:
    """Begin what `in_processes` begins with: the imports of its processes, while the caller does something else."""
    if os.name == "posix":
        _context(function)
        forkserver.ensure_running()


def _chunks(n: int, *, workers: int) -> deque[Sequence[int]]:
    """The positions 0 to n - 1 in chunks: small enough that the last ones keep every process busy."""
    size = min(max(n // (4 * workers), 1), CHUNK)
    return deque(range(at, min(at + size, n)) for at in range(0, n, size))


def _context(function: Callable[[Any], Any]) -> Any:
    """How processes start: forked from a server that has no threads and no torch, or anew where there is no fork."""
    if os.name != "posix":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])  # imported once, before the processes are forked off
    return context


def _is_lost(worker: _Worker) -> bool:
    return worker.ended or (len(worker.chunk) > 0 and time.monotonic() - worker.since > SECONDS)


def _fate(worker: _Worker) -> str:
    if not worker.ended:
        return f"took the decoder more than {SECONDS:.0f} s"
    worker.process.join(1)  # its pipe is closed: it ends now
    is_spent = worker.process.exitcode == -getattr(signal, "SIGPROF", 0)
    return f"took the decoder more than {CPU_SECONDS:.0f} s" if is_spent else "crashed the decoder"


def _start(context: Any, function: Callable[[Any], Any]) -> _Worker:
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, function), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _greet(worker: _Worker) -> None:
    """Wait until the process has its imports behind it: one that cannot start is no matter of the files."""
    try:
        worker.pipe.recv()
    except (EOFError, OSError) as err:
        raise RuntimeError("a decoding process could not start; does the main script guard `__main__`?") from err


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _give(worker: _Worker, chunk: Sequence[int], items: Sequence[Any]) -> None:
    worker.chunk, worker.since = chunk, time.monotonic()
    try:
        worker.pipe.send([items[position] for position in chunk])
    except OSError:
        worker.ended = True


def _ready(crew: Sequence[_Worker]) -> list[_Worker]:
    """The workers that have something to say, after at most a second."""
    busy = [worker for worker in crew if worker.chunk and not worker.ended]
    pipes = wait([worker.pipe for worker in busy], timeout=1.0) if busy else []
    return [worker for worker in busy if worker.pipe in pipes]


def _collect(worker: _Worker) -> Iterator[tuple[int, Any]]:
    """The answers to a chunk."""
    try:
        fault, answers = worker.pipe.recv()
    except (EOFError, OSError):
        worker.ended = True
        return
    if fault:
        raise RuntimeError(fault)
    chunk, worker.chunk = worker.chunk, ()
    yield from zip(chunk, answers, strict=True)


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """The life of a worker process: answer each item of each chunk, quietly and within its memory."""
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it kills this process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others print about every odd file
    _keep_memory()
    _limit_memory()
    pipe.send("ready")
    try:
        while True:
            chunk = pipe.recv()
            try:
                pipe.send((None, [_answer(function, item) for item in chunk]))
            except Exception:
                pipe.send((traceback.format_exc(), None))
    except (EOFError, OSError):
        return  # the parent has closed the pipe


def _answer(function: Callable[[Any], Any], item: Any) -> Any:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process, wherever a decoder spins
    return function(item)


def _keep_memory() -> None:
    """Let malloc keep what a picture leaves for the next one; glibc only.

    By default it gives every large block back, and the system hands out fresh pages for the next one: 400 page faults a
    picture of 500 x 375, a quarter of the time of decoding and writing it.
    """
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)
    except (ImportError, OSError, AttributeError, TypeError):
        return


def _limit_memory() -> None:
    """Let an allocation fail (a MemoryError, or a crash of one decoder) before the machine runs out. Linux only."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            idle = int(file.read().split()[0]) * resource.getpagesize()
        most = idle + MEMORY_PER_FILE - LATE_PAGES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        return
