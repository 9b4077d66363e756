"""Lines for training events, and the table of all runs and folds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from folds.base.workspace import Workspace
from models.runs import done_folds, done_refit, runs
from models.watch.events import (
    CheckpointRefused,
    EpochRow,
    Event,
    FoldDone,
    FoldFailed,
    FoldHeld,
    FoldMoved,
    FoldPredicted,
    FoldResumed,
    FoldStarted,
    JobEvent,
    JobProgress,
    MemoryShort,
    ProbeEvent,
    ProbeFitted,
    ProbeStarted,
    Verdict,
    fold_name,
)

EPOCH_HEAD = "  epoch       lr    px  train loss  valid loss  top-1 err  top-3 err   images/s   time"


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds + 0.5) // 60}:{int(seconds + 0.5) % 60:02d}"


def event_lines(event: Event) -> list[str]:
    """Lines for a training event: the table's head when a fold starts, a row per epoch, a line at its end."""
    match event:
        case FoldStarted():
            facts = f"{event.n_train:,} training and {event.n_valid:,} valid images, {event.image_size} pixels"
            how = f"peak rate {event.lr:.1e}{', head from its probe' if event.is_probed else ''}"
            name, where = fold_name(event.run, event.fold), f"{event.precision} on {event.device}"
            return [f"{name}: {event.tag}, {facts}{_small_store(event)}, {how}, {where}", EPOCH_HEAD]
        case EpochRow():
            return [_epoch_line(event)]
        case FoldResumed():
            return [f"  goes on after epoch {event.epoch} of {event.epochs}, from its checkpoint"]
        case CheckpointRefused():
            return [f"  starts over: {event.path} {event.why}"]
        case FoldHeld():
            holder = f"another process is working on it ({event.holder})"
            return [f"{fold_name(event.run, event.fold)}: {holder}; waiting, safe to interrupt"]
        case FoldMoved():
            return [f"{fold_name(event.run, event.fold)}: {event.why}; begun again from its last checkpoint"]
        case FoldFailed():
            return [f"{event.name}: failed"]
        case MemoryShort():
            at_a_time = f"{event.micro_batch} images at a time from now on, still {event.batch_size} a step"
            return [f"  out of memory: {at_a_time}"]
        case Verdict():
            return _verdict_lines(event)
        case FoldDone():
            how = (
                f"done in {clock(event.seconds)}"
                if event.trained
                else f"was done before, views {', '.join(event.views)}"
            )
            score = "" if event.top3_error is None else f"OOF top-3 error {event.top3_error:.4f}, "
            return [f"{fold_name(event.run, event.fold)}: {score}{how}"]


def job_lines(happened: JobEvent | JobProgress, lines_of: Callable[[Any], list[str]] = event_lines) -> list[str]:
    """The lines of an event; for a job on Ray each begins with the job and its machine."""
    if isinstance(happened, JobProgress):
        return []
    lines = lines_of(happened.event)
    if not happened.place:
        return lines
    named = f"{fold_name(happened.run, happened.fold)}: "  # which stands in front already
    return [f"{_where(happened)} | {line.removeprefix(named).removeprefix('  ')}" for line in lines]


def progress_line(progress: JobProgress) -> str:
    """A line of a job's progress on Ray."""
    speed = f", {progress.per_second:,.0f} {progress.unit}/s" if progress.per_second else ""
    return f"{_where(progress)} | {progress.what}: {progress.done:,}/{progress.total:,} {progress.unit}{speed}"


def _where(happened: JobEvent | JobProgress) -> str:
    fold = "" if happened.fold is None else f" fold {happened.fold}"
    return f"{happened.run}{fold}{f' on {happened.place}' if happened.place else ''}"


