"""Compares two runs on the same out-of-fold images: paired differences, and the images that changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensemble.members.members import Member, Members, read_members
from ensemble.members.open_run import list_runs, open_run
from ensemble.members.training_rows import rows_of
from ensemble.weights.metric import LEAST_PROB
from folds.base.errors import UserError, visible
from folds.base.interval import Difference, paired_difference
from folds.base.metrics import top_classes, true_rank
from folds.base.terminal import figures
from folds.base.workspace import Workspace, write_bytes
from folds.split.assign import load_folds

K = 3  # guesses that count
SHOWN = 5  # changed images of either kind


@dataclass(frozen=True)
class Measure:
    """One loss of both runs, and their paired difference: below 0 the first run is better."""

    name: str
    losses: tuple[float, float]
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Two runs on `images` images.

    changes  the images that only one run has among its first three: those that the first run lost come first, the
             largest change of the true class's probability first; as in the CSV, where ranks count from 1
    """

    names: tuple[str, str]
    images: int
    measures: tuple[Measure, ...]
    changes: pd.DataFrame
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
        "log loss": -np.log(np.maximum(members.true_probs, LEAST_PROB)),
    }
    measures = tuple(
        Measure(name, (float(one.mean()), float(other.mean())), paired_difference(one, other, rows.group))
        for name, (one, other) in losses.items()
    )
    changes, path = _changes(members, ranks, tops), workspace.report / f"compare-{first}-{second}.csv"
    write_bytes(path, changes.to_csv(index=False, lineterminator="\n").encode())
    return Comparison((first, second), len(rows), measures, changes, path)


def _changes(members: Members, ranks: np.ndarray, tops: np.ndarray) -> pd.DataFrame:
    """ranks (2, N), tops (2, N, 3)"""
    rows, hits, probs = members.rows, ranks < K, members.true_probs
    names, labels = members.names, np.array(rows.classes)
    changed = np.flatnonzero(hits[0] != hits[1])
    order = np.lexsort((rows.image_id[changed], -np.abs(probs[0] - probs[1])[changed], hits[0, changed]))
    i = changed[order]
    columns = {"image_id": rows.image_id[i], "label": labels[rows.target[i]], "fold": rows.fold[i]}
    columns["better"] = np.where(hits[0, i], *names)
    of_both: dict[str, Sequence[object]] = {
        "rank": list(ranks[:, i] + 1),
        "prob": [[f"{one:.6f}" for one in own] for own in probs[:, i]],
        "top 3": [[" | ".join(labels[one]) for one in own] for own in tops[:, i]],
    }
    columns |= {f"{what} {name}": own for what, both in of_both.items() for name, own in zip(names, both, strict=True)}
    return pd.DataFrame(columns)


def comparison_summary(made: Comparison) -> Group:
    """The losses of both runs, each with its paired difference, and the images that one run alone has right."""
    (a, b), apart = made.names, made.measures[0].difference
    title = f"{a} and {b} on the same {made.images:,} out-of-fold images"
    losses = figures(title, texts=("",), numbers=(a, b, "difference", "95% interval"))
    for one in made.measures:
        interval = f"{one.difference.low:+.4f} to {one.difference.high:+.4f}"
        losses.add_row(one.name, *(f"{loss:.4f}" for loss in one.losses), f"{one.difference.mean:+.4f}", interval)
    chance = "the difference may be chance: its 95% interval holds 0"
    if apart.low > 0 or apart.high < 0:
        chance = f"{a if apart.high < 0 else b} is better: the 95% interval of the difference excludes 0"
    only_a = int((made.changes["better"] == a).sum())
    counts = f"{a} {only_a:,}, {b} {len(made.changes) - only_a:,}"
    return Group(
        losses,
        Text(f"images that one run alone has among its first three: {counts}; {chance}"),
        *([_change_table(made)] if len(made.changes) else []),
        Text(f"wrote {made.path}: all {len(made.changes):,} images that only one of them has right"),
    )


def _change_table(made: Comparison) -> Table:
    """The first few images that the second run has and the first has not, and the other way round."""
    a, b = made.names
    title = "the largest changes, by the probability of the true class"
    table = figures(title, texts=("image", "label", f"guesses of {a}", f"guesses of {b}"))
    shown = pd.concat([made.changes[made.changes["better"] == better].head(SHOWN) for better in (b, a)])
    for one in shown.to_dict("records"):
        cells = [
            f"{one[f'top 3 {name}'].replace(' | ', ', ')} ({float(one[f'prob {name}']):.2f} true)" for name in (a, b)
        ]
        table.add_row(*(Text(visible(str(text))) for text in (one["image_id"], one["label"], *cells)))
    return table
