"""Scores candidates on images that their weights have not seen, and keeps the simplest that is good enough.

A candidate's cross-fitted score blends each fold with weights fitted on the other folds. Candidates are compared on the
same images, image by image and by groups of duplicates; the first one (they are ordered by simplicity) whose loss lies
within one standard error of the best is kept. Source: the one-standard-error rule, Breiman et al. 1984, CART.
The kept candidate's score flatters it, since it was chosen on the images that it is scored on. What is promised is the
nested score: each fold under the candidate chosen on the other folds. Source: Varma and Simon 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.blend.candidates import Candidate, Fits
from ensemble.blend.evidence import Objective, pooled_as
from ensemble.blend.recipe import Recipe, stream_scores
from ensemble.members.members import Members
from ensemble.weights.metric import Metric
from folds.base.paired import paired_difference


@dataclass(frozen=True)
class Score:
    """A candidate with its losses: lower is better."""

    candidate: Candidate
    fits: Fits
    in_sample: float  # fitted and scored on the same images
    crossfit: float  # every image scored by weights fitted without its fold
    interval: tuple[float, float]  # 95%, of the cross-fitted loss
    behind: float  # cross-fitted loss minus the best candidate's
    behind_error: float  # the standard error of that difference
    outcomes: np.ndarray  # (N,) cross-fitted

    @property
    def optimism(self) -> float:
        """How much better it looks on the images that it was fitted on."""
        return self.crossfit - self.in_sample


def score_candidates(
    members: Members, metric: Metric, objective: Objective, fits: Mapping[Candidate, Fits]
) -> list[Score]:
    """The candidates in their order, each with in-sample and cross-fitted loss, interval and distance to the best."""
    target, group = members.rows.target, members.rows.group
    outcomes = crossfit_outcomes(members, metric, objective, list(fits.values()))  # (candidates, 2, N)
    crossfit = [metric.loss(outcome, target) for _, outcome in outcomes]
    best = int(np.argmin(crossfit))
    shares = [metric.shares(outcome, target) for outcome in outcomes[:, 1]]
    return [
        Score(
            candidate=candidate,
            fits=fits[candidate],
            in_sample=metric.loss(outcomes[i, 0], target),
            crossfit=crossfit[i],
            interval=metric.interval(outcomes[i, 1], target, group),
            behind=crossfit[i] - crossfit[best],
            behind_error=paired_difference(shares[i], shares[best], group).standard_error,
            outcomes=outcomes[i, 1],
        )
        for i, candidate in enumerate(fits)
    ]


def simplest_good(scores: Sequence[Score]) -> Score:
    """The first candidate within one standard error of the best, an image more or less not counted.

    A lead of one image is as large as its own standard error. Source of the correction: Edwards 1948, for McNemar.
    """
    return next(score for score in scores if score.behind - 1 / len(score.outcomes) <= score.behind_error)


@dataclass(frozen=True)
class Nested:
    """What choosing among the candidates leads to, each fold scored under the candidate chosen without it."""

    chosen: tuple[Score, ...]  # by fold
    loss: float
    interval: tuple[float, float]  # 95%


def nested_choice(members: Members, metric: Metric, scores: Sequence[Score], kept: Score, *, is_chosen: bool) -> Nested:
    """The score of the whole procedure, the choice of the candidate included.

    is_chosen  whether the figures chose `kept`; a candidate that the user named has its own cross-fitted score
    """
    n_folds = members.rows.n_folds
    if not is_chosen or n_folds == 1 or len(scores) == 1:
        return Nested((kept,) * n_folds, kept.crossfit, kept.interval)
    target, fold, group = members.rows.target, members.rows.fold, members.rows.group
    chosen = tuple(_chosen_on(metric, scores, target, group, fold != k) for k in range(n_folds))
    outcomes = np.stack([one.outcomes for one in chosen])[fold, np.arange(len(fold))]
    return Nested(chosen, metric.loss(outcomes, target), metric.interval(outcomes, target, group))


def _chosen_on(
    metric: Metric, scores: Sequence[Score], target: np.ndarray, group: np.ndarray, rows: np.ndarray
) -> Score:
    """The candidate that `simplest_good` keeps by these images alone. rows (N,) bool

    The standard error is that of all N images, with which the kept one is chosen: fewer would keep a simpler one.
    """
    shares = [metric.shares(score.outcomes[rows], target[rows]) for score in scores]
    best = min(shares, key=lambda share: float(share.mean()))
    fewer = float(np.sqrt(rows.mean()))
    apart = [paired_difference(share, best, group[rows]) for share in shares]
    within = [one.mean - 1 / len(rows) <= one.standard_error * fewer for one in apart]
    return scores[within.index(True)]


def crossfit_outcomes(members: Members, metric: Metric, objective: Objective, fits: Sequence[Fits]) -> np.ndarray:
    """Each candidate's outcomes in-sample [:, 0] and cross-fitted [:, 1]. (candidates, 2, N) float64."""
    outcomes = np.full((len(fits), 2, len(members.rows)), np.nan)
    fast = [_fast_objective(objective, fit.whole) for fit in fits]
    for i, (fit, known) in enumerate(zip(fits, fast, strict=True)):
        if known is not None:
            outcomes[i, 0] = known.outcomes(fit.whole.weights)
            for fold, recipe in enumerate(fit.without):
                place = members.rows.of_fold(fold)
                outcomes[i, 1, place] = known.outcomes(recipe.weights)[place]
    slow = [i for i, known in enumerate(fast) if known is None]
    if slow:
        outcomes[slow] = _streamed_outcomes(members, metric, [fits[i] for i in slow])
    assert not np.isnan(outcomes).any(), "an image was not scored"
    return outcomes


def _fast_objective(objective: Objective, recipe: Recipe) -> Objective | None:
    """The objective for the recipe's pool; None where the images have to be blended."""
    return None if recipe.bias is not None else pooled_as(objective, recipe.pool)


def _streamed_outcomes(members: Members, metric: Metric, fits: Sequence[Fits]) -> np.ndarray:
    """The same from one reading of the members, for recipes that the objective does not know."""
    outcomes = np.empty((len(fits), 2, len(members.rows)))
    for fold in range(members.rows.n_folds):
        recipes = [recipe for fit in fits for recipe in (fit.whole, fit.without[fold])]
        for piece, blended in stream_scores(recipes, members.chunks(members.rows.of_fold(fold))):
            target, pairs = members.rows.target[piece], zip(recipes, blended, strict=True)
            made = [metric.outcomes(metric.judged(recipe, scores), target) for recipe, scores in pairs]
            outcomes[:, :, piece] = np.reshape(made, (len(fits), 2, -1))
    return outcomes
