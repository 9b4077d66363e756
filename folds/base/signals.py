"""Stops a command in good order: by a signal, or when its time is up; what is written is whole anyway."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from folds.base.progress import T, Track

GRACE_SECONDS = 7.0  # for a step, a long call and the way out; then the process ends, wherever it is
LEFT_SHARE = 0.1  # of the hours given is left for the blend and the submission, but at most:
LEFT_SECONDS = 600.0


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
def stoppable(say: Callable[[Stopped], object]) -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped` in the main thread while inside.

    say  called before the process ends by force, where a call that knows no interruption takes longer than the grace
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    here, there = socket.socketpair()
    there.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise Stopped(number)

    before = [signal.signal(number, stop) for number in numbers]
    old = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(here, say, over), name="signals", daemon=True).start()
    try:
        yield
        over.set()
    except KeyboardInterrupt as err:
        if isinstance(err, Stopped) or not came:
            raise
        raise _stopped(came[0], err) from err  # Ray's calls turn what a handler raises into a plain KeyboardInterrupt
    except Exception:
        over.set()
        raise
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        there.close()


def _stopped(number: int, err: KeyboardInterrupt) -> Stopped:
    """What a signal's handler had raised, with the notes of what became of it."""
    stop = Stopped(number)
    for note in getattr(err, "__notes__", ()):
        stop.add_note(note)
    return stop


def _watch(pipe: socket.socket, say: Callable[[Stopped], object], over: threading.Event) -> None:
    """Wait for a signal, and then for the end of the process; bring it about where it does not come."""
    with pipe:
        while data := pipe.recv(1):
            if data[0] in (signal.SIGINT, signal.SIGTERM):
                if over.wait(GRACE_SECONDS):
                    return
                stop = Stopped(data[0])
                say(stop)
                os._exit(stop.exit_code)


def time_for_training(hours: float) -> float:
    """What of the hours is for training, in seconds."""
    return hours * 3600 - min(LEFT_SHARE * hours * 3600, LEFT_SECONDS)


def until(deadline: float, track: Track) -> Track:
    """A tracker that raises TimeUpError at the next item after the deadline, by time.monotonic."""

    def tracked(items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        for item in track(items, what=what, total=total, unit=unit, each=each):
            if time.monotonic() > deadline:
                raise TimeUpError
            yield item

    return tracked
