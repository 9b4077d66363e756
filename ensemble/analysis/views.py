"""Measures what each view of test-time augmentation brings, and proposes a set of views.

Everything is a comparison on the same out-of-fold images, with a normal interval on the differences image by image.
The proposed set is the smallest on a greedy path that lies within one standard error of the path's best (Breiman et al.
1984). As the set is chosen by the errors that it is shown with, the whole way of choosing is also cross-fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Group

from ensemble.members.members import load_members
from ensemble.members.open_run import list_runs
from ensemble.members.training_rows import Rows
from ensemble.settings import BlendSettings
from ensemble.weights.metric import TOP3
from ensemble.weights.reduction import Reduction, build_reduction
from folds.base.errors import UserError
from folds.base.interval import Difference, paired_difference
from folds.base.progress import Track, silently
from folds.base.terminal import figures
from folds.base.workspace import Workspace
from models.input.views import known_views, split_view
from models.runs import KNN, PROBE, Kind, done_folds, kind_of, own_size

Views = tuple[str, ...]


@dataclass(frozen=True)
class ViewValue:
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
class Viewed:
    """The views of one run, or those that several share, in the order of the files.

    kinds   by run what it is; None of trained networks
    passes  by view: what it costs in forward passes at the run's own size, its input's area over that of the own one
    """

    name: str
    kinds: Mapping[str, Kind | None]
    passes: Mapping[str, float]

    @property
    def views(self) -> Views:
        return tuple(self.passes)

    def cost(self, views: Views) -> str:
        """Forward passes of some views, such as 2 or 3.65."""
        return f"{round(sum(self.passes[view] for view in views), 2):g}"


@dataclass(frozen=True)
class ViewReport(Viewed):
    """What the views bring. Errors are top-3 errors on out-of-fold images; of several runs, of their mean."""

    worth: tuple[ViewValue, ...]
    path: tuple[Step, ...]
    best: Step
    proposed: Step
    behind: Difference  # the proposed set's error minus the best one's
    crossfit: float  # the error of proposing: each fold scored under the set proposed without it
    crossfit_against_all: Difference  # that error minus the one of all views
    proposed_without: tuple[Views, ...]  # the sets proposed without each fold
    is_for_all: bool  # every run here has the proposed views, so that one blend can name them

    @property
    def is_worth_it(self) -> bool:
        """A set chosen in this way does no worse than all views on images that it was not chosen by.

        Each was chosen by the images of the other folds alone, which is a little less than the proposed set had.
        """
        return len(self.proposed.views) < len(self.views) and not self.crossfit_against_all.is_above_error


@dataclass(frozen=True)
class Sets(Viewed):
    """The outcomes of sets of views: whether the mean of the set's probabilities misses, per image and over runs."""

    reductions: tuple[tuple[Views, Reduction], ...]  # of each run its views, in the order of the reduction, and that
    rows: Rows
    known: dict[frozenset[str], np.ndarray] = field(default_factory=dict)  # what `misses` has found

    def misses(self, views: Views) -> np.ndarray:
        """(N,) float64 in [0, 1]: 1 for an image whose true class is not in the top 3, averaged over runs."""
        key = frozenset(views)
        if key not in self.known:
            found = [made.outcomes(np.isin(names, views).astype(np.float64)) for names, made in self.reductions]
            self.known[key] = np.mean(found, axis=0)
        return self.known[key]

    def difference(self, views: Views, other: Views, rows: np.ndarray | slice = slice(None)) -> Difference:
        """The error of one set minus another's. rows (N,) bool: the images that count"""
        return paired_difference(self.misses(views)[rows], self.misses(other)[rows], self.rows.group[rows])


