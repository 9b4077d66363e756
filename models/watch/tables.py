"""Lines for training events, and the table of all runs and folds."""

from __future__ import annotations

import functools
import math
from statistics import mean, stdev

from rich.table import Table

from folds.base.terminal import duration, figures, pace
from folds.base.workspace import Workspace
from models.runs import done_folds, done_refit, runs
from models.watch import events
from models.watch.events import Event, Happened, JobKey, JobProgress

EPOCH_HEAD = "  epoch       lr    px  train loss  valid loss   err@1   err@3  images/s   time"  # fits 80 columns


def job_lines(happened: Happened) -> list[str]:
    """The lines of an event, none of progress; for a job on Ray each begins with the job and its machine."""
    if isinstance(happened, JobProgress):
        return []
    lines = event_lines(happened.key, happened.event)
    if not happened.place:
        return lines
    named = (f"{happened.key.name}: ", f"{happened.key.run}: ", "  ")  # which stands in front already
    return [f"{_where(happened)} | {functools.reduce(str.removeprefix, named, line)}" for line in lines]


def event_lines(key: JobKey, event: Event) -> list[str]:
    """Lines for an event: the table's head when a fold starts, a row per epoch, a line at its end."""
    match event:
        case events.FoldStarted():
            facts = f"{event.n_train:,} training and {event.n_valid:,} valid images, {event.image_size} pixels"
            how = f"peak rate {event.lr:.1e}{', head from its probe' if event.is_probed else ''}"
            where = f"{event.precision} on {event.device}"
            return [f"{key.name}: {event.tag}, {facts}{_small_store(event)}, {how}, {where}", EPOCH_HEAD]
        case events.EpochRow():
            values = (event.train_loss, event.valid_loss, event.valid_top1_error, event.valid_top3_error)
            train, valid, top1, top3 = ("-" if math.isnan(one) else f"{one:.4f}" for one in values)  # -: none kept out
            row = f"  {event.epoch:5d}  {event.lr:7.1e}  {event.image_size:4d}  {train:>10}  {valid:>10}  {top1:>6}"
            return [f"{row}  {top3:>6}  {event.images_per_second:8,.0f}  {duration(event.seconds):>5}"]
        case events.FoldResumed():
            return [f"  goes on after epoch {event.epoch} of {event.epochs}, from its checkpoint"]
        case events.CheckpointRefused():
            return [f"  starts over: {event.path} {event.why}"]
        case events.FoldHeld():
            return [f"{event.name}: another process is working on it ({event.holder}); waiting, safe to interrupt"]
        case events.FoldMoved():
            return [f"{event.name}: {event.why}; begun again from its last checkpoint"]
        case events.FoldFailed():
            return [f"{event.name}: failed"]
        case events.MemoryShort():
            at_a_time = f"{event.micro_batch} images at a time from now on, still {event.batch_size} a step"
            return [f"  out of memory: {at_a_time}"]
        case events.Verdict():
            return _verdict_lines(event)
        case events.FoldDone():
            before = f"was done before, views {', '.join(event.views)}"
            how = f"done in {duration(event.seconds)}" if event.trained else before
            score = "" if event.top3_error is None else f"OOF top-3 error {event.top3_error:.4f}, "
            return [f"{key.name}: {score}{how}"]
        case events.PredictStarted():
            kept = f"; {', '.join(event.kept)} {'are' if len(event.kept) > 1 else 'is'} there" if event.kept else ""
            what = f"{', '.join(event.views)} by {event.networks} network{'s' if event.networks > 1 else ''}"
            return [f"{key.run}: predicts {what}{_small_store(event)}{kept}"]
        case events.FoldPredicted():
            score = "" if event.top3_error is None else f"top-3 error {event.top3_error:.4f} over "
            return [f"{key.name}: predicted again, {score}{', '.join(event.views)}"]
        case events.ProbeStarted():
            facts = f"{event.n_train:,} training and {event.n_test:,} test images, {event.image_size} pixels"
            where = f"{event.precision} on {event.device}"
            return [f"{key.run}: {event.tag}, frozen, {facts}{_small_store(event)}, {where}"]
        case events.ProbeFitted():
            strengths = ", ".join(f"{strength:.3g}" for strength in event.strengths)
            heads = f"heads of {len(event.strengths)} folds in {duration(event.heads_seconds)}, strength {strengths}"
            return [f"{key.run}: features in {duration(event.features_seconds)}, {heads}"]
        case events.NeighboursChosen():
            votes = f"{event.count} neighbours at a temperature of {event.temperature:g}, prototypes {event.share:.0%}"
            votes += f" times the class shares to the power of {event.prior:g}"
            spent = (event.features_seconds, event.choice_seconds, event.search_seconds)
            features, choice, search = map(duration, spent)
            searched = f"choice in {choice}, search in {search} ({event.images_per_second:,.0f} images/s)"
            return [f"{key.name}: {votes}; features in {features}, {searched}"]


