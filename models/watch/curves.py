"""Draws the epochs of every fold in TensorBoard and Weights & Biases; no epoch stands there twice."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from folds.base.errors import UserError, visible
from folds.base.workspace import Workspace, read_json, write_bytes
from models.runs import flat_settings, read_log
from models.settings import TrackSettings
from models.watch.events import EpochRow, FoldDone, FoldFailed, FoldStarted, JobEvent, JobKey, Verdict

PROJECT = "foldblend"  # in W&B, unless WANDB_PROJECT says otherwise


class TensorBoard:
    """Event files in `work/tensorboard/<run>/fold<k>`, begun with the epochs `rows`; older points are void."""

    def __init__(self, workspace: Workspace, key: JobKey, rows: Sequence[EpochRow]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.settings = read_settings(workspace, key)
        self.writer = SummaryWriter(str(workspace.root / "tensorboard" / key.run / key.part), purge_step=0)
        table = "\n".join(f"| {name} | {value} |" for name, value in self.settings.items())
        self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{table}", 0)
        for row in rows:
            self.epoch(row)

    def epoch(self, row: EpochRow) -> None:
        for name, value in row_figures(row).items():
            self.writer.add_scalar(name.replace(" ", "_"), value, row.epoch)
        self.writer.flush()

    def end(self, figures: Mapping[str, float]) -> None:
        """figures: of the whole fold; empty unless it is done."""
        if figures:
            plain = {
                name: one if isinstance(one, bool | int | float | str) else str(one)
                for name, one in self.settings.items()
            }
            named = {f"fold/{name.replace(' ', '_')}": value for name, value in figures.items()}
            self.writer.add_hparams(plain, named, run_name=".")
        self.writer.close()


class WeightsAndBiases:
    """A run of W&B, grouped by our run; local files in `work/wandb` where this machine is not logged in.

    A fold that goes on after the epochs `rows` does so under the id that it began with, and has them there already.
    """

    def __init__(self, workspace: Workspace, key: JobKey, rows: Sequence[EpochRow]) -> None:
        import wandb

        folder = workspace.root / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{key}.id"
        before = kept.read_text().strip() if rows and kept.is_file() else None
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=key.run,
            name=key.name,
            id=before,
            resume="allow" if before else None,
            config=read_settings(workspace, key),
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline"),
            reinit="create_new",  # folds may run side by side
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True
            ),
        )
        write_bytes(kept, self.run.id.encode())
        for row in [] if before else rows:
            self.epoch(row)

    def epoch(self, row: EpochRow) -> None:
        self.run.log(row_figures(row), step=row.epoch)

    def end(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.run.summary[f"fold/{name}"] = value
        self.run.finish(exit_code=0 if figures else 1)


Curves: TypeAlias = TensorBoard | WeightsAndBiases
TRACKERS: dict[str, type[Curves]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}  # by flag = package


@dataclass
class Tracking:
    """Draws what happens to jobs: their epochs, those of `log.jsonl` first, and the figures of whole folds.

    say  called with a sentence when a tracker fails, as where its server is gone: it is left out, training goes on
    """

    workspace: Workspace
    trackers: list[type[Curves]]
    say: Callable[[str], object]
    _open: dict[JobKey, list[Curves]] = field(default_factory=dict)
    _figures: dict[JobKey, dict[str, float]] = field(default_factory=dict)  # of verdicts

    def take(self, happened: JobEvent) -> None:
        job, event = happened.key, happened.event
        if isinstance(event, FoldStarted | FoldFailed):  # at a start, a process that did the job before is gone
            self._end(job, {})
        elif isinstance(event, EpochRow):
            self._begin(job, before=event.epoch)
            self._each(job, lambda curves: curves.epoch(event))
        elif isinstance(event, Verdict):
            self._figures[job] = {"train top-3 error": event.train_top3_error, "train loss": event.train_loss}
        elif isinstance(event, FoldDone) and event.trained:
            self._begin(job)
            figures = {"OOF top-3 error": event.top3_error, "seconds": event.seconds, **self._figures.pop(job, {})}
            self._end(job, {name: one for name, one in figures.items() if one is not None})

    def close(self) -> None:
        """End the curves of jobs that are not done: the command was stopped."""
        for job in list(self._open):
            self._end(job, {})

    def _begin(self, job: JobKey, *, before: float = math.inf) -> None:
        if job in self._open:
            return
        self._open[job] = []
        for tracker in list(self.trackers):
            with self._left_out_if_it_fails(tracker):
                rows = read_log(job.folder(self.workspace) / "log.jsonl")
                self._open[job].append(tracker(self.workspace, job, [row for row in rows if row.epoch < before]))

    def _each(self, job: JobKey, do: Callable[[Curves], None]) -> None:
        for curves in self._open[job]:
            if type(curves) in self.trackers:
                with self._left_out_if_it_fails(type(curves)):
                    do(curves)

    def _end(self, job: JobKey, figures: Mapping[str, float]) -> None:
        if job in self._open:
            self._each(job, lambda curves: curves.end(figures))
            del self._open[job]

    @contextmanager
    def _left_out_if_it_fails(self, tracker: type[Curves]) -> Iterator[None]:
        try:
            yield
        except Exception as err:  # of whatever library: hours of training must not end for a curve
            self.trackers.remove(tracker)
            self.say(f"{tracker.__name__} logging stopped: {type(err).__name__}: {visible(str(err))}")


@contextmanager
def tracking(workspace: Workspace, settings: TrackSettings, *, say: Callable[[str], object]) -> Iterator[Tracking]:
    """Follow what happens inside with the trackers that are on; one whose package is absent is refused."""
    refuse_absent(settings)
    wanted = [tracker for name, tracker in TRACKERS.items() if getattr(settings, name)]
    with closing(Tracking(workspace, wanted, say)) as trackers:
        yield trackers


def refuse_absent(settings: TrackSettings) -> None:
    """Refuse a tracker whose package is not installed, and say how to install it."""
    for name in TRACKERS:
        if getattr(settings, name) and importlib.util.find_spec(name) is None:
            raise UserError(
                f"`--{name}` needs the package {name}, which is not installed", hint=f"`pip install -e '.[{name}]'`"
            )


def row_figures(row: EpochRow) -> dict[str, float]:
    """An epoch's figures under the names that all trackers show; those of nothing (NaN) are left out."""
    figures = {
        "loss/train": row.train_loss,
        "loss/valid": row.valid_loss,
        "error/top-1": row.valid_top1_error,
        "error/top-3": row.valid_top3_error,
        "speed/images per second": row.images_per_second,
        "speed/seconds": row.seconds,
        "rate": row.lr,
    }
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def read_settings(workspace: Workspace, key: JobKey) -> dict[str, Any]:
    """What a fold's `settings.json` says, in one level; lists as text."""
    flat = flat_settings(read_json(key.folder(workspace) / "settings.json", hint=""))
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in flat.items()}
