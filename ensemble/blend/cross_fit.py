"""Scores candidates on images that their weights have not seen, and keeps the best, or equal weights.

A candidate's cross-fitted score blends each fold with weights fitted on the other folds. Candidates are compared on the
same images, image by image and by groups of duplicates. The best is kept, unless the first, equal weights, lies within
one standard error of it: the rule of Breiman et al. 1984, CART, for this one step. For every step it cost 1 to 5% of
the error on made-up competitions, and gained nothing on real ones (docs/expected.md).
The kept candidate's score is a little too good, since it was chosen on the images that it is scored on. The expected
score is the nested one: each fold under the candidate chosen on the other folds. Source: Varma and Simon 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.blend.candidates import Candidate, Fits
from ensemble.members.members import Members
from ensemble.weights.metric import Metric
from ensemble.weights.recipe import Recipe, blend_scores
from ensemble.weights.reduction import Reduction
from ensemble.weights.simple import Objective
from folds.base.interval import paired_difference


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
    group = members.rows.group
    outcomes = crossfit_outcomes(members, metric, objective, list(fits.values()))  # (candidates, 2, N)
    crossfit = [float(own.mean()) for own in outcomes[:, 1]]
    best = int(np.argmin(crossfit))
    return [
        Score(
            candidate=candidate,
            fits=fits[candidate],
            in_sample=float(outcomes[i, 0].mean()),
            crossfit=crossfit[i],
            interval=metric.interval(outcomes[i, 1], group),
            behind=crossfit[i] - crossfit[best],
            behind_error=paired_difference(outcomes[i, 1], outcomes[best, 1], group).standard_error,
            outcomes=outcomes[i, 1],
        )
        for i, candidate in enumerate(fits)
    ]


def best_or_equal(scores: Sequence[Score]) -> Score:
    """The first candidate, equal weights, where it is within one standard error of the best; else the best.

    An image more or less is not counted: a lead of one image is as large as its own standard error. Source of the
    correction: Edwards 1948, for McNemar. Of equally good candidates the first is the best.
    """
    first = scores[0]
    if first.behind - 1 / len(first.outcomes) <= first.behind_error:
        return first
    return min(scores, key=lambda score: score.crossfit)


@dataclass(frozen=True)
class Nested:
    """What choosing among the candidates leads to, each fold scored under the candidate chosen without it."""

    chosen: tuple[Score, ...]  # by fold
    outcomes: np.ndarray  # (N,) each image's loss

    @property
    def loss(self) -> float:
        """The mean over the images."""
        return float(self.outcomes.mean())


def nested_choice(members: Members, scores: Sequence[Score], kept: Score, *, is_chosen: bool) -> Nested:
    """The score of the whole procedure, the choice of the candidate included.

    is_chosen  whether the figures chose `kept`; a candidate that the user named has its own cross-fitted score
    """
    n_folds, fold, group = members.rows.n_folds, members.rows.fold, members.rows.group
    if not is_chosen or n_folds == 1 or len(scores) == 1:
        return Nested((kept,) * n_folds, kept.outcomes)
    chosen = tuple(_chosen_on(scores, group, fold != k) for k in range(n_folds))
    return Nested(chosen, np.stack([one.outcomes for one in chosen])[fold, np.arange(len(fold))])


def _chosen_on(scores: Sequence[Score], group: np.ndarray, rows: np.ndarray) -> Score:
    """The candidate that `best_or_equal` keeps by these images alone. rows (N,) bool

    The standard error is that of all N images, with which the kept one is chosen: fewer would keep equal weights.
    """
    best = min(scores, key=lambda score: float(score.outcomes[rows].mean()))
    behind = paired_difference(scores[0].outcomes[rows], best.outcomes[rows], group[rows])
    is_within = behind.mean - 1 / len(rows) <= behind.standard_error * float(np.sqrt(rows.mean()))
    return scores[0] if is_within else best


def crossfit_outcomes(members: Members, metric: Metric, objective: Objective, fits: Sequence[Fits]) -> np.ndarray:
    """Each candidate's outcomes in-sample [:, 0] and cross-fitted [:, 1]. (candidates, 2, N) float64."""
    outcomes = np.full((len(fits), 2, len(members.rows)), np.nan)
    fast = [_for_recipe(objective, fit.whole) for fit in fits]
    for i, (fit, known) in enumerate(zip(fits, fast, strict=True)):
        if known is not None:
            outcomes[i, 0] = known.outcomes(fit.whole.weights)
            for fold, recipe in enumerate(fit.without):
                place = members.rows.of_fold(fold)
                outcomes[i, 1, place] = known.outcomes(recipe.weights)[place]
    slow = [i for i, known in enumerate(fast) if known is None]
    if slow:
        outcomes[slow] = _blended_outcomes(members, metric, [fits[i] for i in slow])
    assert not np.isnan(outcomes).any(), "an image was not scored"
    return outcomes


def _for_recipe(objective: Objective, recipe: Recipe) -> Objective | None:
    """The objective for the recipe's pool; None where the images have to be blended."""
    if recipe.bias is not None:
        return None
    if recipe.pool == "mean":
        return objective
    return replace(objective, pool=recipe.pool) if isinstance(objective, Reduction) else None


def _blended_outcomes(members: Members, metric: Metric, fits: Sequence[Fits]) -> np.ndarray:
    """The same by blending all images, for recipes that the objective does not know."""
    outcomes = np.empty((len(fits), 2, len(members.rows)))
    for fold in range(members.rows.n_folds):
        recipes = [recipe for fit in fits for recipe in (fit.whole, fit.without[fold])]
        for piece, probs in members.chunks(members.rows.of_fold(fold)):
            made = []
            for recipe, scores in zip(recipes, blend_scores(recipes, probs), strict=True):
                # Ranks are taken of the scores, as in the submission: probabilities can be equal where scores are not.
                judged = recipe.probs(scores) if metric.name == "log-loss" else scores
                made.append(metric.outcomes(judged, members.rows.target[piece]))
            outcomes[:, :, piece] = np.reshape(made, (len(fits), 2, -1))
    return outcomes