def probe_lines(event: ProbeEvent | Event) -> list[str]:
    """Lines for an event of a probe: backbone and images, then seconds and strengths of the heads, a line per fold."""
    if isinstance(event, ProbeStarted):
        facts = f"{event.n_train:,} training and {event.n_test:,} test images, {event.image_size} pixels"
        return [f"{event.run}: {event.tag}, frozen, {facts}{_small_store(event)}, {event.precision} on {event.device}"]
    if isinstance(event, ProbeFitted):
        strengths = ", ".join(f"{strength:.3g}" for strength in event.strengths)
        return [
            f"{event.run}: features in {clock(event.features_seconds)}, heads of {len(event.strengths)} folds in"
            f" {clock(event.heads_seconds)}, strength {strengths}"
        ]
    return event_lines(event)


def predicted_lines(event: FoldPredicted | Event, views: Sequence[str]) -> list[str]:
    """Lines for an event of predicting again."""
    if not isinstance(event, FoldPredicted):
        return event_lines(event)
    score = "" if event.top3_error is None else f"top-3 error {event.top3_error:.4f} over "
    return [f"{fold_name(event.run, event.fold)}: predicted again, {score}{', '.join(views)}"]


def _small_store(event: FoldStarted | ProbeStarted) -> str:
    if event.image_size <= event.store_size:
        return ""
    return f" (the store keeps {event.store_size}: `prepare --store-size` keeps more)"


def _epoch_line(row: EpochRow) -> str:
    return (
        f"  {row.epoch:5d}  {row.lr:7.1e}  {row.image_size:4d}  {row.train_loss:10.4f}  {figure(row.valid_loss):>10}  "
        f"{figure(row.valid_top1_error):>9}  {figure(row.valid_top3_error):>9}  {row.images_per_second:9,.0f}  "
        f"{clock(row.seconds):>5}"
    )


def figure(value: float) -> str:
    """Four decimals; a dash where nothing was kept out to be scored."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def _verdict_lines(verdict: Verdict) -> list[str]:
    fell = "took" if verdict.gained >= 0 else "added", "off" if verdict.gained >= 0 else "to"
    scores = (
        f"  (valid and training images alike: loss {verdict.valid_loss:.4f} and {verdict.train_loss:.4f}, "
        f"top-3 error {verdict.valid_top3_error:.4f} and {verdict.train_top3_error:.4f}; "
        f"the last epochs {fell[0]} {abs(verdict.gained):.1%} {fell[1]} the valid loss)"
    )
    against = verdict.against_probe
    if against is None or not against.is_better:
        return [f"  {verdict.kind}: {verdict.advice}", scores]
    ahead = (
        f"  (better than its own frozen probe: top-3 error {against.top3_error:.4f} against"
        f" {against.probe_top3_error:.4f}, log loss {against.loss:.4f} against {against.probe_loss:.4f})"
    )
    return [f"  {verdict.kind}: {verdict.advice}", scores, ahead]


def status_table(workspace: Workspace, planned: list[str], *, n_folds: int | None) -> Table:
    """Runs x folds: the OOF top-3 error of each fold that is done, `.` for one that is not, and the mean +- spread.

    Where any run was refitted on all images, a column `all` has an `x` for each that was.
    """
    table = Table(title="OOF top-3 error", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("run")
    for fold in range(n_folds or 0):
        table.add_column(f"fold {fold}", justify="right")
    table.add_column("mean +- sd", justify="right")
    names = sorted({*planned, *runs(workspace)})
    refits = {run for run in names if done_refit(workspace, run) is not None}
    if refits:
        table.add_column("all")
    for run in names:
        done = done_folds(workspace, run)
        errors = [done[fold]["oof_top3_error"] for fold in done]
        cells = [f"{done[fold]['oof_top3_error']:.4f}" if fold in done else "." for fold in range(n_folds or 0)]
        refit = ["x" if run in refits else "."] if refits else []
        table.add_row(run, *cells, _mean_and_spread(errors), *refit)
    return table


def _mean_and_spread(errors: list[float]) -> str:
    if len(errors) < 2:
        return f"{errors[0]:.4f}" if errors else ""
    return f"{mean(errors):.4f} +- {stdev(errors):.4f}"
