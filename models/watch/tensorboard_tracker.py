"""Writes curves for TensorBoard: a folder of event files for each fold, those of a run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from folds.base.workspace import Workspace
from models.watch.curves import Ending, TrackedJob, row_figures
from models.watch.events import EpochRow


class TensorBoardTracker:
    """Writes `<folder>/<run>/fold<k>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def begin(self, job: TrackedJob, rows: Sequence[EpochRow]) -> None:
        """Void all points of earlier processes, and write those that stand again."""
        place = self.folder / job.run / job.part
        self._writers[job.name] = SummaryWriter(str(place), purge_step=0)  # every older point is at or behind step 0
        table = "\n".join(f"| {name} | {value} |" for name, value in job.settings.items())
        self._writers[job.name].add_text("settings", f"| setting | value |\n|---|---|\n{table}", 0)
        for row in rows:
            self.epoch(job, row)

    def epoch(self, job: TrackedJob, row: EpochRow) -> None:
        writer = self._writers[job.name]
        for name, value in row_figures(row).items():
            writer.add_scalar(name.replace(" ", "_"), value, row.epoch)
        writer.flush()

    def end(self, job: TrackedJob, figures: Mapping[str, float], ending: Ending) -> None:
        writer = self._writers.pop(job.name)
        if ending == "done":
            known = {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in job.settings.items()
            }
            writer.add_hparams(
                known, {f"fold/{name.replace(' ', '_')}": value for name, value in figures.items()}, run_name="."
            )
        writer.close()


def make_tracker(workspace: Workspace) -> TensorBoardTracker:
    """The tracker of a work folder: `tensorboard --logdir work/tensorboard` shows it."""
    return TensorBoardTracker(workspace.root / "tensorboard")
