"""Predicts again and probes on Ray, a run in each process, by the code that one process alone has."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

from folds.base.errors import UserError
from folds.base.locks import Holder, claim
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace
from folds.engine import EngineSettings
from models.jobs.crew import Crew, Over
from models.jobs.hand import Errand
from models.jobs.ray_cluster import on_ray
from models.predict.again import predict_run
from models.probe.probe import probe_runs
from models.runs import RunPlan, as_probe, done_folds
from models.settings import PredictSettings
from models.watch.events import FoldFailed, FoldPredicted, JobEvent, JobProgress, PriorChoice, ProbeEvent

Said = JobEvent | JobProgress


def predict_on_ray(
    workspace: Workspace,
    names: Sequence[str],
    predict: PredictSettings,
    *,
    device_name: str,
    engine: EngineSettings,
) -> Generator[Said, None, None]:
    """Predict with all networks of these runs again, a run at a time in each process."""
    workspace, here = Workspace(workspace.root.absolute()), _there(engine)
    errands = [
        Errand(name, None, device_name, partial(_predict_there, workspace, name, predict, device_name, here))
        for name in names
    ]
    trained = {name: sum(done["seconds"] for done in done_folds(workspace, name).values()) for name in names}
    yield from _do_all(errands, engine, seconds=trained)


def probe_on_ray(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    engine: EngineSettings,
    track: Track = silently,
    goes_on: bool = False,
) -> Generator[Said, None, None]:
    """Probe the backbone of every plan, a plan at a time in each process.

    goes_on  a plan that fails is a FoldFailed, and the others are probed; otherwise its mistake is raised
    """
    workspace, here = Workspace(workspace.root.absolute()), _there(engine)
    errands = [
        Errand(as_probe(plan).name, None, plan.settings.device, partial(_probe_there, workspace, plan, predict, here))
        for plan in plans
    ]
    yield from _do_all(errands, engine, seconds={}, track=track, goes_on=goes_on)


def _there(engine: EngineSettings) -> EngineSettings:
    """The engine of a process on Ray, which has its threads already."""
    return EngineSettings(cache=engine.cache)


def _do_all(
    errands: Sequence[Errand],
    engine: EngineSettings,
    *,
    seconds: dict[str, float],
    track: Track = silently,
    goes_on: bool = False,
) -> Iterator[Said]:
    """Raises the first mistake, and the others are stopped then; or, where it `goes_on`, yields a FoldFailed for it."""
    with on_ray(engine) as ray:
        crew = Crew(ray, engine, cost=lambda errand: seconds.get(errand.run, 0.0), track=track)
        for errand in errands:
            crew.send(errand)
        for said in crew.events():
            if not isinstance(said, Over):
                yield said
                continue
            mistake = _mistake(said)
            if mistake and not goes_on:
                raise mistake from said.error
            if mistake:
                run = said.errand.run
                yield JobEvent(run, None, FoldFailed(run, run, mistake.message, mistake.hint, trace=None))


def _mistake(over: Over) -> UserError | None:
    if over.error is not None:
        return UserError(f"{over.errand.run}: its process died again and again")
    return over.value if isinstance(over.value, UserError) else None


def _predict_there(
    workspace: Workspace, run: str, predict: PredictSettings, device_name: str, engine: EngineSettings, track: Track
) -> Generator[FoldPredicted | PriorChoice, None, Holder | UserError | None]:
    with claim(workspace.lock(f"{run}.files")) as holder:
        if holder:
            return holder
        events = predict_run(workspace, run, predict, device_name=device_name, engine=engine, track=track)
        return (yield from _or_mistake(events))


def _probe_there(
    workspace: Workspace, plan: RunPlan, predict: PredictSettings, engine: EngineSettings, track: Track
) -> Generator[ProbeEvent, None, UserError | None]:
    return (yield from _or_mistake(probe_runs(workspace, [plan], predict, engine=engine, track=track)))


def _or_mistake(events: Iterator[Any]) -> Generator[Any, None, UserError | None]:
    """The events; returns the mistake that ended them, which no other machine would mend."""
    try:
        yield from events
    except UserError as err:
        return err
    return None
