"""Locks: one process at a time writes a part of the work folder, and others can see which process that is.

A lock is a filelock.SoftFileLease: a file that its owner touches, so it works on file systems of several machines. It
is free again when its owner has ended: at once on the same machine, after `LEASE_SECONDS` on another one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from filelock import SoftFileLease, Timeout

from folds.base.progress import Track
from folds.base.workspace import Workspace, is_alive, refusing, sweep

LEASE_SECONDS = 90.0  # three touches, for file systems that show changes late
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock: its machine and number, both unknown (None) while its file is being written."""

    machine: str | None
    pid: int | None
    token: str | None = None
    is_this_process: bool = field(default=False, compare=False)

    @property
    def sentence(self) -> str:
        return "an unknown process" if self.pid is None else f"process {self.pid} on {self.machine}"


@contextmanager
def claim(path: Path) -> Iterator[Holder | None]:
    """Hold the lock while inside, and yield None; or yield who holds it, and then nothing is held.

    Raises CannotWriteError where the folder cannot be written.
    """
    lease = _lease(path.absolute())
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_ours = not lease.is_locked and _acquire(lease, path)
    if not is_ours:
        yield _holder(lease)
        return
    try:
        yield None
    finally:
        lease.release()


@contextmanager
def alone(workspace: Workspace, what: str, *, say: Callable[[str], object], is_to_write: bool = True) -> Iterator[None]:
    """Be the only process that writes this part of a work folder; say who writes it now, and wait for it.

    is_to_write  False where there is nothing to work on: the error to come needs no lock, and leaves no folder behind
    """
    said = None
    while True:
        with claim(workspace.lock(what)) if is_to_write else nullcontext() as holder:
            if holder is None:
                sweep(workspace.root / what)
                yield
                return
        if holder != said:
            say(f"{workspace.root} ({what}): held by {holder.sentence}; waiting for it")
            said = holder
        time.sleep(POLL_SECONDS)


def pause(track: Track) -> None:
    """Wait a moment for a lock; the tracker may know that the time is up."""
    for _ in track((1,), what="waiting", total=1, unit="looks"):
        time.sleep(POLL_SECONDS)


def holders(folder: Path) -> Iterator[tuple[str, Holder]]:
    """The locks of a folder that are held, by name, and who holds each."""
    for path in sorted(folder.glob("*.lock")):
        holder = _holder(_lease(path.absolute()))
        is_ended = holder.machine == socket.gethostname() and holder.pid is not None and not is_alive(holder.pid)
        if not is_ended and _untouched_seconds(path) < LEASE_SECONDS:
            yield path.stem, holder


@cache  # one object for each lock: it measures for how long the owner has not touched the file
def _lease(path: Path) -> SoftFileLease:
    return SoftFileLease(path, lease_duration=LEASE_SECONDS, blocking=False, thread_local=False)


def _acquire(lease: SoftFileLease, path: Path) -> bool:
    with suppress(FileNotFoundError):
        if path.stat().st_size == 0 and _untouched_seconds(path) > LEASE_SECONDS:
            path.unlink()  # a power cut may leave an empty file, which filelock believes to be held for good
    for _ in range(5):
        try:
            lease.acquire()
            return True
        except Timeout:
            if lease.owner is not None:
                break
            time.sleep(0.01)  # it has just been taken, or given back
    return False


def _holder(lease: SoftFileLease) -> Holder:
    owner = lease.owner
    if owner is None:
        return Holder(None, None)
    machine = owner.hostname.partition("?")[0]  # filelock adds the number of a container
    return Holder(machine, owner.pid, owner.token, is_this_process=lease.is_lock_held_by_us)


def _untouched_seconds(path: Path) -> float:
    """Infinite for a file that has gone."""
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return float("inf")
