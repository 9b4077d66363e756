"""Follows training with trackers such as TensorBoard: one small interface, fed from the stream of events."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from folds.base.errors import UserError, visible
from folds.base.workspace import Workspace
from models.settings import TrackSettings
from models.train.log import read_log_line
from models.watch.events import (
    EpochRow,
    FoldDone,
    FoldFailed,
    FoldResumed,
    FoldStarted,
    JobEvent,
    JobProgress,
    Verdict,
    fold_name,
)
from models.watch.live_table import JobKey

Ending = Literal["done", "failed", "stopped"]
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}  # a flag, an extra, what it imports


@dataclass(frozen=True)
class TrackedJob:
    """One fold of a run, None for the refit. settings: what the run was begun with, names to plain values."""

    run: str
    fold: int | None
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return fold_name(self.run, self.fold)

    @property
    def part(self) -> str:
        """The fold among those of its run: `fold0`, `all`."""
        return "all" if self.fold is None else f"fold{self.fold}"


class Tracker(Protocol):
    """What shows curves elsewhere. A fold that goes on continues its curves; no epoch may stand in them twice."""

    def begin(self, job: TrackedJob, rows: Sequence[EpochRow]) -> None:
        """A fold begins, or goes on behind these epochs; curves from before that begin anew are void."""
        ...

    def epoch(self, job: TrackedJob, row: EpochRow) -> None:
        """One more epoch is done."""
        ...

    def end(self, job: TrackedJob, figures: Mapping[str, float], ending: Ending) -> None:
        """Nothing more comes of this fold. figures: of the whole fold, empty unless it is done."""
        ...


@dataclass
class Tracking:
    """Tells trackers what events mean: which fold begins behind which epochs, each epoch, and how it ends.

    say  called with a sentence when a tracker fails, as where its server is gone: it is told no more, training goes on
    """

    workspace: Workspace
    trackers: list[Tracker]
    say: Callable[[str], object]
    _started: dict[JobKey, tuple[EpochRow, ...]] = field(default_factory=dict)  # the epochs that it goes on behind
    _open: dict[JobKey, TrackedJob] = field(default_factory=dict)
    _verdicts: dict[JobKey, dict[str, float]] = field(default_factory=dict)

    def take(self, happened: JobEvent | JobProgress) -> None:
        """Pass on what trackers want to know of an event."""
        if isinstance(happened, JobProgress):
            return
        key, event = (happened.run, happened.fold), happened.event
        if isinstance(event, FoldStarted):
            if key in self._open:  # the process that was at work on it is gone, and another one goes on
                self._end(key, {}, "stopped")
            self._started[key] = ()
        elif isinstance(event, FoldResumed):
            self._started[key] = tuple(read_rows(self.workspace, *key)[: event.epoch])
        elif isinstance(event, EpochRow):
            job = self._begun(key)
            self._tell(lambda tracker: tracker.epoch(job, event))
        elif isinstance(event, Verdict):
            self._verdicts[key] = {"train top-3 error": event.train_top3_error, "train loss": event.train_loss}
        elif isinstance(event, FoldDone) and event.trained:
            self._begun(key)
            scores = {"OOF top-3 error": event.top3_error, "seconds": event.seconds, **self._verdicts.get(key, {})}
            self._end(key, {name: value for name, value in scores.items() if value is not None}, "done")
        elif isinstance(event, FoldFailed):
            for other in [one for one, job in self._open.items() if job.name == event.name]:
                self._end(other, {}, "failed")

    def close(self) -> None:
        """End what is still open: the command was stopped."""
        for key in list(self._open):
            self._end(key, {}, "stopped")

    def _begun(self, key: JobKey) -> TrackedJob:
        if key not in self._open:
            job = self._open[key] = TrackedJob(*key, settings=read_settings(self.workspace, *key))
            self._tell(lambda tracker: tracker.begin(job, self._started.get(key, ())))
        return self._open[key]

    def _end(self, key: JobKey, figures: Mapping[str, float], ending: Ending) -> None:
        job = self._open.pop(key)
        self._tell(lambda tracker: tracker.end(job, figures, ending))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                what(tracker)
            except Exception as err:  # of whatever library: hours of training must not end for a curve
                self.trackers.remove(tracker)
                self.say(f"{type(tracker).__name__} is told no more: {type(err).__name__}: {visible(str(err))}")


@contextmanager
def tracking(workspace: Workspace, settings: TrackSettings, *, say: Callable[[str], object]) -> Iterator[Tracking]:
    """Follow what happens inside with the trackers that are on; one whose package is absent is refused."""
    refuse_absent(settings)
    names = [one.name for one in dataclasses.fields(settings) if getattr(settings, one.name)]
    made = [importlib.import_module(f"models.watch.{name}_tracker").make_tracker(workspace) for name in names]
    told = Tracking(workspace, made, say)
    try:
        yield told
    finally:
        told.close()


def refuse_absent(settings: TrackSettings) -> None:
    """Refuse a tracker whose package is not installed, and say how to install it."""
    for name, package in PACKAGES.items():
        if getattr(settings, name) and importlib.util.find_spec(package) is None:
            raise UserError(
                f"`--{name}` needs the package {package}, which is not installed", hint=f"`pip install -e '.[{name}]'`"
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
