"""Makes a blend: members in, candidates fitted, scored on images they have not seen, the kept one written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ensemble.blend.blend_json import Blend, save_blend
from ensemble.blend.candidates import CANDIDATES, Candidate, Case, Fits
from ensemble.blend.cross_fit import Nested, Score, nested_choice, score_candidates, simplest_good
from ensemble.blend.evidence import Evidence, gather_evidence
from ensemble.blend.member_value import Worth, costs_nothing, gain_over_best, member_worth
from ensemble.blend.recipe import stream_scores
from ensemble.members.agreement import disagreeing_members
from ensemble.members.members import Members, load_members
from ensemble.settings import BlendSettings
from ensemble.weights.metric import Metric
from ensemble.weights.objective import Reduction
from ensemble.weights.search import Search
from ensemble.weights.temperature import fit_temperature
from folds.base.errors import UserError, first_few
from folds.base.paired import Difference
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest


@dataclass(frozen=True)
class BlendResult:
    """A blend and all that was learnt while making it."""

    blend: Blend
    path: Path
    metric: Metric
    scores: tuple[Score, ...]
    kept: Score
    nested: Nested
    worth: tuple[Worth, ...]
    idle: tuple[str, ...]  # members that cost nothing to drop
    undecided: float | None  # the share of images that weights can change at all; None if the metric does not tell
    warnings: tuple[str, ...]


def make_blend(
    workspace: Workspace,
    settings: BlendSettings,
    *,
    seed: int,
    members: Sequence[str] | None = None,
    path: Path | None = None,
    track: Track = silently,
) -> BlendResult:
    """Blend the runs (those named, or all that are done) and write `work/ensemble/blend.json`, or `path`.

    Raises UserError, naming the member, where one is not fit to be blended.
    """
    from threadpoolctl import threadpool_limits

    _refuse_unknown_candidate(settings.keep)
    with threadpool_limits(1):  # two BLAS threads beside a busy neighbour made 0.2 ms into 7.8 ms
        loaded = load_members(
            workspace,
            members or settings.members,
            views=settings.member_views,
            separate_views=settings.separate_views,
            separate_seeds=settings.separate_seeds,
            partial=settings.partial,
            track=track,
        )
        metric = Metric(settings.metric, settings.k)
        evidence = gather_evidence(loaded, metric)
        case = _case(workspace, loaded, evidence, settings, seed=seed, track=track)
        fits = _fit_all(case)
        scores = score_candidates(loaded, metric, evidence.objective, fits)
        kept = _keep(scores, settings.keep)
        nested = nested_choice(loaded, metric, scores, kept, is_chosen=settings.keep is None)
        worth = member_worth(loaded, metric, evidence.objective, kept)
        blend = _describe(loaded, metric, scores, kept, nested, settings=settings, seed=seed)
        gain = gain_over_best(loaded, metric, evidence.objective, kept, worth)
        blend = replace(blend, worth=tuple(map(asdict, worth)), gain=_gain_record(gain))
    return BlendResult(
        blend=blend,
        path=save_blend(path or workspace.blend, blend),
        metric=metric,
        scores=tuple(scores),
        kept=kept,
        nested=nested,
        worth=tuple(worth),
        idle=tuple(costs_nothing(worth, kept.crossfit)),
        undecided=_undecided(evidence),
        warnings=(*_warnings(loaded), *disagreeing_members(loaded)),
    )


def _case(
    workspace: Workspace, members: Members, evidence: Evidence, settings: BlendSettings, *, seed: int, track: Track
) -> Case:
    """What the candidates are fitted on: all images, and all but each fold."""
    n_folds = members.rows.n_folds
    without = (
        tuple(evidence.subset(members.rows.fold != fold) for fold in range(n_folds)) if n_folds > 1 else (evidence,)
    )
    search = Search(
        names=members.names,
        trials=settings.trials,
        sampler=settings.sampler,
        half_samples=settings.half_samples,
        seed=seed,
        study=(workspace.ensemble / "study.db", _study_name(members, settings, seed=seed)),
    )
    return Case(members, evidence, without, search, track)


def _fit_all(case: Case) -> dict[Candidate, Fits]:
    """Every candidate; with one member there is nothing to weigh, with one fold nothing to try weights on."""
    candidates = CANDIDATES if len(case.members) > 1 and case.members.rows.n_folds > 1 else CANDIDATES[:1]
    tracked = case.track(candidates, what="fitting candidates", total=len(candidates), unit="candidates")
    return {candidate: candidate.fit(case) for candidate in tracked}


def _keep(scores: Sequence[Score], name: str | None) -> Score:
    named = [one for one in scores if one.candidate.name == name]
    return named[0] if named else simplest_good(scores)


def _refuse_unknown_candidate(name: str | None) -> None:
    names = [candidate.name for candidate in CANDIDATES]
    if name is not None and name not in names:
        raise UserError(f"there is no candidate {name}; there are {', '.join(names)}", hint="`python run.py blend`")


def _why(members: Members, kept: Score, scores: Sequence[Score], name: str | None) -> str:
    """One clause that says why this candidate was kept."""
    if members.rows.n_folds == 1:
        return "one fold is done, and weights fitted on it could not be tried on another"
    best = min(scores, key=lambda score: score.crossfit)
    if name is not None:
        return f"you asked for it; the best cross-fitted is {best.candidate.name}"
    if len(scores) == 1:
        return "there is one member"
    if kept.behind > 0:
        return (
            f"within one standard error ({kept.behind_error:.4f}) of {best.candidate.name},"
            f" which is {kept.behind:.4f} better and less simple"
        )
    return "no simpler candidate is within one standard error of it" if kept is not scores[0] else "nothing does better"


def _describe(
    members: Members,
    metric: Metric,
    scores: Sequence[Score],
    kept: Score,
    nested: Nested,
    *,
    settings: BlendSettings,
    seed: int,
) -> Blend:
    recipe, rows = kept.fits.whole, members.rows
    runs = [run for member in members.members for run in member.runs]
    return Blend(
        candidate=kept.candidate.name,
        why=_why(members, kept, scores, settings.keep),
        pool=recipe.pool,
        weights=dict(zip(members.names, recipe.weights.tolist(), strict=True)),
        bias=None if recipe.bias is None else dict(zip(rows.classes, recipe.bias.tolist(), strict=True)),
        temperature=fit_temperature(members, recipe),
        runs={member.name: tuple(run.name for run in member.runs) for member in members.members},
        views={member.name: member.runs[0].views for member in members.members},
        metric=metric.name,
        k=metric.k,
        crossfit=kept.crossfit,
        promised=nested.loss,
        promised_interval=nested.interval,
        in_sample=kept.in_sample,
        oof_top3_error=_top3_error(members, metric, nested),
        scores=tuple(_score_record(score) for score in scores),
        images=len(rows),
        seed=seed,
        classes=rows.classes,
        folds_digest=rows.digest,
        files={run.name: dict(run.digests) for run in runs},
        partial=_partial(members),
    )


def _partial(members: Members) -> dict[str, object] | None:
    """What a blend of some folds was made of: which, and how many networks of each run; None for a whole one."""
    if not members.rows.is_partial:
        return None
    runs = [run for member in members.members for run in member.runs]
    networks = {run.name: len(run.tests) for run in runs}
    return {"folds": members.rows.folds, "networks": networks, "left_out": members.left_out}


def _score_record(score: Score) -> dict[str, float | str]:
    return {
        "candidate": score.candidate.name,
        "in_sample": score.in_sample,
        "crossfit": score.crossfit,
        "low": score.interval[0],
        "high": score.interval[1],
        "behind": score.behind,
        "behind_error": score.behind_error,
    }


def _gain_record(gain: tuple[str, Difference] | None) -> dict[str, float | str] | None:
    if gain is None:
        return None
    over, difference = gain
    return {"over": over, "mean": difference.mean, "low": difference.low, "high": difference.high}


def _top3_error(members: Members, metric: Metric, nested: Nested) -> float:
    """The nested top-3 error, whatever metric the candidates were chosen by."""
    if (metric.name, metric.k) == ("top-k-error", 3):
        return nested.loss
    top3, missed = Metric("top-k-error", 3), 0.0
    for fold, chosen in enumerate(nested.chosen):
        recipe = chosen.fits.without[fold]
        for piece, (scores,) in stream_scores([recipe], members.chunks(members.rows.of_fold(fold))):
            missed += float(top3.outcomes(scores, members.rows.target[piece]).sum())
    return missed / len(members.rows)


def _undecided(evidence: Evidence) -> float | None:
    objective = evidence.objective
    return len(objective.layout.row) / len(objective.sure) if isinstance(objective, Reduction) else None


def _warnings(members: Members) -> list[str]:
    """What was noted when a member was added, and a hint where there is too little to learn from."""
    runs = [run for member in members.members for run in member.runs]
    noted = list(dict.fromkeys(f"{run.name}: {note}" for run in runs for note in run.warnings))
    few = np.bincount(members.rows.fold).min()
    if members.rows.is_partial:
        noted = [*_parts(members), *noted]
    return [*noted, f"a fold has {few} images only: every score here is a rough one"] if few < 100 else noted


def _parts(members: Members) -> list[str]:
    """What is lacking in a partial blend."""
    which = ", ".join(map(str, members.rows.folds))
    said = [f"partial: weights and scores are of fold {which} alone, {len(members.rows):,} images"]
    return [*said, f"partial: {first_few(members.left_out)} left out"] if members.left_out else said


def _study_name(members: Members, settings: BlendSettings, *, seed: int) -> str:
    """A name that stands for everything that the search depends on."""
    runs = [(run.views, run.digests) for member in members.members for run in member.runs]
    parts = (members.rows.folds,) if members.rows.is_partial else ()
    said = (
        members.rows.digest,
        runs,
        *parts,
        members.names,
        settings.metric,
        settings.k,
        settings.sampler,
        settings.trials,
    )
    return f"blend-{digest(repr((said, seed)).encode())}"
