"""Compares two runs on the same out-of-fold images: paired differences, an exact test, and what changed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from ensemble.members.glance import look_through
from ensemble.members.oof_file import CHUNK_ROWS
from ensemble.members.open_run import Run, list_runs, open_run
from ensemble.members.training_rows import Rows, rows_of
from folds.base.errors import UserError
from folds.base.metrics import top_classes, true_rank
from folds.base.paired import Difference, paired_difference
from folds.base.workspace import Workspace, write_bytes
from folds.split.assign import load_folds

K = 3  # guesses that count
FLOOR = 1e-15  # a lower probability of the true class counts as this one, as in `folds.base.metrics.log_loss`


@dataclass(frozen=True)
class Measure:
    """One loss of both runs, and their paired difference: below 0 the first run is better."""

    name: str
    losses: tuple[float, float]
    difference: Difference


@dataclass(frozen=True)
class SignTest:
    """McNemar's test, exact: of the pictures on which the runs disagree, each is as likely to favour either run.

    only_a, only_b  pictures that one run alone has among its first three; of copies, that it has more of
    p  two-sided; 1 where they disagree on nothing. Source: McNemar 1947.
    """

    only_a: int
    only_b: int
    p: float


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
    test: SignTest
    changes: tuple[Change, ...]
    path: Path  # of the CSV with all changes


def compare_runs(workspace: Workspace, first: str, second: str) -> Comparison:
    """Hold two runs, or added members, against each other, and write `report/compare-A-B.csv`.

    Raises UserError where both are the same, one is not there, lacks folds, or belongs to other folds.
    """
    if first == second:
        others = [name for name in list_runs(workspace) if name != first]
        hint = f"`python run.py compare {first} {others[0]}`" if others else "`python run.py train` makes another run"
        raise UserError(f"{first} cannot be compared with itself", hint=hint)
    _refuse_blend(workspace, first, second)
    rows = rows_of(load_folds(workspace))
    runs = [open_run(workspace, name, rows=rows) for name in (first, second)]
    for run in runs:
        look_through(run.name, run.probs, rows=rows, root=run.root)
    return _written(workspace, _compared(runs, rows))


def _refuse_blend(workspace: Workspace, *names: str) -> None:
    """Say why `blend` is no run: only its scores are cross-fitted and kept, and its weights have seen every image."""
    if "blend" in names and "blend" not in list_runs(workspace):
        raise UserError(
            "the blend cannot be compared: its weights were fitted on the images that it would be compared on",
            hint="`python run.py blend` shows its cross-fitted loss beside each member's",
        )


def _compared(runs: Sequence[Run], rows: Rows) -> Comparison:
    seen = [_Seen.of(run, rows) for run in runs]
    losses = {
        f"top-{K} error": [one.rank >= K for one in seen],
        "top-1 error": [one.rank >= 1 for one in seen],
        "log loss": [-np.log(np.maximum(one.true_prob, FLOOR)) for one in seen],
    }
    a, b = losses[f"top-{K} error"]
    return Comparison(
        names=(runs[0].name, runs[1].name),
        images=len(rows),
        measures=tuple(_measure(name, one, other, rows.group) for name, (one, other) in losses.items()),
        test=sign_test(a, b, rows.group),
        changes=tuple(_changes(seen, rows)),
        path=Path(),
    )


@dataclass(frozen=True)
class _Seen:
    """What one run says of all images: rank of the true class, its probability, the first three. (N,), (N,), (N, 3)"""

    rank: np.ndarray
    true_prob: np.ndarray
    top: np.ndarray

    @classmethod
    def of(cls, run: Run, rows: Rows) -> _Seen:
        parts = []
        for start in range(0, len(rows), CHUNK_ROWS):
            piece = slice(start, min(start + CHUNK_ROWS, len(rows)))
            probs, target = run.probs(piece.start, piece.stop), rows.target[piece]
            true_prob = np.take_along_axis(probs, target[:, None], axis=1)[:, 0]
            parts.append((true_rank(probs, target), true_prob, top_classes(probs, k=K)))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _measure(name: str, one: np.ndarray, other: np.ndarray, group: np.ndarray) -> Measure:
    return Measure(name, (float(one.mean()), float(other.mean())), paired_difference(one, other, group))


def sign_test(one: np.ndarray, other: np.ndarray, group: np.ndarray) -> SignTest:
    """The exact test of two runs' misses, (N,) bool each; group (N,) int: equal numbers are copies of one picture."""
    _, draw = np.unique(group, return_inverse=True)
    lead = np.bincount(draw, other.astype(np.float64) - one)  # above 0: the first run hits more of its copies
    only_a, only_b = int((lead > 0).sum()), int((lead < 0).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return SignTest(only_a, only_b, p)


def _changes(seen: Sequence[_Seen], rows: Rows) -> list[Change]:
    a, b = seen
    changed = np.flatnonzero((a.rank < K) != (b.rank < K))
    size = np.abs(a.true_prob - b.true_prob)[changed]
    order = np.lexsort((rows.image_id[changed], -size, a.rank[changed] < K))
    labels = np.array(rows.classes)
    return [
        Change(
            image_id=str(rows.image_id[i]),
            label=str(labels[rows.target[i]]),
            fold=int(rows.fold[i]),
            better=0 if a.rank[i] < K else 1,
            ranks=(int(a.rank[i]), int(b.rank[i])),
            true_probs=(float(a.true_prob[i]), float(b.true_prob[i])),
            guesses=(tuple(labels[a.top[i]].tolist()), tuple(labels[b.top[i]].tolist())),
        )
        for i in changed[order]
    ]


def _written(workspace: Workspace, made: Comparison) -> Comparison:
    """The comparison with its changes in a CSV; ranks count from 1 there."""
    path = workspace.report / f"compare-{made.names[0]}-{made.names[1]}.csv"
    file, (a, b) = io.StringIO(), made.names
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            "image_id",
            "label",
            "fold",
            "better",
            f"rank {a}",
            f"rank {b}",
            f"prob {a}",
            f"prob {b}",
            f"top 3 {a}",
            f"top 3 {b}",
        ]
    )
    for one in made.changes:
        probs = [f"{prob:.6f}" for prob in one.true_probs]
        ranks = [rank + 1 for rank in one.ranks]
        guesses = [" | ".join(guess) for guess in one.guesses]
        writer.writerow([one.image_id, one.label, one.fold, made.names[one.better], *ranks, *probs, *guesses])
    write_bytes(path, file.getvalue().encode())
    return replace(made, path=path)
