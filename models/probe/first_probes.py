"""Probes frozen backbones before `all` trains them; a probe that fails is told, and stops nothing."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence

from folds.base.errors import CannotWriteError, UserError
from folds.base.progress import Track
from folds.base.signals import TimeUpError
from folds.base.workspace import Workspace
from folds.engine import EngineSettings
from models.backbones import resolve_backbone
from models.jobs.plan import weights_name
from models.probe.probe import probe_runs
from models.runs import RunPlan, as_probe
from models.settings import PredictSettings
from models.sizes import train_size
from models.watch.events import FoldFailed, JobEvent, JobProgress


def plans_to_probe(plans: Sequence[RunPlan]) -> list[RunPlan]:
    """The plans that start from weights, without those whose backbone, weights and size an earlier plan has too."""
    first: dict[tuple[str, str, int], RunPlan] = {}
    for plan in plans:
        if plan.has_weights:
            backbone = resolve_backbone(plan.backbone)
            first.setdefault((backbone.tag, weights_name(plan), train_size(plan.settings, backbone)), plan)
    return list(first.values())


def probe_first(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    engine: EngineSettings,
    track: Track,
) -> Generator[JobEvent | JobProgress, None, None]:
    """Probe the backbone of every plan, and yield what happens; a probe that fails is a FoldFailed, the others go on.

    Raises CannotWriteError, TimeUpError and KeyboardInterrupt, which concern every probe.
    """
    if engine.is_ray:
        from models.jobs.ray_runs import probe_on_ray

        yield from probe_on_ray(workspace, plans, predict, engine=engine, track=track, goes_on=True)
        return
    for plan in plans:
        name = as_probe(plan).name
        try:
            for event in probe_runs(workspace, [plan], predict, engine=engine, track=track):
                yield JobEvent(name, getattr(event, "fold", None), event)
        except (CannotWriteError, TimeUpError):
            raise
        except UserError as err:
            yield JobEvent(name, None, FoldFailed(name, name, err.message, err.hint, trace=None))
        except Exception as err:
            failed = FoldFailed(name, name, f"{type(err).__name__}: {err}", None, traceback.format_exc())
            yield JobEvent(name, None, failed)
