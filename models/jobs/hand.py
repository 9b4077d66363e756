"""What a process on Ray does: one errand after another, and all that happens is said to the driver."""

from __future__ import annotations

import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from folds.base.errors import UserError
from folds.base.progress import T, Track
from models.watch.events import JobProgress

PROGRESS_SECONDS = 1.0  # a job says how far it is this often

Events: TypeAlias = Generator[Any, None, Any]


@dataclass(frozen=True, eq=False)
class Errand:
    """What a process is to do for a run's fold, None for what concerns no single fold. device: as in the settings.

    do  takes a tracker, yields events and may return something; a function of a module, or a `partial` of one
    """

    run: str
    fold: int | None
    device: str
    do: Callable[[Track], Events]


@dataclass(frozen=True)
class Ended:
    """The errand is done, and this is what it returned."""

    value: Any


@dataclass(frozen=True)
class Broke:
    """The errand ended with this exception: nothing is known about what it was to do."""

    error: BaseException


@dataclass(frozen=True)
class Place:
    """Where a process runs: Ray's name for the machine, and words for people."""

    node: str
    name: str


class Hand:
    """Lives in a process of its own, with the cores and the GPU that Ray has set aside for it."""

    def __init__(self, *, threads: int) -> None:
        self.threads, self.stopping = threads, threading.Event()
        self.where = _place()

    def place(self) -> Place:
        return self.where

    def stop(self) -> None:
        """Let the errand end at its next batch, with a note of what that costs."""
        self.stopping.set()

    def do(self, errand: Errand) -> Iterator[Any]:
        """Yield the errand's events and its progress, and `Ended` or `Broke` last.

        The errand has a thread of its own: its tracker is called deep inside, where nothing can be yielded from.
        """
        said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._do, args=(errand, said), name="errand", daemon=True).start()
        while True:
            one = said.get()
            yield one
            if isinstance(one, Ended | Broke):
                return

    def _do(self, errand: Errand, said: queue.SimpleQueue[Any]) -> None:
        torch.set_num_threads(self.threads)
        try:
            for one in _to_the_end(errand.do(_Teller(errand, self.where.name, self.stopping, said.put))):
                said.put(one)
        except (UserError, KeyboardInterrupt) as err:
            said.put(Broke(err))
        except Exception:  # its class may not be known to the driver, its text is
            said.put(Broke(RuntimeError(traceback.format_exc())))


def _to_the_end(events: Events) -> Iterator[Any]:
    value = yield from events
    yield Ended(value)


class _Teller:
    """A tracker that tells the driver how far an errand is, and interrupts it when told to stop."""

    def __init__(
        self, errand: Errand, place: str, stopping: threading.Event, say: Callable[[JobProgress], object]
    ) -> None:
        self.errand, self.place, self.stopping, self.say = errand, place, stopping, say
        self.said = 0.0

    def __call__(
        self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1
    ) -> Iterator[T]:
        began = time.monotonic()
        done = 0
        for item in items:
            if self.stopping.is_set():
                raise KeyboardInterrupt
            yield item
            done, now = min(done + each, total), time.monotonic()
            if now - self.said >= PROGRESS_SECONDS:
                self.said, speed = now, done / max(now - began, 1e-9)
                self.say(JobProgress(self.errand.run, self.errand.fold, what, done, total, unit, speed, self.place))


def _place() -> Place:
    import ray

    here = ray.get_runtime_context()
    gpus: Sequence[str] = here.get_accelerator_ids().get("GPU", [])
    device = f"GPU {','.join(gpus)}" if gpus else "CPU"
    return Place(here.get_node_id(), f"{socket.gethostname()} {device}")
