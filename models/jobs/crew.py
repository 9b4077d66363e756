"""Has errands done by processes on Ray: the costliest first, and again elsewhere where a process dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from folds.base.errors import CannotWriteError, UserError
from folds.base.locks import POLL_SECONDS, Holder
from folds.base.progress import Track
from folds.engine import EngineSettings
from models.jobs.hand import Broke, Ended, Errand, Hand, Place
from models.jobs.needs import Needs, find_needs, machines
from models.watch.events import FoldHeld, FoldMoved, JobEvent, JobProgress

MOST_MOVES = 3  # an errand whose process died is begun again so often, and then it has failed
MOST_FALSE_STARTS = 3  # times in a row that processes died before they could do anything
REST_SECONDS = 5.0  # after such a time: a machine that goes takes all with it that were to start there
WAIT_SECONDS = 1.0  # for something to be said
STOP_SECONDS = 4.0  # for errands to end at their next batch; `folds.base.signals` leaves a command seven seconds in all

DEATHS = {  # what Ray's errors say in many lines
    "ActorDiedError": "its process has died",
    "ActorUnavailableError": "its machine does not answer",
    "OutOfMemoryError": "Ray ended its process, since memory was short",
}

Cost: TypeAlias = Callable[[Errand], float]


@dataclass(frozen=True)
class Over:
    """An errand is over: what it returned, or the error that ended it at last."""

    errand: Errand
    value: Any = None
    error: BaseException | None = None


@dataclass(eq=False)
class _Open:
    """An errand that is not over: how often its process died, when it may be begun (time.monotonic), whom it awaits."""

    errand: Errand
    needs: Needs
    deaths: int = 0
    not_before: float = 0.0
    told: Holder | None = None


@dataclass(eq=False)
class _Member:
    """A process on Ray, an actor, and what is to come of it: its place at first, then what its errand says."""

    actor: Any
    needs: Needs
    answer: Any
    place: Place | None = None
    has: _Open | None = None

    @property
    def is_idle(self) -> bool:
        return self.place is not None and self.has is None


class Crew:
    """Processes on Ray, as many as there are errands; Ray starts each where and when there is room for it."""

    def __init__(self, ray: Any, engine: EngineSettings, *, cost: Cost, track: Track) -> None:
        self.ray, self.engine, self.cost, self.track = ray, engine, cost, track
        self.open: list[_Open] = []
        self.members: list[_Member] = []
        self.false_starts, self.rests_until = 0, 0.0

    def send(self, errand: Errand) -> None:
        """Take an errand on. Raises UserError where no machine of Ray has what it needs."""
        self.open.append(_Open(errand, find_needs(self.ray, self.engine, run=errand.run, device=errand.device)))

    def events(self) -> Iterator[JobEvent | JobProgress | Over]:
        """What the errands say, and `Over` for each at its end, until all are over; more may be sent meanwhile.

        Raises CannotWriteError, which concerns every errand, and whatever the tracker raises when the time is up: then,
        as after KeyboardInterrupt, the errands at work are stopped, and what they say of that is added as notes.
        """
        try:
            while self.open:
                for _ in self.track((1,), what="waiting", total=1, unit="looks"):
                    self._staff()
                for member in self._heard():
                    yield from self._listen(member)
        except BaseException as stop:
            self._stop(stop)
            raise
        finally:
            for member in list(self.members):
                self._end(member)

    def _staff(self) -> None:
        """Give idle processes what waits, the costliest first; start as many more as there are errands, no more."""
        self._forgive()
        busy = {id(member.has) for member in self.members}
        waiting = [one for one in self.open if id(one) not in busy and one.not_before <= time.monotonic()]
        for one in sorted(waiting, key=lambda one: -self.cost(one.errand)):
            for member in [member for member in self.members if member.is_idle and member.needs == one.needs][:1]:
                member.has = one
                member.answer = member.actor.do.options(num_returns="streaming").remote(one.errand)
        for needs in {one.needs for one in self.open} | {member.needs for member in self.members}:
            alike = [member for member in self.members if member.needs == needs]
            lacking = sum(one.needs == needs for one in self.open) - len(alike)
            if time.monotonic() >= self.rests_until:
                self.members += [self._start(needs) for _ in range(lacking)]
            spare = sorted((member for member in alike if member.has is None), key=lambda member: member.is_idle)
            for member in spare[: max(-lacking, 0)]:
                self._end(member)

    def _forgive(self) -> None:
        """Let errands go where their processes died, once no other machine is left for them."""
        shunning = [one for one in self.open if one.needs.avoid]
        there = machines(self.ray) if shunning else []
        for one in shunning:
            if not any(one.needs.fits(machine) for machine in there):
                one.needs = replace(one.needs, avoid=frozenset())

    def _start(self, needs: Needs) -> _Member:
        environ = {"OMP_NUM_THREADS": str(needs.cpus), "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "20000")}
        elsewhere = {"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(needs.avoid))})"}}
        options: dict[str, Any] = elsewhere if needs.avoid else {"scheduling_strategy": "SPREAD"}
        hand = self.ray.remote(Hand).options(
            num_gpus=needs.gpus,
            num_cpus=needs.cpus,
            max_concurrency=2,  # an errand, and the word to stop
            runtime_env={"env_vars": environ},
            **options,
        )
        actor = hand.remote(threads=needs.cpus)
        return _Member(actor, needs, actor.place.remote())

    def _end(self, member: _Member) -> None:
        self.members.remove(member)
        self.ray.kill(member.actor)

    def _heard(self) -> list[_Member]:
        """The processes that have something to say, after at most a moment."""
        answers = {member.answer: member for member in self.members if member.answer is not None}
        if not answers:
            time.sleep(WAIT_SECONDS)
            return []
        ready, _ = self.ray.wait(list(answers), timeout=WAIT_SECONDS)
        return [answers[one] for one in ready]

    def _listen(self, member: _Member) -> Iterator[JobEvent | JobProgress | Over]:
        """Hear one thing of a process."""
        one = member.has
        try:
            said = self.ray.get(member.answer if one is None else next(member.answer))
        except (self.ray.exceptions.RayError, StopIteration) as err:
            self._end(member)
            yield from self._died(one, member.place, err)
            return
        if one is None:
            member.place, member.answer, self.false_starts = said, None, 0
        elif isinstance(said, Ended | Broke):
            member.has, member.answer = None, None
            yield from self._ended(one, said, member)
        elif isinstance(said, JobProgress):
            yield said
        else:
            yield _event(one, said, member.place)

    def _ended(self, one: _Open, said: Ended | Broke, member: _Member) -> Iterator[JobEvent | Over]:
        if isinstance(said, Broke):
            if isinstance(said.error, CannotWriteError):
                raise said.error
            self._end(member)
            yield from self._died(one, member.place, said.error)
        elif isinstance(said.value, Holder):
            if said.value != one.told:
                yield _event(one, FoldHeld(one.errand.run, one.errand.fold, said.value.sentence))
            one.told, one.not_before = said.value, time.monotonic() + POLL_SECONDS
        else:
            self.open.remove(one)
            yield Over(one.errand, said.value)

    def _died(self, one: _Open | None, place: Place | None, why: BaseException) -> Iterator[JobEvent | Over]:
        """What becomes of an errand whose process is gone: it waits for another machine, or has failed."""
        if one is None:
            self._count_false_start(why)
            return
        one.deaths += 1
        if one.deaths > MOST_MOVES:
            self.open.remove(one)
            yield Over(one.errand, error=why)
            return
        one.needs = replace(one.needs, avoid=one.needs.avoid | ({place.node} if place else set()))
        clause = DEATHS.get(type(why).__name__) or _last_line(why)
        yield _event(one, FoldMoved(one.errand.run, one.errand.fold, clause))

    def _count_false_start(self, why: BaseException) -> None:
        if time.monotonic() < self.rests_until:
            return  # one of several that died together
        self.false_starts, self.rests_until = self.false_starts + 1, time.monotonic() + REST_SECONDS
        if self.false_starts > MOST_FALSE_STARTS:
            raise UserError(f"no process can be started on Ray: {_last_line(why)}", hint="`ray status` may say more")

    def _stop(self, stop: BaseException) -> None:
        """Let the errands at work end at their next batch; what each says of that becomes a note."""
        busy = {member.answer: member for member in self.members if member.has is not None}
        for member in busy.values():
            member.actor.stop.remote()
        until = time.monotonic() + STOP_SECONDS
        while busy and time.monotonic() < until:
            ready, _ = self.ray.wait(list(busy), timeout=WAIT_SECONDS)
            for answer in ready:
                try:
                    said = self.ray.get(next(answer))
                except (self.ray.exceptions.RayError, StopIteration):
                    said = Ended(None)
                for note in getattr(getattr(said, "error", None), "__notes__", ()):
                    stop.add_note(note)
                if isinstance(said, Ended | Broke):
                    del busy[answer]


def _event(one: _Open, event: Any, place: Place | None = None) -> JobEvent:
    return JobEvent(one.errand.run, one.errand.fold, event, place.name if place else "")


def _last_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{type(err).__name__}: {lines[-1].rstrip('.')}" if lines else type(err).__name__
