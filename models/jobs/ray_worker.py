"""What a process on Ray does: one task, whose events and progress it puts into the driver's queue."""

from __future__ import annotations

import dataclasses
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from folds.base.errors import CannotWriteError
from folds.base.locks import Holder
from folds.base.progress import T
from models.jobs.local import Task, attempt
from models.watch.events import JobProgress

PROGRESS_SECONDS = 1.0  # a task says how far it is this often


@dataclass(frozen=True)
class Began:
    """The first word of a process: Ray's name for its machine."""

    node: str


@dataclass(frozen=True)
class Ended:
    """The last word of a process. holder: who holds the task's lock; error: one that concerns every task."""

    holder: Holder | None = None
    error: CannotWriteError | None = None
    notes: tuple[str, ...] = ()


class Queue:
    """What the processes have said and the driver has not yet taken, as an actor on Ray.

    Ray does the calls of one process to it in their order. Of its own queue, which is asynchronous, it does not: of
    3,000 calls 100 to 220 overtook others, and what comes after `Ended` is not shown (Ray 2.60, two cores).
    """

    def __init__(self) -> None:
        self.said: list[tuple[int, Any]] = []

    def put(self, number: int, said: Any) -> None:
        """number: of the attempt."""
        self.said.append((number, said))

    def take(self, most: int) -> list[tuple[int, Any]]:
        """The oldest, so many at most, which are gone then."""
        taken, self.said = self.said[:most], self.said[most:]
        return taken


def do_there(task: Task, threads: int, number: int, queue: Any) -> None:
    """Do a task in a process on Ray, which is interrupted when the driver stops; what happens goes into the queue."""
    import ray

    here = ray.get_runtime_context()
    gpus = here.get_accelerator_ids().get("GPU", [])
    place = f"{socket.gethostname()} {'GPU ' + ','.join(gpus) if gpus else 'CPU'}"
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which Ray cancels; behind `&` it would be ignored
    # Without waiting for an answer: Ray gives the cores of a task that waits to another one.
    reporter = _Reporter(task, place, lambda said: queue.put.remote(number, said))
    events, end = attempt(task, reporter.track), Ended()
    try:
        reporter.say(Began(here.get_node_id()))
        for event in events:
            if isinstance(event, Holder):
                end = Ended(event)
            else:
                reporter.say(dataclasses.replace(event, place=place))
    except CannotWriteError as err:
        end = Ended(error=err)
    except KeyboardInterrupt as stop:
        with suppress(KeyboardInterrupt):
            events.throw(stop)  # type: ignore[attr-defined]  # it may have come while the event was said
        end = Ended(notes=tuple(getattr(stop, "__notes__", ())))
    ray.get(reporter.say(end))  # all is in the queue before the task ends


@dataclass
class _Reporter:
    """Says how far a task is, once a second."""

    task: Task
    place: str
    say: Callable[[Any], Any]
    said: float = 0.0

    def track(self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        began, done = time.monotonic(), 0
        what = what.removeprefix(f"{self.task.key.run}: ")  # the key names the run
        for item in items:
            yield item
            done, now = min(done + each, total), time.monotonic()
            if now - self.said >= PROGRESS_SECONDS:
                self.said, speed = now, done / max(now - began, 1e-9)
                self.say(JobProgress(self.task.key, what, done, total, unit, speed, self.place))
