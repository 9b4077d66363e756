"""Estimates how long jobs take, by the epochs that were seen and, for runs without any, by their size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

import timm
import torch

from folds.base.workspace import Workspace
from models.runs import read_log_line
from models.sizes import train_size
from models.train.fold import Job
from models.watch.events import EpochRow


@dataclass
class Costs:
    """jobs: by run and fold; seconds: of each epoch that was seen of a run; done: epochs that a job has behind it."""

    jobs: Mapping[tuple[str, int | None], Job]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    done: dict[tuple[str, int | None], int] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)

    def read_logs(self, workspace: Workspace) -> None:
        """See the epochs of earlier processes."""
        for (run, fold), job in self.jobs.items():
            for row in _logged(workspace, job):
                self.saw(run, fold, row)

    def saw(self, run: str, fold: int | None, row: EpochRow) -> None:
        self.seconds.setdefault(run, []).append(row.seconds)
        self.done[run, fold] = row.epoch

    def left(self, run: str, fold: int | None) -> float:
        """Seconds that a job will take, about; where no epoch of any run was seen, only which job takes longer."""
        job = self.jobs[run, fold]
        epochs = job.settings.epochs - self.done.get((run, fold), 0)
        if run in self.seconds:
            return epochs * median(self.seconds[run])
        speeds = [median(seconds) / self._size(other) for other, seconds in self.seconds.items()]
        return epochs * self._size(run) * (median(speeds) if speeds else 1.0)

    def _size(self, run: str) -> float:
        """What an epoch costs in no unit: parameters x pixels, as a convolution does."""
        if run not in self.sizes:
            job = next(job for (name, _), job in self.jobs.items() if name == run)
            self.sizes[run] = _parameters(job) * train_size(job.settings, job.backbone) ** 2
        return self.sizes[run]


def _logged(workspace: Workspace, job: Job) -> Iterable[EpochRow]:
    path = job.folder(workspace) / "log.jsonl"
    try:
        return [read_log_line(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError):
        return []  # absent or damaged: it is only for the order


def _parameters(job: Job) -> int:
    with torch.device("meta"):  # shapes alone
        network = timm.create_model(job.backbone.tag, pretrained=False)
    return sum(parameter.numel() for parameter in network.parameters())