def report_views(
    workspace: Workspace, names: Sequence[str] | None = None, *, track: Track = silently
) -> Iterator[ViewReport]:
    """A report for each run (all trained ones by default), then one of their mean, where they share views.

    Raises UserError, naming the run, where one is not fit to be blended.
    """
    from threadpoolctl import threadpool_limits

    trained = [name for name in list_runs(workspace) if not (workspace.members / name).is_dir()]
    runs = tuple(dict.fromkeys(names or trained))  # views of added members were predicted elsewhere
    if not runs:
        raise UserError("there is no finished run", hint="`python run.py train`")
    made: list[Sets] = []
    with threadpool_limits(1):
        for name in runs:
            made.append(_open_sets(workspace, name, track=track))
            yield _report(workspace, made[-1])
        shared = [view for view in made[0].views if all(view in sets.views for sets in made)]
        if len(runs) > 1 and len(shared) > 1:
            pooled = Sets(
                name=f"mean of {len(runs)} runs",
                kinds={run: kind for sets in made for run, kind in sets.kinds.items()},
                passes={view: float(np.mean([sets.passes[view] for sets in made])) for view in shared},
                reductions=tuple(one for sets in made for one in sets.reductions),
                rows=made[0].rows,
            )
            yield _report(workspace, pooled)


def _open_sets(workspace: Workspace, name: str, *, track: Track) -> Sets:
    """A run's views, checked, and all that averaging them can change about its ranks."""
    members = load_members(workspace, BlendSettings(members=(name,), separate_views=True), track=track)
    steps = TOP3.steps(len(members.rows.classes))
    assert steps is not None
    reduction = build_reduction(members.chunks(), members.rows.target, steps=steps)
    names = tuple(member.runs[0].views[0] for member in members.members)
    views, own = members.members[0].runs[0].oof[0].views, own_size(workspace, name)
    sides = {view: split_view(view)[1] for view in views}  # None: the run's own
    return Sets(
        name=name,
        kinds={name: kind_of(workspace, name)},
        passes={view: (side / own) ** 2 if side and own else 1.0 for view, side in sides.items()},
        reductions=((names, reduction),),
        rows=members.rows,
    )


def _report(workspace: Workspace, sets: Sets) -> ViewReport:
    views, fold = sets.views, sets.rows.fold
    path, best, proposed = propose(sets, np.ones(len(fold), bool))
    without = [propose(sets, fold != k)[2].views for k in range(sets.rows.n_folds)]
    crossfit = np.concatenate([sets.misses(chosen)[sets.rows.of_fold(k)] for k, chosen in enumerate(without)])
    others = {view: tuple(one for one in views if one != view) for view in views}
    records = [next(iter(done_folds(workspace, run).values()), {}) for run in list_runs(workspace)]
    return ViewReport(
        name=sets.name,
        kinds=sets.kinds,
        passes=sets.passes,
        worth=tuple(
            ViewValue(view, float(sets.misses((view,)).mean()), sets.difference(rest, views) if rest else None)
            for view, rest in others.items()
        ),
        path=path,
        best=best,
        proposed=proposed,
        behind=sets.difference(proposed.views, best.views),
        crossfit=float(crossfit.mean()),
        crossfit_against_all=paired_difference(crossfit, sets.misses(views), sets.rows.group),
        proposed_without=tuple(without),
        is_for_all=all(set(proposed.views) <= set(record.get("views", ())) for record in records),
    )


def propose(sets: Sets, rows: np.ndarray) -> tuple[tuple[Step, ...], Step, Step]:
    """The greedy path, its step of least error, and its first one that is worse by less than one standard error.

    The best view comes first, then the one that helps most, until all are in; the earlier of equals.
    rows  (N,) bool: the images that count
    """
    path: list[Step] = []
    while len(path) < len(sets.views):
        before = path[-1].views if path else ()
        wider = [(*before, view) for view in sets.views if view not in before]
        errors = [float(sets.misses(one)[rows].mean()) for one in wider]
        least = int(np.argmin(errors))  # the first of equals
        gain = sets.difference(before, wider[least], rows) if before else None
        path.append(Step(wider[least], errors[least], gain))
    best = min(path, key=lambda step: step.error)
    proposed = next(step for step in path if not sets.difference(step.views, best.views, rows).is_above_error)
    return tuple(path), best, proposed