def progress_line(progress: JobProgress) -> str:
    """A line of a job's progress on Ray."""
    speed = f", {pace(progress.per_second, progress.unit)}" if progress.per_second else ""
    return f"{_where(progress)} | {progress.what}: {progress.done:,}/{progress.total:,} {progress.unit}{speed}"


def _where(happened: Happened) -> str:
    fold = "" if happened.key.fold is None else f" fold {happened.key.fold}"
    return f"{happened.key.run}{fold}{f' on {happened.place}' if happened.place else ''}"


def _small_store(event: events.FoldStarted | events.PredictStarted | events.ProbeStarted) -> str:
    if event.largest_size <= event.store_size:
        return ""
    return f" (the store keeps {event.store_size} of {event.largest_size}: `prepare --store-size` keeps more)"


def _verdict_lines(verdict: events.Verdict) -> list[str]:
    fell = "took" if verdict.gained >= 0 else "added", "off" if verdict.gained >= 0 else "to"
    scores = (
        f"  (valid and training images alike: loss {verdict.valid_loss:.4f} and {verdict.train_loss:.4f}, "
        f"top-3 error {verdict.valid_top3_error:.4f} and {verdict.train_top3_error:.4f}; "
        f"the last epochs {fell[0]} {abs(verdict.gained):.1%} {fell[1]} the valid loss)"
    )
    against = verdict.against_probe
    if against is None or not against.is_better:
        return [f"  {verdict.kind}: {verdict.advice}", scores]
    how = "" if against.top3_error < against.probe_top3_error else " in log loss, and in top 3 within chance of it"
    ahead = f"  (better than its own frozen probe{how}: {against.figures})"
    return [f"  {verdict.kind}: {verdict.advice}", scores, ahead]


def status_table(workspace: Workspace, planned: list[str], *, n_folds: int | None) -> Table:
    """Runs x folds: the OOF top-3 error of each fold that is done, `.` for one that is not, and the mean +- spread.

    Where any run was refitted on all images, a column `all` has an `x` for each that was.
    """
    names, folds = sorted({*planned, *runs(workspace)}), range(n_folds or 0)
    refits = {run for run in names if done_refit(workspace, run) is not None}
    numbers = [*(f"fold {fold}" for fold in folds), "mean +- sd"]
    table = figures("OOF top-3 error", texts=("run",), numbers=numbers)
    if refits:
        table.add_column("all")
    for run in names:
        done = done_folds(workspace, run)
        errors = [one["oof_top3_error"] for one in done.values()]
        cells = [f"{done[fold]['oof_top3_error']:.4f}" if fold in done else "." for fold in folds]
        average = f"{mean(errors):.4f}" if errors else ""
        spread = f" +- {stdev(errors):.4f}" if len(errors) > 1 else ""
        table.add_row(run, *cells, average + spread, *(["x" if run in refits else "."] if refits else []))
    return table
