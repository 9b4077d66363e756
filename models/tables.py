"""This file turns training events and the state of runs into lines and tables for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from folds.workspace import Workspace
from models.events import Event, FoldDone, FoldStarted
from models.runs import done_folds, runs

EPOCH_HEAD = "  epoch       lr  train loss  valid loss  top-1 err  top-3 err   images/s   time"


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds + 0.5) // 60}:{int(seconds + 0.5) % 60:02d}"


def event_lines(event: Event) -> list[str]:
    """What the screen says of a training event: a head when a fold starts, a row per epoch, a line at its end."""
    if isinstance(event, FoldStarted):
        facts = f"{event.n_train:,} training and {event.n_valid:,} valid images, {event.image_size} pixels"
        if event.image_size > event.store_size:
            facts += f" (the store keeps {event.store_size}: `prepare --store-size` keeps more)"
        return [f"{event.run} fold {event.fold}: {event.tag}, {facts}, {event.precision} on {event.device}", EPOCH_HEAD]
    if isinstance(event, FoldDone):
        how = f"done in {clock(event.seconds)}" if event.trained else f"was done before, views {', '.join(event.views)}"
        return [f"{event.run} fold {event.fold}: OOF top-3 error {event.top3_error:.4f}, {how}"]
    return [
        f"  {event.epoch:5d}  {event.lr:7.1e}  {event.train_loss:10.4f}  {event.valid_loss:10.4f}  "
        f"{event.valid_top1_error:9.4f}  {event.valid_top3_error:9.4f}  {event.images_per_second:9,.0f}  "
        f"{clock(event.seconds):>5}"
    ]


def status_table(workspace: Workspace, planned: list[str], *, n_folds: int | None) -> Table:
    """Runs x folds: the OOF top-3 error of each fold that is done, `.` for one that is not, and the mean +- spread."""
    table = Table(title="OOF top-3 error", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("run")
    for fold in range(n_folds or 0):
        table.add_column(f"fold {fold}", justify="right")
    table.add_column("mean +- sd", justify="right")
    for run in sorted({*planned, *runs(workspace)}):
        done = done_folds(workspace, run)
        errors = [done[fold]["oof_top3_error"] for fold in done]
        cells = [f"{done[fold]['oof_top3_error']:.4f}" if fold in done else "." for fold in range(n_folds or 0)]
        table.add_row(run, *cells, _mean_and_spread(errors))
    return table


def _mean_and_spread(errors: list[float]) -> str:
    if not errors:
        return ""
    mean = sum(errors) / len(errors)
    if len(errors) == 1:
        return f"{mean:.4f}"
    spread = (sum((error - mean) ** 2 for error in errors) / (len(errors) - 1)) ** 0.5
    return f"{mean:.4f} +- {spread:.4f}"
