"""Compares two runs on the same out-of-fold images: paired differences, and the images that changed."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensemble.members.members import Member, Members, read_members
from ensemble.members.open_run import list_runs, open_run
from ensemble.members.training_rows import Rows, rows_of
from folds.base.errors import UserError, visible
from folds.base.metrics import top_classes, true_rank
from folds.base.paired import Difference, paired_difference
from folds.base.workspace import Workspace, write_bytes
from folds.split.assign import load_folds

K = 3  # guesses that count
FLOOR = 1e-15  # a lower probability of the true class counts as this one, as in `folds.base.metrics.log_loss`
SHOWN = 5  # changed images of either kind


@dataclass(frozen=True)
class Measure:
    """One loss of both runs, and their paired difference: below 0 the first run is better."""

    name: str
    losses: tuple[float, float]
    difference: Difference


@dataclass(frozen=True)
class Change:
    """An image that only one of the runs has among its first three. better: 0 or 1; guesses: three of each."""

    image_id: str
    label: str
    fold: int
    better: int
    ranks: tuple[int, int]  # of the true class, 0 is first
    true_probs: tuple[float, float]
    guesses: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Comparison:
    """Two runs on `images` images. changes: those that the first run lost come first, the largest change first."""

    names: tuple[str, str]
    images: int
    measures: tuple[Measure, ...]
    changes: tuple[Change, ...]
    path: Path  # of the CSV with all changes


def compare_runs(workspace: Workspace, first: str, second: str) -> Comparison:
    """Compare two runs, or added members, and write `report/compare-A-B.csv`.

    Raises UserError where both are the same, one is not there, lacks folds, or belongs to other folds.
    """
    known = list_runs(workspace)
    if first == second:
        others = [name for name in known if name != first]
        hint = f"`python run.py compare {first} {others[0]}`" if others else "`python run.py train` makes another run"
        raise UserError(f"{first} cannot be compared with itself", hint=hint)
    if "blend" in (first, second) and "blend" not in known:
        raise UserError(
            "the blend cannot be compared: its weights were fitted on the images that it would be compared on",
            hint="`python run.py blend` shows its cross-fitted loss beside each member's",
        )
    rows = rows_of(load_folds(workspace))
    members = read_members(rows, [Member(name, (open_run(workspace, name, rows=rows),)) for name in (first, second)])
    ranks, tops = np.empty((2, len(rows)), np.int64), np.empty((2, len(rows), min(K, len(rows.classes))), np.int64)
    for piece, probs in members.chunks():
        for run, own in enumerate(probs):
            ranks[run, piece], tops[run, piece] = true_rank(own, rows.target[piece]), top_classes(own, k=K)
    losses = {
        f"top-{K} error": ranks >= K,
        "top-1 error": ranks >= 1,
        "log loss": -np.log(np.maximum(members.true_probs, FLOOR)),
    }
    made = Comparison(
        names=(first, second),
        images=len(rows),
        measures=tuple(_measure(name, one, other, rows.group) for name, (one, other) in losses.items()),
        changes=tuple(_changes(members, rows, ranks, tops)),
        path=workspace.report / f"compare-{first}-{second}.csv",
    )
    write_bytes(made.path, _csv_text(made).encode())
    return made


def _measure(name: str, one: np.ndarray, other: np.ndarray, group: np.ndarray) -> Measure:
    return Measure(name, (float(one.mean()), float(other.mean())), paired_difference(one, other, group))


def _changes(members: Members, rows: Rows, ranks: np.ndarray, tops: np.ndarray) -> list[Change]:
    """ranks (2, N), tops (2, N, 3)"""
    hits, probs, labels = ranks < K, members.true_probs, np.array(rows.classes)
    changed = np.flatnonzero(hits[0] != hits[1])
    order = np.lexsort((rows.image_id[changed], -np.abs(probs[0] - probs[1])[changed], hits[0, changed]))
    return [
        Change(
            image_id=str(rows.image_id[i]),
            label=str(labels[rows.target[i]]),
            fold=int(rows.fold[i]),
            better=0 if hits[0, i] else 1,
            ranks=(int(ranks[0, i]), int(ranks[1, i])),
            true_probs=(float(probs[0, i]), float(probs[1, i])),
            guesses=(tuple(labels[tops[0, i]].tolist()), tuple(labels[tops[1, i]].tolist())),
        )
        for i in changed[order]
    ]


def _csv_text(made: Comparison) -> str:
    """All changes; ranks count from 1 here."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    by_run = [f"{what} {name}" for what in ("rank", "prob", "top 3") for name in made.names]
    writer.writerow(["image_id", "label", "fold", "better", *by_run])
    for one in made.changes:
        probs = [f"{prob:.6f}" for prob in one.true_probs]
        ranks = [rank + 1 for rank in one.ranks]
        guesses = [" | ".join(guess) for guess in one.guesses]
        writer.writerow([one.image_id, one.label, one.fold, made.names[one.better], *ranks, *probs, *guesses])
    return file.getvalue()


def comparison_summary(made: Comparison) -> Group:
    """Everything that `compare` says, for a rich console."""
    tables = [loss_table(made)] + ([change_table(made)] if made.changes else [])
    said = f"wrote {made.path}: all {len(made.changes):,} images that only one of them has right"
    return Group(tables[0], Text(count_sentence(made)), *tables[1:], Text(said))


def loss_table(made: Comparison) -> Table:
    """One row per loss: of both runs, and the first one's minus the second one's with its 95% interval."""
    a, b = made.names
    table = Table(
        title=f"{a} and {b} on the same {made.images:,} out-of-fold images", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("")
    for heading in (a, b, "difference", "95% interval"):
        table.add_column(heading, justify="right")
    for one in made.measures:
        difference = one.difference
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
        table.add_row(one.name, *(f"{loss:.4f}" for loss in one.losses), f"{difference.mean:+.4f}", interval)
    return table


def count_sentence(made: Comparison) -> str:
    """How many images only one run has right, and whether that is more than chance."""
    (a, b), difference = made.names, made.measures[0].difference
    only_a = sum(one.better == 0 for one in made.changes)
    counts = f"only {a} has {only_a:,} images among its first three, only {b} {len(made.changes) - only_a:,}"
    if difference.low <= 0 <= difference.high:
        return f"{counts}: the difference may be chance, its 95% interval holds 0"
    return f"{counts}: {a if difference.high < 0 else b} is better, the 95% interval of the difference excludes 0"


def change_table(made: Comparison) -> Table:
    """The first few images that the second run has and the first has not, and the other way round."""
    a, b = made.names
    lost, won = ([one for one in made.changes if one.better == better][:SHOWN] for better in (1, 0))
    table = Table(
        title="the largest changes, by the probability of the true class", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in ("image", "label", f"guesses of {a}", f"guesses of {b}"):
        table.add_column(heading, overflow="fold")
    for one in [*lost, *won]:
        pairs = zip(one.guesses, one.true_probs, strict=True)
        cells = [f"{', '.join(guess)} ({prob:.2f} true)" for guess, prob in pairs]
        table.add_row(*(Text(visible(text)) for text in (one.image_id, one.label, *cells)))
    return table
