"""How far a work folder is: what is missing, and which command makes it."""

from __future__ import annotations

import shlex
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ensemble.blend.apply import open_blend
from ensemble.blend.blend_json import Blend, load_blend
from ensemble.members.open_run import list_runs
from folds.base.errors import UserError, first_few
from folds.base.locks import holders
from folds.base.workspace import Workspace
from folds.split.assign import changed_since, load_folds, refuse_other_folds
from models.runs import changed_since_begun, done_folds, done_refit, runs
from models.watch.events import JobKey
from submissions.check import is_changed, is_early, is_of_blend
from submissions.settings import Wanted

VERSION = 1  # of what `status --json` says
NOTHING = ["nothing is missing"]


def what_is_missing(workspace: Workspace, wanted: Wanted) -> tuple[list[str], str]:
    """Sentences on what is missing, in the order of the way, and the next command (`train`, `blend` ...)."""
    if not workspace.manifest.is_file():
        return [f"{workspace.root} holds no prepared images"], "prepare DATA"
    if not workspace.folds_csv.is_file():
        return ["the folds are not assigned"], "split"
    folds = load_folds(workspace)
    if changed := changed_since(workspace, folds):
        return [changed], "split"
    try:
        refuse_other_folds(workspace, wanted.folds)
    except UserError as err:
        return [f"{err.message}; {err.hint}"], "split"
    n_folds, missing = folds.n_folds, []
    for run in wanted.runs:
        lacking = sorted(set(range(n_folds)) - set(done_folds(workspace, run)))
        if lacking:
            missing.append(f"{run} lacks fold{'s' * (len(lacking) > 1)} {', '.join(map(str, lacking))}")
            changed = "; ".join(changed_since_begun(workspace, plan) for plan in wanted.plans if plan.name == run)
            if changed:
                missing.append(
                    f"{run} was begun with other settings: {changed}; `train` refuses these and says what to do"
                )
    if missing:
        return missing, "train"
    if not workspace.blend.is_file():
        return ["there is no blend"], "blend"
    try:  # whether its members are there and as they were; what their files hold is checked by `blend` and `submit`
        blend = load_blend(workspace.blend)
        open_blend(workspace, blend, tests_only=True)
    except UserError as err:
        return [err.message], "blend"
    if later := _done_since_blend(workspace, blend, n_folds):
        return [f"the blend was made before {first_few(later)} was done"], "blend"
    csv = newest_csv(workspace)
    if csv is None:
        return ["there is no submission"], "submit"
    if is_early(csv):
        return [f"the only submission is {csv}, made from the probes alone"], "submit"
    try:
        if is_changed(csv):
            return [f"{csv} was changed after `submit` wrote it"], "submit"
        if is_of_blend(csv, blend) is False:
            return [f"{csv} was made from another blend than {workspace.blend}"], "submit"
    except UserError as err:  # its lineage is damaged
        return [err.message], "submit"
    return NOTHING, f"check {shlex.quote(str(csv))}"


def _done_since_blend(workspace: Workspace, blend: Blend, n_folds: int) -> list[str]:
    """Runs and added members that the blend lacks, done after it was made. What it left out was there before."""
    made, blended = workspace.blend.stat().st_mtime, {run for runs in blend.runs.values() for run in runs}
    later = []
    for name in (name for name in list_runs(workspace) if name not in blended):
        added = workspace.members / name / "done.json"
        folds = [workspace.fold(name, fold) / "done.json" for fold in done_folds(workspace, name)]
        done = [added] if added.is_file() else folds if len(folds) == n_folds else []
        if any(path.stat().st_mtime > made for path in done):
            later.append(name)
    return later


def newest_csv(workspace: Workspace) -> Path | None:
    """The submission that was written last; the early one of the probes only where there is no other."""
    paths = workspace.submissions.glob("*.csv")
    return max(paths, key=lambda path: (not is_early(path), path.stat().st_mtime), default=None)


def status_json(workspace: Workspace, wanted: Wanted, *, same_place: str) -> dict[str, Any]:
    """`status` for scripts: the keys stay, and what is not there is null. same_place: flags of the next command.

    A fold is `done` with its figures, `held` by a process, or `lacking`; the refit on all images has no number.
    """
    missing, command = what_is_missing(workspace, wanted)
    held = dict(holders(workspace.lock("any").parent))
    n_folds = load_folds(workspace).n_folds if workspace.folds_csv.is_file() else None
    names = sorted({*wanted.runs, *runs(workspace)})
    return {
        "version": VERSION,
        "work": str(workspace.root),
        "n_folds": n_folds,
        "runs": [_run_json(workspace, name, wanted.runs, n_folds or 0, held) for name in names],
        "missing": [] if missing == NOTHING else missing,
        "held": [{"what": what, "machine": one.machine, "process": one.pid} for what, one in held.items()],
        "next": f"python run.py {command}{same_place}",
    }


def _run_json(
    workspace: Workspace, run: str, planned: Sequence[str], n_folds: int, held: Container[str]
) -> dict[str, Any]:
    done, refit = done_folds(workspace, run), done_refit(workspace, run)
    errors = [record["oof_top3_error"] for record in done.values()]

    def state(fold: int | None, record: Mapping[str, Any] | None) -> dict[str, Any]:
        state = "done" if record else "held" if str(JobKey(run, fold)) in held else "lacking"
        figures = {name: (record or {}).get(name) for name in ("oof_top3_error", "seconds", "views")}
        return {"fold": fold, "state": state, **figures}

    return {
        "run": run,
        "planned": run in planned,
        "folds": [state(fold, done.get(fold)) for fold in range(n_folds)],
        "refit": state(None, refit),
        "oof_top3_error": mean(errors) if errors else None,
        "sd": stdev(errors) if len(errors) > 1 else None,
    }
