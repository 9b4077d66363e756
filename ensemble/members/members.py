"""Makes the members of a blend out of runs, and streams their probabilities over all training images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.blend.threads import in_threads
from ensemble.members.choose_folds import Choice, choose_parts
from ensemble.members.glance import look_through
from ensemble.members.oof_file import CHUNK_ROWS
from ensemble.members.open_run import Run, list_runs, open_run
from ensemble.members.training_rows import Rows, rows_of
from folds.base.errors import UserError, first_few
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace
from folds.split.assign import load_folds

MOST_MEMBERS = 250  # the objective counts members in one byte
SPARSE = 32  # where fewer rows than one of so many are wanted, each is read alone, and not all 24 GB of a million


@dataclass(frozen=True)
class Member:
    """What gets one weight: a run, or sibling runs (equal but for their seed) averaged, or one view of these."""

    name: str
    runs: tuple[Run, ...]

    def probs(self, start: int, stop: int) -> np.ndarray:
        """Out-of-fold probabilities of rows start to stop. (n, C) float32."""
        probs = self.runs[0].probs(start, stop)
        for run in self.runs[1:]:
            probs = probs + run.probs(start, stop)
        return probs / np.float32(len(self.runs)) if len(self.runs) > 1 else probs


@dataclass(frozen=True)
class Members:
    """The M members of a blend, sorted by name, over the same N rows.

    true_probs (M, N) float32: each member's probability of each true class    tops (M, N) int16: its first choice
    """

    rows: Rows
    members: tuple[Member, ...]
    true_probs: np.ndarray
    tops: np.ndarray
    left_out: tuple[str, ...] = ()  # runs that lack a fold that the others have

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    def __len__(self) -> int:
        return len(self.members)

    def chunks(self, rows: slice | None = None, *, size: int = CHUNK_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        """All members' probabilities, piece by piece: (rows, (M, n, C) float32). No piece crosses a fold's border."""
        for piece in self.pieces(rows, size=size):
            yield piece, self.stacked(piece)

    def stacked(self, piece: slice) -> np.ndarray:
        """All members' probabilities of some rows. (M, n, C) float32"""
        probs = np.empty((len(self), piece.stop - piece.start, len(self.rows.classes)), np.float32)
        for member, own in zip(self.members, probs, strict=True):
            own[:] = member.probs(piece.start, piece.stop)
        return probs

    def every(self, stride: int, piece: slice) -> np.ndarray:
        """All members' probabilities of the first row of a piece and each stride-th after it. (M, n > 0, C) float32"""
        if stride < SPARSE:
            return self.stacked(piece)[:, ::stride]
        alone = [self.stacked(slice(row, row + 1)) for row in range(piece.start, piece.stop, stride)]
        return np.concatenate(alone, axis=1)

    def pieces(self, rows: slice | None = None, *, size: int = CHUNK_ROWS) -> Iterator[slice]:
        """The rows, cut into pieces that lie inside one fold each."""
        wanted = rows or slice(0, len(self.rows))
        for fold in range(self.rows.n_folds):
            place = self.rows.of_fold(fold)
            first, last = max(place.start, wanted.start), min(place.stop, wanted.stop)
            for start in range(first, last, size):
                yield slice(start, min(start + size, last))


def load_members(
    workspace: Workspace,
    names: Sequence[str] | None = None,
    *,
    views: tuple[str, ...] | None = None,
    separate_views: bool = False,
    separate_seeds: bool = False,
    partial: bool = False,
    track: Track = silently,
) -> Members:
    """All named runs (all finished ones by default), checked and joined by id to `folds.csv`, values left on disk.

    partial  runs may lack folds: the rows are then those of the folds that all members have

    Raises UserError naming the run that has a gap, other folds or classes, NaN, or rows that do not sum to 1.
    """
    folds, wanted = load_folds(workspace), _wanted(names, list_runs(workspace))
    chosen = Choice(tuple(wanted), tuple(range(folds.n_folds)))
    if partial:
        added = frozenset(name for name in wanted if (workspace.members / name).is_dir())
        chosen = choose_parts(workspace, wanted, added=added, n_folds=folds.n_folds, is_named=names is not None)
    rows = rows_of(folds, chosen.folds)
    runs = list(in_threads(lambda name: open_run(workspace, name, rows=rows, views=views), chosen.runs))
    members = [Member(run.name, (run,)) for run in runs] if separate_seeds else join_siblings(runs)
    if separate_views:
        members = [apart for member in members for apart in _views_apart(member)]
    _refuse_one_name(members)
    if len(members) > MOST_MEMBERS:
        raise UserError(f"a blend has at most {MOST_MEMBERS} members, not {len(members)}", hint="`--members A,B`")
    return check_members(rows, members, left_out=chosen.left_out, track=track)


def check_members(
    rows: Rows, members: Sequence[Member], *, left_out: tuple[str, ...] = (), track: Track = silently
) -> Members:
    """Look through every member once. Raises UserError naming one that has NaN, or rows that do not sum to 1."""
    looked = in_threads(lambda one: look_through(one.name, one.probs, rows=rows, root=one.runs[0].root), members)
    glances = list(track(looked, what="checking members", total=len(members), unit="members"))
    return Members(
        rows=rows,
        members=tuple(members),
        true_probs=np.stack([glance.true_prob for glance in glances]),
        tops=np.stack([glance.top for glance in glances]),
        left_out=left_out,
    )


def _refuse_one_name(members: Sequence[Member]) -> None:
    """Refuse siblings whose joined name is that of a run: `add` once allowed `+` in a name."""
    names = [member.name for member in members]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            f"{twice[0]} is the name of a run and of siblings averaged", hint="`--separate-seeds` keeps them apart"
        )


def _views_apart(member: Member) -> list[Member]:
    """One member for each view that all its runs have in use, in the order of their names."""
    views = sorted(set.intersection(*(set(run.views) for run in member.runs)))
    return [Member(f"{member.name}:{view}", tuple(run.with_view(view) for run in member.runs)) for view in views]


def join_siblings(runs: Sequence[Run]) -> list[Member]:
    """One member for all runs with equal settings and views and unequal seeds; runs without settings stay alone."""
    families: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.settings, run.views], sort_keys=True) if run.settings else f"alone: {run.name}"
        families.setdefault(key, []).append(run)
    members = []
    for family in families.values():
        seeds = [run.seed for run in family]
        alone = len(set(seeds)) < len(seeds)  # the same settings and seed under two names: a copy, not a sibling
        members += [Member(run.name, (run,)) for run in family] if alone else [_joined(family)]
    return sorted(members, key=lambda member: member.name)


def _joined(family: Sequence[Run]) -> Member:
    return Member("+".join(run.name for run in family), tuple(family))


def _wanted(names: Sequence[str] | None, known: tuple[str, ...]) -> list[str]:
    """The named runs, sorted: their order must not matter."""
    if names is None:
        if not known:
            raise UserError("there is no finished run to blend", hint="`python run.py train`")
        return list(known)
    strangers = [name for name in names if name not in known]
    if strangers or not names:
        hint = f"there are {', '.join(known)}" if known else "`python run.py train` makes the first run"
        raise UserError(f"there is no finished run {first_few(strangers)}".rstrip(), hint=hint)
    return sorted(set(names))
