"""Lets processes share a work folder: a lock says who is at work on what, and a dead owner's lock is free.

A lock is a file that appears whole, by a hard link, which also shared file systems do for one process only. Its owner
touches it every few seconds. It is free again when its owner is gone: on this machine when no process has its number
and start time, on another when it was not touched for `STALE_SECONDS` by the clock of the file system.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from folds.base.errors import CannotWriteError
from folds.base.processes import is_alive, started, this_host
from folds.base.progress import Track
from folds.base.workspace import sweep

BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0  # nine beats, for file systems that show changes late
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: machine, number and start of the process, when it took it (seconds since 1970), and a token."""

    name: str
    host: str
    pid: int
    start: str | None
    since: float
    token: str

    @property
    def sentence(self) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.name}, since {moment}"


UNKNOWN = Holder("an unknown machine", "", 0, None, 0.0, "")  # of a lock that cannot be read: its age alone counts


@contextmanager
def claim(path: Path) -> Iterator[Holder | None]:
    """Hold the lock while inside, and yield None; or yield who holds it, and then nothing is held.

    Raises CannotWriteError where the folder cannot be written.
    """
    try:
        mine, holder = _take(path)
    except OSError as err:
        hint = "free some room or choose another folder with `--work DIR`"
        raise CannotWriteError(f"cannot write {path}: {err.strerror or err}", hint=hint) from err
    if mine is None:
        yield holder
        return
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, mine, ended), name=f"lock {path.name}", daemon=True).start()
    try:
        yield None
    finally:
        ended.set()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def pause(track: Track) -> None:
    """Wait a moment for a lock; the tracker may know that the time is up."""
    for _ in track((1,), what="waiting", total=1, unit="looks"):
        time.sleep(POLL_SECONDS)


def holders(folder: Path) -> Iterator[tuple[str, Holder]]:
    """What somebody is at work on, and who, by name."""
    for path in sorted(folder.glob("*.json")):
        holder = _read(path)
        if holder is not None and not _is_dead(holder, path, now=time.time()):
            yield path.stem, holder


def _take(path: Path) -> tuple[Holder | None, Holder | None]:
    """(mine, None), or (None, who holds it)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    mine = Holder(
        socket.gethostname(), this_host(), os.getpid(), started(os.getpid()), time.time(), secrets.token_hex(8)
    )
    offer = path.with_name(f".{path.name}.{mine.token}.{mine.host}.{mine.pid}.tmp")
    try:
        offer.write_text(json.dumps(asdict(mine)), encoding="utf-8")
        while True:
            if _link(offer, path):
                return mine, None
            holder = _read(path)
            if holder is not None and not _is_dead(holder, path, now=offer.stat().st_mtime):
                return None, holder
            if holder is not None:
                _remove(path, holder)
            os.utime(offer)
    finally:
        offer.unlink(missing_ok=True)


def _link(offer: Path, path: Path) -> bool:
    """Give the offer the lock's name, if nothing has it. A file system without hard links creates it instead."""
    try:
        os.link(offer, path)
        return True
    except FileExistsError:
        return False
    except OSError:
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(offer.read_text(encoding="utf-8"))
            return True
        except FileExistsError:
            return False


def _read(path: Path) -> Holder | None:
    """Who holds the lock; None where there is none."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return UNKNOWN


def _is_dead(holder: Holder, path: Path, *, now: float) -> bool:
    """Whether its owner is gone. now: the clock of the file system, since those of two machines may differ."""
    if holder.host == this_host():
        start = started(holder.pid)
        return not is_alive(holder.pid) or (None not in (start, holder.start) and start != holder.start)
    try:
        return now - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False  # it has just gone


def _remove(path: Path, dead: Holder) -> None:
    """Remove a dead owner's lock, and nobody else's: of two that saw it die, one moves it aside and looks again."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.{this_host()}.{os.getpid()}.tmp")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _read(aside) != dead:  # somebody has taken it meanwhile: it is theirs
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _beat(path: Path, mine: Holder, ended: threading.Event) -> None:
    """Touch the lock until it is given back, or is no longer ours."""
    while not ended.wait(BEAT_SECONDS):
        if _read(path) != mine:
            return
        with suppress(OSError):
            os.utime(path)
