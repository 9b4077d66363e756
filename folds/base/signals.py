"""Stops a command in good order: on Ctrl-C, on SIGTERM, or when its time is up."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from folds.base.progress import T, Track

GO_ON = "the same command goes on where it was stopped"
GRACE_SECONDS = 7.0  # for a step, a long call and the way out; then the process is ended


class TimeUpError(Exception):
    """The hours given are over, but for what the blend and the submission need."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    @property
    def sentence(self) -> str:
        return "stopped by Ctrl-C" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped` in the main thread while inside.

    Where a call does not return in the grace time, the process is ended by force, and stderr says so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    here, there = socket.socketpair()
    there.setblocking(False)
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    old = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(here, is_over), name="signals", daemon=True)
    watcher.start()
    try:
        yield
        is_over.set()
    except KeyboardInterrupt as err:
        if isinstance(err, Stopped) or not came:
            raise
        stopped = Stopped(came[0])  # Ray's calls turn what a handler raises into a plain KeyboardInterrupt
        for note in getattr(err, "__notes__", ()):
            stopped.add_note(note)
        raise stopped from err
    except Exception:
        is_over.set()
        raise
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        there.close()
        if is_over.is_set() or not came:
            watcher.join()


def _watch(pipe: socket.socket, is_over: threading.Event) -> None:
    """After a signal, end the process if it has not ended by itself in the grace time."""
    with pipe:
        while data := pipe.recv(1):
            if data[0] in (signal.SIGINT, signal.SIGTERM):
                if not is_over.wait(GRACE_SECONDS):
                    stopped = Stopped(data[0])
                    cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # it may still be hidden
                    said = f"{cursor}error: {stopped.sentence}\nhint: {GO_ON}\n"
                    os.write(2, said.encode())  # another thread may hold the lock of sys.stderr
                    os._exit(stopped.exit_code)
                return


def until(deadline: float, track: Track) -> Track:
    """A tracker that raises TimeUpError at the next item after the deadline, by time.monotonic."""

    def tracked(items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        for item in track(items, what=what, total=total, unit=unit, each=each):
            if time.monotonic() > deadline:
                raise TimeUpError
            yield item

    return tracked
