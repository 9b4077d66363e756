"""Watches the memory of decoding processes from outside, through /proc: no hook in the product is needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path


@dataclass
class Seen:
    """Memory in bytes, by process: when it was first seen, and at most."""

    idle: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    @property
    def largest_growth(self) -> int:
        """The most that any process had above the smallest that one was seen with."""
        return max(self.peak.values()) - min(self.idle.values())


@contextmanager
def watching_memory() -> Iterator[Seen]:
    """Look at the children of the fork server fifty times a second."""
    seen, is_over = Seen(), threading.Event()
    thread = threading.Thread(target=_look, args=(seen, is_over), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def _look(seen: Seen, is_over: threading.Event) -> None:
    while not is_over.is_set():
        for pid in _children(forkserver._forkserver._forkserver_pid):  # type: ignore[attr-defined]
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if "VmHWM:" in status:
                seen.idle.setdefault(pid, _kilobytes(status, "VmRSS:") << 10)
                seen.peak[pid] = max(seen.peak.get(pid, 0), _kilobytes(status, "VmHWM:") << 10)
        time.sleep(0.02)


def _children(pid: int | None) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _kilobytes(status: str, name: str) -> int:
    return int(status.split(name)[1].split()[0])
