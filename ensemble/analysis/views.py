"""Measures what each view of test-time augmentation brings, and proposes the set of views that pays.

Everything is a comparison on the same out-of-fold images, with a normal interval on the differences image by image.
The proposed set is the smallest on a greedy path that lies within one standard error of the path's best (Breiman et al.
1984). As the set is chosen by the errors that it is shown with, the whole way of choosing is also cross-fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ensemble.members.members import load_members
from ensemble.members.open_run import list_runs
from ensemble.members.training_rows import Rows
from ensemble.weights.metric import Metric
from ensemble.weights.objective import Reduction
from ensemble.weights.reduction import build_reduction
from folds.base.errors import UserError
from folds.base.paired import Difference, paired_difference
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace

Views = tuple[str, ...]
TOP3 = Metric("top-k-error", 3)


@dataclass(frozen=True)
class ViewWorth:
    """One view: its error alone, and the error of all the others' mean minus that of all views' (above 0: it helps)."""

    view: str
    alone: float
    adds: Difference | None  # None where there is no other view


@dataclass(frozen=True)
class Step:
    """One step of the greedy path: the views so far, the last one new, and how much less they err than those before."""

    views: Views
    error: float
    gain: Difference | None  # None for the first view


@dataclass(frozen=True)
class ViewReport:
    """What the views of one run (or of several, averaged) bring. Errors are top-3 errors on `images` images."""

    name: str
    runs: tuple[str, ...]
    images: int
    views: Views  # in the order of the files
    worth: tuple[ViewWorth, ...]
    path: tuple[Step, ...]
    best: Step
    proposed: Step
    behind: Difference  # the proposed set's error minus the best one's
    honest: float  # the error of proposing: each fold scored under the set proposed without it
    honest_against_all: Difference  # that error minus the one of all views
    proposed_without: tuple[Views, ...]  # the sets proposed without each fold

    @property
    def is_worth_it(self) -> bool:
        """A set chosen in this way does no worse than all views on images that it was not chosen by.

        Each was chosen by the images of the other folds alone, which is a little less than the proposed set had.
        """
        return len(self.proposed.views) < len(self.views) and not self.honest_against_all.is_above_error


@dataclass(frozen=True)
class Sets:
    """The outcomes of sets of views: whether the mean of the set's probabilities misses, per image and over runs."""

    runs: tuple[tuple[Views, Reduction], ...]  # of each run its views, in the order of the reduction, and that
    rows: Rows

    def misses(self, views: Views) -> np.ndarray:
        """(N,) float64 in [0, 1]: 1 for an image whose true class is not in the top 3, averaged over runs."""
        key = frozenset(views)
        if key not in self._known:
            found = [made.outcomes(np.isin(names, views).astype(np.float64)) for names, made in self.runs]
            self._known[key] = np.mean(found, axis=0)
        return self._known[key]

    @cached_property
    def _known(self) -> dict[frozenset[str], np.ndarray]:
        return {}


def report_views(
    workspace: Workspace, names: Sequence[str] | None = None, *, track: Track = silently
) -> Iterator[ViewReport]:
    """A report for each run (all trained ones by default), then one of their mean, where they share views.

    Raises UserError, naming the run, where one is not fit to be blended.
    """
    from threadpoolctl import threadpool_limits

    made: list[tuple[Sets, Views]] = []
    runs = tuple(dict.fromkeys(names or _trained_runs(workspace)))
    with threadpool_limits(1):
        for name in runs:
            made.append(_open_sets(workspace, name, track=track))
            yield make_report(name, *made[-1])
        shared = tuple(view for view in made[0][1] if all(view in views for _, views in made))
        if len(runs) > 1 and len(shared) > 1:
            pooled = Sets(tuple(run for sets, _ in made for run in sets.runs), made[0][0].rows)
            yield replace(make_report(f"mean of {len(runs)} runs", pooled, shared), runs=runs)


def _trained_runs(workspace: Workspace) -> list[str]:
    """All runs that have views of ours: those of other tools were predicted elsewhere."""
    names = [name for name in list_runs(workspace) if not (workspace.members / name).is_dir()]
    if not names:
        raise UserError("there is no finished run", hint="`python run.py train`")
    return names


def make_report(name: str, sets: Sets, views: Views) -> ViewReport:
    """Everything about the views of one run."""
    target, group, fold = sets.rows.target, sets.rows.group, sets.rows.fold
    everyone = np.ones(len(target), bool)
    path = greedy_path(sets, views, everyone)
    best, proposed = propose(sets, path, everyone)
    without = [propose(sets, greedy_path(sets, views, fold != k), fold != k)[1] for k in range(sets.rows.n_folds)]
    honest = np.concatenate([sets.misses(step.views)[sets.rows.of_fold(k)] for k, step in enumerate(without)])
    return ViewReport(
        name=name,
        runs=(name,),
        images=len(target),
        views=views,
        worth=tuple(_worth(sets, view, views) for view in views),
        path=path,
        best=best,
        proposed=proposed,
        behind=paired_difference(sets.misses(proposed.views), sets.misses(best.views), group),
        honest=float(honest.mean()),
        honest_against_all=paired_difference(honest, sets.misses(views), group),
        proposed_without=tuple(step.views for step in without),
    )


def greedy_path(sets: Sets, views: Views, rows: np.ndarray) -> tuple[Step, ...]:
    """The best view first, then the one that helps most, until all are in; the earlier of equals. rows (N,) bool"""
    path: list[Step] = []
    while len(path) < len(views):
        before = path[-1].views if path else ()
        wider = [(*before, view) for view in views if view not in before]
        errors = [float(sets.misses(one)[rows].mean()) for one in wider]
        least = int(np.argmin(errors))  # the first of equals
        gain = _difference(sets, before, wider[least], rows) if before else None
        path.append(Step(wider[least], errors[least], gain))
    return tuple(path)


def propose(sets: Sets, path: Sequence[Step], rows: np.ndarray) -> tuple[Step, Step]:
    """The step of least error, and the first one that cannot be told apart from it by one standard error."""
    best = min(path, key=lambda step: step.error)
    proposed = next(step for step in path if not _difference(sets, step.views, best.views, rows).is_above_error)
    return best, proposed


def _difference(sets: Sets, views: Views, other: Views, rows: np.ndarray) -> Difference:
    return paired_difference(sets.misses(views)[rows], sets.misses(other)[rows], sets.rows.group[rows])


def _worth(sets: Sets, view: str, views: Views) -> ViewWorth:
    others = tuple(one for one in views if one != view)
    everyone = np.ones(len(sets.rows), bool)
    adds = _difference(sets, others, views, everyone) if others else None
    return ViewWorth(view, float(sets.misses((view,)).mean()), adds)


def _open_sets(workspace: Workspace, name: str, *, track: Track) -> tuple[Sets, Views]:
    """A run's views, checked, and all that averaging them can change about its ranks."""
    members = load_members(workspace, [name], separate_views=True, track=track)
    readers = [member.probs for member in members.members]
    n_classes = len(members.rows.classes)
    steps = TOP3.steps(n_classes)
    assert steps is not None
    made = build_reduction(readers, members.rows.target, n_classes=n_classes, steps=steps)
    names = tuple(member.runs[0].views[0] for member in members.members)
    stored = members.members[0].runs[0].blocks[0].stored.views
    return Sets(((names, made),), members.rows), stored
