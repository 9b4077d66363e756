"""Runs a function over many files in processes that may die: a crash or a hang costs one file only.

Own code instead of pebble's ProcessPool (52 us a file instead of 47): a chunk that is lost is given out again file by
file, and a file has a limit of processor time, which holds on a busy machine too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from folds.base.malloc import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, tune_malloc
from folds.find.reasons import CRASHED, TOO_SLOW, UNREAD, Reason

ROOT = Path(__file__).parents[2]  # what `folds` lies in
CHUNK = 16  # most files that a process is given at a time
CPU_SECONDS = 10.0  # of processor time for a file, whoever else is busy; 200 megapixels of PNG take about 5
SECONDS = 30.0  # by the clock, for a chunk, and then for each of its files alone
MEMORY_PER_FILE = 1 << 30  # bytes above what the idle process has in memory, whatever it keeps from earlier files
LATE_PAGES = 1 << 26  # bytes of its libraries, at most, that an idle process has mapped but not yet in memory
KEPT_MEMORY = 1 << 26  # bytes, at most, that a process keeps from one file for the next
MOST_MMAP_THRESHOLD = 1 << 25  # bytes; glibc takes no more


def usable_cores() -> int:
    """Cores that this process may use: Slurm and taskset give it some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], *, workers: int
) -> Iterator[tuple[int, Any | Reason]]:
    """Yield (position, function(item)) for every item, in the order in which they are done; a `Reason` for a lost one.

    function  a module-level function of a module that imports little: every process imports it
    Raises RuntimeError, with its traceback as text, for an exception of `function`: a bug, not a matter of the item.
    """
    n = len(items)
    size = min(max(n // (4 * workers), 1), CHUNK)  # small enough that the last ones keep every process busy
    todo: deque[Sequence[int]] = deque(range(at, min(at + size, n)) for at in range(0, n, size))
    pool = [_Worker(function) for _ in range(min(workers, len(todo)))]
    try:
        for worker in pool:
            worker.wait_until_ready()
        while todo or any(worker.chunk for worker in pool):
            for at, worker in enumerate(pool):
                if worker.is_lost():
                    if len(worker.chunk) == 1:
                        yield worker.chunk[0], worker.fate()
                    else:  # one of them is to blame: each gets a chunk of its own
                        todo.extendleft([position] for position in worker.chunk)
                    worker.stop()
                    pool[at] = _Worker(function)
                    pool[at].wait_until_ready()
                if todo and not pool[at].chunk:
                    pool[at].give(todo.popleft(), items)
            busy = {worker.pipe: worker for worker in pool if worker.chunk and not worker.has_died}
            for pipe in wait(list(busy), timeout=1.0) if busy else []:
                yield from busy[pipe].collect()
    finally:
        for worker in pool:
            worker.stop()


def start_server(function: Callable[[Any], Any]) -> Any:
    """The context that the processes of `in_processes` start from; called early, it begins their imports meanwhile.

    They are forked from a server that has no threads and no torch, or start anew where there is no fork.
    """
    if os.name != "posix":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])  # imported once, before the processes are forked off
    # The server looks for modules in the current folder first, and a work folder has one that is called `folds`.
    # Each process has a core of its own, which BLAS is not to leave for a product of small matrices.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


class _Worker:
    """One process, and the positions of the items that it has been given."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = start_server(function)
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, function), daemon=True)
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            self.process.start()  # it would import the main script, with a command line, for nothing
        finally:
            sys.modules["__main__"] = main
        there.close()
        self.chunk: Sequence[int] = ()
        self.since = 0.0  # seconds, of the clock
        self.has_died = False  # its end of the pipe is closed

    def wait_until_ready(self) -> None:
        """Wait for the imports of the process: one that cannot start has nothing to do with the files."""
        try:
            self.pipe.recv()
        except (EOFError, OSError) as err:
            raise RuntimeError("a decoding process could not start") from err

    def give(self, chunk: Sequence[int], items: Sequence[Any]) -> None:
        self.chunk, self.since = chunk, time.monotonic()
        try:
            self.pipe.send([items[position] for position in chunk])
        except OSError:
            self.has_died = True

    def collect(self) -> Iterator[tuple[int, Any]]:
        try:
            fault, answers = self.pipe.recv()
        except (EOFError, OSError):
            self.has_died = True
            return
        if fault:
            raise RuntimeError(fault)
        chunk, self.chunk = self.chunk, ()
        yield from zip(chunk, answers, strict=True)

    def is_lost(self) -> bool:
        return self.has_died or (len(self.chunk) > 0 and time.monotonic() - self.since > SECONDS)

    def fate(self) -> Reason:
        """Why it has no answer for its only item."""
        if not self.has_died:
            return Reason(UNREAD, f"not within {SECONDS:.0f} s")  # without the processor: a disk, or a busy machine
        self.process.join(1)  # its pipe is closed: it ends now
        is_spent = self.process.exitcode == -getattr(signal, "SIGPROF", 0)
        return Reason(TOO_SLOW, f"more than {CPU_SECONDS:.0f} s") if is_spent else Reason(CRASHED)

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Answer each item of each chunk, quietly and within its memory; runs in a process of its own."""
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it kills this process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others print about every odd file
    # Fresh pages for each picture would be 400 page faults for one of 500 x 375, a quarter of the time of decoding it.
    tune_malloc({M_MMAP_THRESHOLD: MOST_MMAP_THRESHOLD, M_TRIM_THRESHOLD: KEPT_MEMORY})
    _limit_memory()
    pipe.send("ready")
    try:
        while True:
            chunk = pipe.recv()
            try:
                answers = []
                for item in chunk:
                    if hasattr(signal, "setitimer"):
                        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends it, wherever a decoder spins
                    answers.append(function(item))
                pipe.send((None, answers))
            except Exception:
                pipe.send((traceback.format_exc(), None))
    except (EOFError, OSError):
        return  # the parent has closed the pipe


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
