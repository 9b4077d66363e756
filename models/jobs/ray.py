"""Does tasks, here or on Ray: there the costliest first, and again elsewhere where a process dies."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from folds.base.errors import UserError
from folds.base.locks import POLL_SECONDS, Holder
from folds.base.progress import Track
from models.jobs.local import Task, run_here
from models.jobs.ray_cluster import on_ray
from models.jobs.ray_worker import Began, Ended, Queue, do_there
from models.settings import EngineSettings
from models.watch.events import Event, FoldFailed, FoldHeld, FoldMoved, Happened, JobEvent

MOST_MOVES = 3  # a task whose process died is begun again so often, and then it has failed
LOOK_SECONDS = 0.2  # between two looks at what the processes have said
STOP_SECONDS = 4.0  # for tasks to end; `folds.base.signals` leaves a command seven seconds in all
BATCH = 100  # events fetched at a time: below 100 KB Ray sends them without its object store, which may be full

DEATHS = {  # what Ray's errors say in many lines
    "WorkerCrashedError": "its process died",
    "NodeDiedError": "its machine is gone",
    "OutOfMemoryError": "Ray ended its process, since memory was short",
}


def run_tasks(tasks: Sequence[Task], engine: EngineSettings, track: Track) -> Generator[Happened, None, None]:
    """Do all tasks, and yield what happens. A task that fails is a FoldFailed, and the others go on.

    One after another in this process; or side by side on all machines of a Ray, where UserError is raised if no machine
    has what a task needs. Raises CannotWriteError, TimeUpError and KeyboardInterrupt, which concern every task; notes
    say what is lost.
    """
    if not engine.is_ray:
        if engine.cpus_per_job:  # what torch computes on a CPU depends on their number, bit by bit
            torch.set_num_threads(engine.cpus_per_job)
        yield from run_here(tasks, track)
    elif tasks:
        with on_ray(engine) as ray:
            yield from _Session(ray, engine, track, tasks).run()


@dataclass(eq=False)
class _Open:
    """A task that is not done.

    answer  Ray's name for the attempt under way, of this number; None while the task waits for `not_before`
    node    where that runs; None before it has begun
    avoid   machines where its processes died
    """

    task: Task
    gpus: float
    cpus: int
    answer: Any = None
    number: int = -1
    node: str | None = None
    not_before: float = 0.0
    avoid: set[str] = field(default_factory=set)
    moves: int = 0
    holder: Holder | None = None

    def event(self, what: Event) -> JobEvent:
        return JobEvent(self.task.key, what)


class _Session:
    """The tasks of one call, as long as Ray is connected."""

    def __init__(self, ray: Any, engine: EngineSettings, track: Track, tasks: Sequence[Task]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray, self.track, self.attempts = ray, track, 0
        self.do = [ray.remote(max_retries=0, max_calls=calls)(do_there) for calls in (0, 1)]  # a GPU is left empty
        costliest_first = sorted(tasks, key=lambda task: -task.cost)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        self.open = [_Open(task, *_needs(machines, engine, task)) for task in costliest_first]
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.queue = ray.remote(Queue).options(num_cpus=0, scheduling_strategy=here).remote()
        list(self._said())  # wait until it has started: no task begins before there is a queue to write to

    def run(self) -> Iterator[Happened]:
        try:
            while self.open:
                for _ in self.track((1,), what="waiting", total=1, unit="looks"):  # which knows when the time is up
                    self._submit()
                answers = [one.answer for one in self.open if one.answer is not None]
                if not answers:
                    time.sleep(LOOK_SECONDS)
                ready = self.ray.wait(answers, timeout=LOOK_SECONDS)[0] if answers else []  # ended, in whichever way
                for number, said in self._said():
                    yield from self._take(number, said)
                for one in [one for one in self.open if one.answer in ready]:  # it has not said Ended
                    why = "its process ended without a result"
                    try:
                        self.ray.get(one.answer)
                    except self.ray.exceptions.RayError as err:
                        why = DEATHS.get(type(err).__name__) or _last_line(err)
                    yield from self._move(one, why)
        except BaseException as stop:
            self._stop(stop)
            raise

    def _submit(self) -> None:
        """Send what can run at once, and one more once all that has begun: Ray keeps no order among waiting tasks."""
        machines = [machine for machine in self.ray.nodes() if machine["Alive"]]
        under_way = Counter((one.gpus, one.cpus) for one in self.open if one.answer is not None)
        for one in self.open:
            if one.avoid and one.node is None and not _slots(machines, one, avoid=one.avoid):
                one.avoid.clear()  # no other machine is left
                if one.answer is not None:
                    self.ray.cancel(one.answer)
                    one.answer = None
            if one.answer is not None or time.monotonic() < one.not_before:
                continue
            have_begun = all(other.node for other in self.open if other.answer is not None)
            if under_way[one.gpus, one.cpus] < _slots(machines, one) + have_begun:
                under_way[one.gpus, one.cpus] += 1
                self.attempts += 1
                one.number, one.node = self.attempts, None
                elsewhere = {"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(one.avoid))})"}}
                options: dict[str, Any] = elsewhere if one.avoid else {"scheduling_strategy": "SPREAD"}
                spin = os.environ.get("GOMP_SPINCOUNT", "20000")
                do = self.do[one.gpus > 0].options(
                    num_gpus=one.gpus,
                    num_cpus=one.cpus,
                    runtime_env={"env_vars": {"OMP_NUM_THREADS": str(one.cpus), "GOMP_SPINCOUNT": spin}},
                    **options,
                )
                one.answer = do.remote(one.task, one.cpus, one.number, self.queue)

    def _said(self) -> Iterator[tuple[int, Any]]:
        """What the processes have said up to now, each with the number of the attempt."""
        try:
            while said := self.ray.get(self.queue.take.remote(BATCH)):
                yield from said
        except self.ray.exceptions.RayActorError as err:
            why = f"the event queue on Ray is gone: {_last_line(err)}"
            raise UserError(why, hint="type the command again") from err

    def _take(self, number: int, said: Any) -> Iterator[Happened]:
        one = next((one for one in self.open if one.number == number and one.answer is not None), None)
        if one is None:  # an attempt that was given up
            return
        event = said.event if isinstance(said, JobEvent) else None
        if isinstance(said, Began):
            one.node = said.node
        elif isinstance(said, Ended) and said.error:  # its machine cannot write the work folder; others may
            if one.moves == MOST_MOVES:
                raise said.error
            yield from self._move(one, said.error.message)
        elif isinstance(said, Ended) and said.holder:
            if said.holder != one.holder:
                yield one.event(FoldHeld(one.task.name, said.holder.sentence))
            one.answer, one.holder, one.not_before = None, said.holder, time.monotonic() + POLL_SECONDS
        elif isinstance(said, Ended):
            self.open.remove(one)
        elif isinstance(event, FoldFailed) and event.may_move and one.moves < MOST_MOVES:
            yield from self._move(one, event.why)
        else:
            yield said

    def _move(self, one: _Open, why: str) -> Iterator[JobEvent]:
        """Begin a task again, on another machine if there is one; after too many times it has failed."""
        one.moves += 1
        if one.moves > MOST_MOVES:
            self.open.remove(one)
            died = f"{why}, {one.moves} times in a row"
            yield one.event(FoldFailed(one.task.name, died, None, trace=None))
            return
        one.avoid |= {one.node} if one.node else set()
        one.answer, one.node, one.not_before = None, None, time.monotonic() + POLL_SECONDS
        yield one.event(FoldMoved(one.task.name, why))

    def _stop(self, stop: BaseException) -> None:
        """Interrupt all tasks, and add what each says of that to the exception."""
        answers = [one.answer for one in self.open if one.answer is not None]
        begun = {one.number for one in self.open if one.answer is not None and one.node}
        for answer in answers:
            self.ray.cancel(answer, recursive=False)  # what it is saying to the queue is a call of its own
        until = time.monotonic() + STOP_SECONDS
        with suppress(UserError):
            while (answers or begun) and time.monotonic() < until:
                if answers:
                    answers = self.ray.wait(answers, num_returns=len(answers), timeout=LOOK_SECONDS)[1]
                else:  # Ray says that they have ended before their last words are in the queue
                    time.sleep(LOOK_SECONDS)
                for number, said in self._said():
                    if isinstance(said, Began):
                        begun.add(number)
                    elif isinstance(said, Ended):
                        begun.discard(number)
                        for note in said.notes:
                            stop.add_note(note)


def _slots(machines: Sequence[Mapping[str, Any]], one: _Open, *, avoid: Collection[str] = ()) -> int:
    """How many such tasks the machines have room for, were they idle."""
    there = [machine["Resources"] for machine in machines if machine["NodeID"] not in avoid]
    cores = [int(machine.get("CPU", 0) // one.cpus) for machine in there]
    if not one.gpus:
        return sum(cores)
    return sum(min(n, int(machine.get("GPU", 0) // one.gpus)) for n, machine in zip(cores, there, strict=True))


def _needs(machines: Sequence[Mapping[str, float]], engine: EngineSettings, task: Task) -> tuple[float, int]:
    """The share of a GPU and the cores that a task gets. Raises UserError where no machine has them.

    On a CPU it gets the cores that it would have without Ray, since what torch computes depends on their number.
    """
    has_gpus = any("GPU" in one for one in machines)
    if task.device == "cuda" and not has_gpus:
        raise UserError(f"no machine of Ray has a GPU, and {task.name} needs one", hint="`--device cpu`")
    gpus = engine.gpus_per_job if has_gpus and task.device != "cpu" else 0.0
    most = int(max((one.get("CPU", 0) for one in machines if one.get("GPU", 0) >= gpus), default=0))
    cpus = engine.cpus_per_job or (1 if gpus else min(torch.get_num_threads(), max(most, 1)))
    if cpus > most:
        raise UserError(
            f"a job is to get {cpus} cores, and the largest machine {'with a GPU' if gpus else 'of Ray'} has {most}",
            hint=f"`--cpus-per-job {max(most, 1)}`",
        )
    return gpus, cpus


def _last_line(err: BaseException) -> str:
    lines = str(err).strip().splitlines() or [""]
    return f"{type(err).__name__}: {lines[-1].strip().rstrip('.')}"
