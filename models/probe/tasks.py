"""The tasks that make probes and their nearest neighbours: for `probe`, `knn` and `all`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from folds.base.workspace import Workspace
from models.jobs.local import Task
from models.probe.knn import knn_run
from models.probe.probe import probe_runs
from models.runs import RunPlan, as_probe, knn_name
from models.settings import EngineSettings, PredictSettings
from models.watch.events import JobKey


def probe_tasks(
    workspace: Workspace, plans: Sequence[RunPlan], predict: PredictSettings, engine: EngineSettings
) -> list[Task]:
    """A task for the probe of each plan."""
    tasks = []
    for plan in plans:
        name, do = as_probe(plan).name, partial(probe_runs, anywhere(workspace, engine), [plan], predict)
        tasks.append(Task(JobKey(name, None), name, partial(do, cache=engine.cache), device=plan.settings.device))
    return tasks


def knn_tasks(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    engine: EngineSettings,
    *,
    device_of: Mapping[str, str],
) -> list[Task]:
    """A task for the lookup by the features of each run. device_of: by the run's name"""
    tasks = []
    for of, device in device_of.items():
        do = partial(knn_run, anywhere(workspace, engine), of, plans, predict, device_name=device, cache=engine.cache)
        key = JobKey(knn_name(of), None)
        tasks.append(Task(key, key.run, do, device=device))
    return tasks


def anywhere(workspace: Workspace, engine: EngineSettings) -> Workspace:
    """The work folder as a process on Ray finds it, which has another current folder."""
    return Workspace(workspace.root.absolute()) if engine.is_ray else workspace
