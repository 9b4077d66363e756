"""Decides a run's peak learning rate: the one that is set, or one that a sweep finds, once for all folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folds.base.progress import Track
from folds.base.workspace import Workspace, read_json, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.train.job import Job, make_trainer
from models.train.lr_find import Sweep, sweep


@dataclass(frozen=True)
class FoundRate:
    """What a sweep on one fold's training part found, and the files that tell of it."""

    run: str
    fold: int
    sweep: Sweep
    json: Path
    picture: Path


def peak_rate(workspace: Workspace, job: Job, folds: Folds, store: PixelStore, *, track: Track) -> float:
    """The peak rate of a job: `--lr`, or with `find` the run's own from `lr-find.json`, made where it is absent."""
    lr = job.settings.lr
    if lr != "find":
        return lr
    path = _json(workspace, job)
    stored = read_json(path, hint=f"remove {path}") if path.is_file() else {}
    if stored.get("of") == _of(job):
        return float(stored["suggested"])
    return find_rate(workspace, job, folds, store, track=track).sweep.suggested


def find_rate(workspace: Workspace, job: Job, folds: Folds, store: PixelStore, *, track: Track) -> FoundRate:
    """Sweep the rates on a job's training part, write `lr-find.json` and `lr-find.png` into the run's folder."""
    from models.train.lr_picture import draw_sweep  # matplotlib takes half a second to import

    trainer = make_trainer(workspace, job, folds, store, lr=1.0, track=track)
    found = sweep(trainer, track=track)
    path = _json(workspace, job)
    draw_sweep(path.with_suffix(".png"), found, title=f"{job.plan.name}, fold {job.fold}: {job.backbone.tag}")
    curve = {"rates": found.rates.tolist(), "losses": found.losses.tolist()}
    marks = {"suggested": found.suggested, "steepest": found.steepest, "lowest": found.lowest}
    write_json(path, {"of": _of(job), "fold": job.fold, **marks, **curve})
    return FoundRate(job.plan.name, job.fold or 0, found, path, path.with_suffix(".png"))


def _json(workspace: Workspace, job: Job) -> Path:
    return workspace.models / job.plan.name / "lr-find.json"


def _of(job: Job) -> dict[str, Any]:
    """What the sweep depends on; the rate itself is what it finds."""
    settings = {key: value for key, value in job.settings_json["settings"].items() if key != "lr"}
    return {**job.settings_json, "settings": settings}
