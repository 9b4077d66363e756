"""Makes a blend: members in, candidates fitted, scored on images they have not seen, the kept one written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.blend.blend_json import Blend, save_blend
from ensemble.blend.candidates import CANDIDATES, Candidate, FitInput, Fits, fit_data
from ensemble.blend.cross_fit import Nested, Score, Scoring, best_or_equal, nested_choice, score_candidates
from ensemble.blend.expected import ExpectedScore, averaging_gain, expected_score, find_scored_images
from ensemble.blend.member_value import gain_over_best, member_values, rarest_loss
from ensemble.members.members import Members, disagreeing_members, load_members
from ensemble.settings import BlendSettings
from ensemble.weights.metric import TOP3, Metric
from ensemble.weights.reduction import Reduction
from ensemble.weights.search import Search
from ensemble.weights.simple import FitData
from folds.base.errors import UserError, first_few
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace


@dataclass(frozen=True)
class BlendResult:
    """A blend and all that was learnt while making it."""

    blend: Blend
    path: Path
    metric: Metric
    scores: tuple[Score, ...]
    kept: Score
    rarest: float  # cross-fitted, the mean of the rarest quarter of the classes
    undecided: float | None  # the share of images that weights can change at all; None for log loss
    warnings: tuple[str, ...]


def make_blend(
    workspace: Workspace, settings: BlendSettings, *, seed: int, path: Path | None = None, track: Track = silently
) -> BlendResult:
    """Blend the runs that the settings name, or all that are done, and write `work/ensemble/blend.json`, or `path`.

    Raises UserError, naming the member, where one is not fit to be blended.
    """
    from threadpoolctl import threadpool_limits

    known = [candidate.name for candidate in CANDIDATES]
    if settings.keep not in (None, *known):
        why = f"there is no candidate {settings.keep}; there are {', '.join(known)}"
        raise UserError(why, hint="`python run.py blend`")
    with threadpool_limits(1):  # two BLAS threads beside a busy neighbour made 0.2 ms into 7.8 ms
        loaded = load_members(workspace, settings, track=track)
        rows, metric = loaded.rows, Metric(settings.metric, settings.k)
        data = fit_data(loaded, metric)
        scoring = Scoring(loaded, metric, data.objective)
        search = Search(loaded.names, settings, seed, workspace.ensemble / "study.log")
        scores = score_candidates(scoring, _fit_all(loaded, data, search, track))
        asked = next((one for one in scores if one.candidate.name == settings.keep), None)
        kept = asked or best_or_equal(scores, rows.group, np.ones(len(rows), bool))
        nested = nested_choice(scores, kept, rows, is_chosen=settings.keep is None)
        expected = _expected(workspace, scoring, nested, kept, settings)
        blend = _describe(scoring, scores, kept, expected, settings, seed=seed)
    return BlendResult(
        blend=blend,
        path=save_blend(path or workspace.blend, blend),
        metric=metric,
        scores=tuple(scores),
        kept=kept,
        rarest=rarest_loss(kept.outcomes, rows.target),
        undecided=data.objective.undecided if isinstance(data.objective, Reduction) else None,
        warnings=(*disagreeing_members(loaded), *_warnings(loaded)),
    )


def _fit_all(members: Members, data: FitData, search: Search, track: Track) -> dict[Candidate, Fits]:
    """Every candidate; with one member there is nothing to weigh, with one fold nothing to try weights on."""
    n_folds = members.rows.n_folds
    without = tuple(data.subset(members.rows.fold != fold) for fold in range(n_folds)) if n_folds > 1 else (data,)
    given = FitInput(members, (data, *without), search, track)
    candidates = CANDIDATES if len(members) > 1 and n_folds > 1 else CANDIDATES[:1]
    tracked = track(candidates, what="fitting candidates", total=len(candidates), unit="candidates")
    fits = {}
    for candidate in tracked:
        whole, *others = candidate.fit(given)
        fits[candidate] = Fits(whole, tuple(others))
    return fits


def _describe(
    scoring: Scoring,
    scores: Sequence[Score],
    kept: Score,
    expected: tuple[ExpectedScore, ExpectedScore],
    settings: BlendSettings,
    *,
    seed: int,
) -> Blend:
    """All that is kept of the blend. expected: of the test images, by the metric and as a top-3 error"""
    members, rows, recipe = scoring.members, scoring.members.rows, kept.fits.whole
    values, networks = member_values(scoring, kept), {run.name: len(run.tests) for run in members.runs}
    return Blend(
        candidate=kept.candidate.name,
        why=_why(members, kept, scores, settings.keep),
        pool=recipe.pool,
        weights=dict(zip(members.names, recipe.weights.tolist(), strict=True)),
        bias=None if recipe.bias is None else dict(zip(rows.classes, recipe.bias.tolist(), strict=True)),
        runs={member.name: tuple(run.name for run in member.runs) for member in members.members},
        views={member.name: member.runs[0].views for member in members.members},
        metric=scoring.metric.name,
        k=scoring.metric.k,
        crossfit=kept.crossfit,
        in_sample=kept.in_sample,
        oof_top3_error=expected[1].oof,
        scores=tuple(score.figures for score in scores),
        images=len(rows),
        seed=seed,
        classes=rows.classes,
        folds_digest=rows.digest,
        files={run.name: dict(run.digests) for run in members.runs},
        partial=(
            {"folds": rows.folds, "networks": networks, "left_out": members.left_out} if rows.is_partial else None
        ),
        worth=values,
        expected=expected[0],
        expected_top3=expected[1],
        gain=gain_over_best(scoring, kept, values),
    )


def _why(members: Members, kept: Score, scores: Sequence[Score], name: str | None) -> str:
    """One clause that says why this candidate was kept."""
    if members.rows.n_folds == 1:
        return "one fold is done, and weights fitted on it could not be tried on another"
    if len(scores) == 1:
        return "there is one member"
    best = min(scores, key=lambda score: score.crossfit)
    if name is not None:
        return f"you asked for it; the best cross-fitted is {best.candidate.name}"
    if kept.behind > 0:
        return (
            f"within one standard error ({kept.behind_error:.4f}) of {best.candidate.name},"
            f" which is {kept.behind:.4f} better and less simple"
        )
    if kept is scores[0]:
        return "nothing does better"
    simple, behind = scores[0].candidate.name, f"{scores[0].behind:.4f} +- {scores[0].behind_error:.4f}"
    return f"it is the best cross-fitted, and {simple} is {behind} behind"


def _expected(
    workspace: Workspace, scoring: Scoring, nested: Nested, kept: Score, settings: BlendSettings
) -> tuple[ExpectedScore, ExpectedScore]:
    """What to expect of the test images, by the blend's metric and as a top-3 error."""
    members, rows = scoring.members, scoring.members.rows
    scored = find_scored_images(workspace, members, share=settings.private_share)

    def score(metric: Metric, outcomes: np.ndarray) -> ExpectedScore:
        gain = averaging_gain(metric, members, kept.fits.whole, oof=float(outcomes.mean()))
        return expected_score(metric, outcomes, rows, scored=scored, gain=gain)

    expected = score(scoring.metric, nested.outcomes)
    if scoring.metric == TOP3:
        return expected, expected
    outcomes = np.empty(len(rows))  # by a metric that the candidates were not chosen by
    for fold, chosen in enumerate(nested.chosen):
        for piece, probs in members.chunks(fold):
            outcomes[piece] = TOP3.outcomes(chosen.fits.without[fold].scores(probs), rows.target[piece])
    return expected, score(TOP3, outcomes)


def _warnings(members: Members) -> list[str]:
    """What a partial blend lacks, what was noted of added members, which runs are equal, whether a fold is small."""
    said = []
    if members.rows.is_partial:
        which = ", ".join(map(str, members.rows.folds))
        said.append(f"partial: weights and scores are of fold {which} alone, {len(members.rows):,} images")
    if members.left_out:
        said.append(f"partial: {first_few(members.left_out)} left out")
    notes: dict[str, dict[str, None]] = {}  # of each note the runs that have it
    for run in members.runs:
        for note in run.warnings:
            notes.setdefault(note, {})[run.name] = None
    said += [f"{first_few(list(names))}: {note}" for note, names in notes.items()]
    alike: dict[tuple[str, ...], dict[str, None]] = {}
    for run in members.runs:
        files = tuple(digest for place, digest in sorted(run.digests.items()) if place.endswith("oof.npz"))
        alike.setdefault(files, {})[run.name] = None
    said += [
        f"{first_few(list(names))} predict exactly the same: leave out all but one with `--members`"
        for names in alike.values()
        if len(names) > 1
    ]
    few = np.bincount(members.rows.fold).min()
    return [*said, f"a fold has {few} images only: every score here is a rough one"] if few < 100 else said
