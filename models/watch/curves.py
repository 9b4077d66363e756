"""Draws the epochs of every fold in TensorBoard and Weights & Biases; no epoch stands there twice."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from folds.base.errors import UserError, visible
from folds.base.workspace import Workspace, write_bytes
from models.settings import TrackSettings
from models.train.log import read_log_line
from models.watch.events import EpochRow, FoldDone, FoldFailed, FoldStarted, JobEvent, Verdict, fold_name

TRACKERS = {"tensorboard": "TensorBoard", "wandb": "W&B"}  # a flag, an extra and a package, and its name for people
PROJECT = "foldblend"  # in W&B, unless WANDB_PROJECT says otherwise


class Curves(Protocol):
    """The curves of one job in one tracker. They begin with the epochs that are done; those drawn before are void."""

    def epoch(self, row: EpochRow) -> None: ...

    def end(self, figures: Mapping[str, float], *, is_done: bool) -> None:
        """Nothing more comes of this job. figures: of the whole fold, empty unless it is done."""
        ...


@dataclass(frozen=True)
class DrawnJob:
    """What curves are drawn of: a fold of a run (None: all images), and its settings as plain values by name."""

    run: str
    fold: int | None
    settings: Mapping[str, Any]

    @property
    def part(self) -> str:
        return "all" if self.fold is None else f"fold{self.fold}"


class TensorBoardCurves:
    """Event files in `work/tensorboard/<run>/fold<k>`."""

    def __init__(self, workspace: Workspace, job: DrawnJob, rows: Sequence[EpochRow]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.settings = job.settings
        folder = workspace.root / "tensorboard" / job.run / job.part
        self.writer = SummaryWriter(str(folder), purge_step=0)  # every older point is at or behind step 0
        table = "\n".join(f"| {name} | {value} |" for name, value in job.settings.items())
        self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{table}", 0)
        for row in rows:
            self.epoch(row)

    def epoch(self, row: EpochRow) -> None:
        for name, value in row_figures(row).items():
            self.writer.add_scalar(name.replace(" ", "_"), value, row.epoch)
        self.writer.flush()

    def end(self, figures: Mapping[str, float], *, is_done: bool) -> None:
        if is_done:
            plain = {
                name: one if isinstance(one, bool | int | float | str) else str(one)
                for name, one in self.settings.items()
            }
            named = {f"fold/{name.replace(' ', '_')}": value for name, value in figures.items()}
            self.writer.add_hparams(plain, named, run_name=".")
        self.writer.close()


class WandbCurves:
    """A W&B run, grouped by our run; local files in `work/wandb` where this machine is not logged in."""

    def __init__(self, workspace: Workspace, job: DrawnJob, rows: Sequence[EpochRow]) -> None:
        import wandb

        folder = workspace.root / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{job.run}.{job.part}.id"
        before = kept.read_text().strip() if rows and kept.is_file() else None
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=job.run,
            name=fold_name(job.run, job.fold),
            id=before,
            resume="allow" if before else None,
            config=dict(job.settings),
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline"),
            reinit="create_new",  # folds may run side by side
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True
            ),
        )
        write_bytes(kept, self.run.id.encode())
        for row in [] if before else rows:  # a run that goes on has them, and refuses a step that it has
            self.epoch(row)

    def epoch(self, row: EpochRow) -> None:
        self.run.log(row_figures(row), step=row.epoch)

    def end(self, figures: Mapping[str, float], *, is_done: bool) -> None:
        for name, value in figures.items():
            self.run.summary[f"fold/{name}"] = value
        self.run.finish(exit_code=0 if is_done else 1)


OPEN: dict[str, Callable[[Workspace, DrawnJob, Sequence[EpochRow]], Curves]] = {
    "tensorboard": TensorBoardCurves,
    "wandb": WandbCurves,
}


@dataclass
class Tracking:
    """Passes what happens to jobs on to trackers.

    say  called with a sentence when a tracker fails, as where its server is gone: it is left out, training goes on
    """

    workspace: Workspace
    trackers: list[str]
    say: Callable[[str], object]
    _open: dict[tuple[str, int | None], dict[str, Curves]] = field(default_factory=dict)
    _figures: dict[tuple[str, int | None], dict[str, float]] = field(default_factory=dict)  # of verdicts

    def take(self, happened: JobEvent) -> None:
        job, event = (happened.run, happened.fold), happened.event
        if isinstance(event, FoldStarted | FoldFailed):  # after a start, the process that did the job before is gone
            self._end(job, {}, is_done=False)
        elif isinstance(event, EpochRow):
            self._begin(job, before=event.epoch)
            self._each(job, lambda curves: curves.epoch(event))
        elif isinstance(event, Verdict):
            self._figures[job] = {"train top-3 error": event.train_top3_error, "train loss": event.train_loss}
        elif isinstance(event, FoldDone) and event.trained:
            self._begin(job)
            figures = {"OOF top-3 error": event.top3_error, "seconds": event.seconds, **self._figures.pop(job, {})}
            self._end(job, {name: one for name, one in figures.items() if one is not None}, is_done=True)

    def close(self) -> None:
        """End what is still open: the command was stopped."""
        for job in list(self._open):
            self._end(job, {}, is_done=False)

    def _begin(self, job: tuple[str, int | None], *, before: float = math.inf) -> None:
        if job in self._open:
            return
        self._open[job] = {}
        for name in list(self.trackers):
            with self._left_out_if_it_fails(name):
                drawn = DrawnJob(*job, settings=read_settings(self.workspace, *job))
                rows = [row for row in read_rows(self.workspace, *job) if row.epoch < before]
                self._open[job][name] = OPEN[name](self.workspace, drawn, rows)

    def _each(self, job: tuple[str, int | None], do: Callable[[Curves], None]) -> None:
        for name, curves in self._open[job].items():
            if name in self.trackers:
                with self._left_out_if_it_fails(name):
                    do(curves)

    def _end(self, job: tuple[str, int | None], figures: Mapping[str, float], *, is_done: bool) -> None:
        if job in self._open:
            self._each(job, lambda curves: curves.end(figures, is_done=is_done))
            del self._open[job]

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as err:  # of whatever library: hours of training must not end for a curve
            self.trackers.remove(name)
            self.say(f"{TRACKERS[name]} logging stopped: {type(err).__name__}: {visible(str(err))}")


@contextmanager
def tracking(workspace: Workspace, settings: TrackSettings, *, say: Callable[[str], object]) -> Iterator[Tracking]:
    """Follow what happens inside with the trackers that are on; one whose package is absent is refused."""
    refuse_absent(settings)
    trackers = Tracking(workspace, [name for name in TRACKERS if getattr(settings, name)], say)
    try:
        yield trackers
    finally:
        trackers.close()


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


def read_rows(workspace: Workspace, run: str, fold: int | None) -> list[EpochRow]:
    """The epochs in a fold's `log.jsonl`; none where it cannot be read."""
    folder = workspace.refit(run) if fold is None else workspace.fold(run, fold)
    try:
        return [read_log_line(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError):
        return []


def read_settings(workspace: Workspace, run: str, fold: int | None) -> dict[str, Any]:
    """What a fold's `settings.json` says, in one level; lists as text."""
    folder = workspace.refit(run) if fold is None else workspace.fold(run, fold)
    stored: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    known = {"run", "backbone", "weights", "seed", "folds_digest"}
    flat = {**{key: stored[key] for key in sorted(known & stored.keys())}, **stored["settings"]}
    return {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in flat.items()}