def view_summary(report: ViewReport) -> Group:
    """The figures of a run's views, for a rich console."""
    title = f"{report.name}: views, top-3 error on {report.behind.images:,} out-of-fold images"
    alone = figures(title, texts=("view",), numbers=("alone", "adds to the others", "95% interval", "forward passes"))
    for one in report.worth:
        alone.add_row(one.view, f"{one.alone:.4f}", *_gain_cells(one.adds), report.cost((one.view,)))
    title = f"{report.name}: one view after the other, the proposed ones down to *"
    path = figures(title, texts=("", "view"), numbers=("error", "gain", "95% interval", "forward passes"))
    for step in report.path:
        mark, view = "*" if step is report.proposed else "", ("+ " if step.gain else "") + step.views[-1]
        path.add_row(mark, view, f"{step.error:.4f}", *_gain_cells(step.gain), report.cost(step.views))
    return Group(alone, path)


def view_sentences(report: ViewReport) -> list[str]:
    """What is proposed, its cross-fitted error, which commands use it, and which views are not predicted."""
    proposed, best, apart = report.proposed, report.best, report.crossfit_against_all
    rest = ", the best set on this path"
    if proposed is not best:
        rest = (
            f"; the best set on this path, {', '.join(best.views)}, has {best.error:.4f} with"
            f" {_passes(report, best.views)}: {report.behind.mean:.4f} +- {report.behind.standard_error:.4f} less"
        )
    alike = sum(set(one) == set(proposed.views) for one in report.proposed_without)
    sentences = [
        f"proposed: {', '.join(proposed.views)}, top-3 error {proposed.error:.4f} with"
        f" {_passes(report, proposed.views)}{rest}",
        f"chosen without each fold and scored on it: top-3 error {report.crossfit:.4f}, {apart.mean:+.4f}"
        f" ({apart.low:+.4f} to {apart.high:+.4f}) against all {len(report.views)} views;"
        f" {alike} of {len(report.proposed_without)} times the same set was chosen",
    ]
    views = ",".join(proposed.views)
    use = f"`python run.py blend --member-views {views}`; to predict nothing else: {_predict(report, views)}"
    if not report.is_for_all:
        use = f"{_predict(report, views)}, then `python run.py blend`"
    if report.is_worth_it:
        sentences.append(f"to use them: {use}")
    elif len(proposed.views) < len(report.views):
        sentences.append(
            f"a set chosen like this errs more than all {len(report.views)} views on images that it was not chosen by:"
            f" keep all, unless {_passes(report, report.views)} are too many: {use}"
        )
    lacking = [view for view in known_views() if view not in report.views]
    if lacking and len(report.kinds) == 1:
        more = ",".join([*report.views, *lacking])
        sentences.append(
            f"not predicted: {', '.join(lacking)}, and each of all at another size, such as centre@288 at 288 pixels;"
            f" to look at them: {_predict(report, more)}"
        )
    return sentences


def _predict(report: ViewReport, views: str) -> str:
    """The commands that predict the report's runs under these views."""
    trained = ",".join(run for run, kind in report.kinds.items() if kind is None)
    commands = [f"`python run.py predict --run {trained} --views {views}`"] if trained else []
    frozen = ["probe"] if PROBE in report.kinds.values() else []
    if looked_up := ",".join(run.removesuffix(f"-{KNN}") for run, kind in report.kinds.items() if kind == KNN):
        frozen.append(f"knn --run {looked_up}")
    as_before = "with the backbones and weights of before"
    return " and ".join([*commands, *(f"`python run.py {one} --views {views}` {as_before}" for one in frozen)])


def _passes(report: ViewReport, views: Views) -> str:
    passes = report.cost(views)
    return f"{passes} forward pass{'' if passes == '1' else 'es'} an image"


def _gain_cells(gain: Difference | None) -> tuple[str, str]:
    return ("-", "-") if gain is None else (f"{gain.mean:+.4f}", f"{gain.low:+.4f} to {gain.high:+.4f}")
