"""Tasks, and how they are done one after another in this process."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from folds.base.errors import CannotWriteError, UserError
from folds.base.locks import Holder, claim, pause
from folds.base.progress import Track
from folds.base.signals import TimeUpError
from folds.base.workspace import Workspace
from models.settings import EngineSettings
from models.watch.events import FoldFailed, FoldHeld, JobEvent, JobKey


class MachineError(UserError):
    """What this machine lacks: on Ray, another one may do the task."""


@dataclass(frozen=True, eq=False)
class Task:
    """Work for one process: a job, or what concerns all of a run, whose fold is None.

    name    what it is called: the job's name, or the run's
    do      yields events, given `track`; a module's function or a `partial` of one, since another process may do it
    lock    held meanwhile, so that of several processes one does the task
    device  `auto`, `cpu` or `cuda`
    cost    in any unit: Ray begins with the costliest
    """

    key: JobKey
    name: str
    do: Callable[..., Iterator[JobEvent]]
    lock: Path | None = None
    device: str = "auto"
    cost: float = 0.0


def anywhere(workspace: Workspace, engine: EngineSettings) -> Workspace:
    """The work folder as a process on Ray finds it, which has another current folder."""
    return Workspace(workspace.root.absolute()) if engine.is_ray else workspace


def run_here(tasks: Sequence[Task], track: Track) -> Iterator[JobEvent]:
    """One task after another in this process; tasks that other processes are doing are waited for at the end."""
    left, announced = list(tasks), set[Holder]()
    while left:
        held: list[tuple[Task, Holder]] = []
        for task in left:
            for event in attempt(task, track):
                if isinstance(event, Holder):
                    held.append((task, event))
                else:
                    yield event
        if len(held) == len(left):  # nothing else is left to do meanwhile
            for task, holder in held:
                if holder not in announced:
                    yield JobEvent(task.key, FoldHeld(task.name, holder.sentence))
                announced.add(holder)
            pause(track)
        left = [task for task, _ in held]


def attempt(task: Task, track: Track) -> Iterator[JobEvent | Holder]:
    """Do a task under its lock, and yield its events; or yield only who holds the lock. An error becomes FoldFailed."""
    with claim(task.lock) if task.lock else nullcontext() as holder:
        if holder:
            yield holder
            return
        try:
            yield from task.do(track=track)
        except (CannotWriteError, TimeUpError):
            raise
        except UserError as err:
            failed = FoldFailed(task.name, err.message, err.hint, trace=None, may_move=isinstance(err, MachineError))
            yield JobEvent(task.key, failed)
        except Exception as err:
            failed = FoldFailed(task.name, f"{type(err).__name__}: {err}", None, traceback.format_exc())
            yield JobEvent(task.key, failed)
