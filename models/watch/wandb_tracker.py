"""Writes curves for Weights & Biases: a run for each fold, grouped by our run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from folds.base.workspace import Workspace, write_bytes
from models.watch.curves import Ending, TrackedJob, row_figures
from models.watch.events import EpochRow

PROJECT = "foldblend"  # unless WANDB_PROJECT says otherwise


class WandbTracker:
    """Logs as wandb is set up on this machine; where it is not, into local files, and nobody is asked for a key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._runs: dict[str, Any] = {}

    def begin(self, job: TrackedJob, rows: Sequence[EpochRow]) -> None:
        """Go on in the fold's last run, whose id was kept, if it is behind some epochs; else make a new one."""
        kept = self.folder / f"{job.run}.{job.part}.id"
        before = kept.read_text().strip() if rows and kept.is_file() else None
        run = self._runs[job.name] = self._init(job, before)
        write_bytes(kept, run.id.encode())
        if before is None:  # what stands there, it has; a later epoch of a killed process is refused by its step
            for row in rows:
                self.epoch(job, row)

    def epoch(self, job: TrackedJob, row: EpochRow) -> None:
        self._runs[job.name].log(row_figures(row), step=row.epoch)

    def end(self, job: TrackedJob, figures: Mapping[str, float], ending: Ending) -> None:
        run = self._runs.pop(job.name)
        for name, value in figures.items():
            run.summary[f"fold/{name}"] = value
        run.finish(exit_code=0 if ending == "done" else 1)

    def _init(self, job: TrackedJob, before: str | None) -> Any:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=job.run,
            name=job.name,
            id=before,
            resume="allow" if before else None,
            config=dict(job.settings),
            dir=str(self.folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline"),
            reinit="create_new",  # folds may run side by side
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True
            ),
        )


def make_tracker(workspace: Workspace) -> WandbTracker:
    """The tracker of a work folder; what is not sent lies below `work/wandb`."""
    return WandbTracker(workspace.root / "wandb")
