"""Predicts again and probes on Ray, a run in each process, by the code that one process alone has."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace
from folds.engine import EngineSettings
from models.jobs.local import Task
from models.jobs.ray import OnRay
from models.predict.again import predict_run
from models.probe.probe import probe_runs
from models.runs import RunPlan, as_probe, done_folds
from models.settings import PredictSettings
from models.watch.events import FoldFailed, JobEvent, JobProgress, ProbeEvent


def predict_on_ray(
    workspace: Workspace,
    names: Sequence[str],
    predict: PredictSettings,
    *,
    device_name: str,
    engine: EngineSettings,
) -> Generator[JobEvent | JobProgress, None, None]:
    """Predict with all networks of these runs again, a run at a time in each process. Raises the first mistake."""
    workspace, here = Workspace(workspace.root.absolute()), _there(engine)
    tasks = []
    for name in names:
        do = partial(_predict, workspace, name, predict, device_name, here)
        seconds = sum(done["seconds"] for done in done_folds(workspace, name).values())
        tasks.append(Task(name, None, name, do, workspace.lock(f"{name}.files"), device_name, seconds))
    yield from _or_raise(OnRay(engine, silently).run(tasks))


def probe_on_ray(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    engine: EngineSettings,
    track: Track = silently,
    goes_on: bool = False,
) -> Generator[JobEvent | JobProgress, None, None]:
    """Probe the backbone of every plan, a plan at a time in each process.

    goes_on  a plan that fails is a FoldFailed, and the others are probed; otherwise its mistake is raised
    """
    workspace, here = Workspace(workspace.root.absolute()), _there(engine)
    tasks = []
    for plan in plans:
        name = as_probe(plan).name
        do = partial(_probe, workspace, plan, predict, here)
        tasks.append(Task(name, None, name, do, device=plan.settings.device))
    events = OnRay(engine, track).run(tasks)
    yield from events if goes_on else _or_raise(events)


def _there(engine: EngineSettings) -> EngineSettings:
    """The engine of a process on Ray, which has its threads already."""
    return EngineSettings(cache=engine.cache)


def _or_raise(events: Iterator[JobEvent | JobProgress]) -> Iterator[JobEvent | JobProgress]:
    for one in events:
        if isinstance(one, JobEvent) and isinstance(one.event, FoldFailed):
            if one.event.trace:
                raise RuntimeError(one.event.trace)
            raise UserError(one.event.why, hint=one.event.hint)
        yield one


def _predict(
    workspace: Workspace, run: str, predict: PredictSettings, device_name: str, engine: EngineSettings, track: Track
) -> Iterator[Any]:
    return predict_run(workspace, run, predict, device_name=device_name, engine=engine, track=track)


def _probe(
    workspace: Workspace, plan: RunPlan, predict: PredictSettings, engine: EngineSettings, track: Track
) -> Iterator[ProbeEvent]:
    return probe_runs(workspace, [plan], predict, engine=engine, track=track)
