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
from ensemble.members.training_rows import Rows
from ensemble.weights.metric import Metric
from ensemble.weights.recipe import Recipe, blend_scores
from ensemble.weights.reduction import Reduction
from ensemble.weights.simple import Objective
from folds.base.interval import Difference, paired_difference

LEAST_DISTINCT = 1e-12  # above it float32 probabilities stay apart as sums of log(p + 1e-6); smaller ones may not


@dataclass(frozen=True)
class Score:
    """A candidate with its losses: lower is better."""

    candidate: Candidate
    fits: Fits
    in_sample: float  # fitted and scored on the same images
    crossfit: float  # every image scored by weights fitted without its fold
    low: float  # the 95% interval of the cross-fitted loss
    high: float
    behind: float  # cross-fitted loss minus the best candidate's
    behind_error: float  # the standard error of that difference
    outcomes: np.ndarray  # (N,) cross-fitted

    @property
    def optimism(self) -> float:
        """How much better it looks on the images that it was fitted on."""
        return self.crossfit - self.in_sample

    @property
    def figures(self) -> dict[str, str | float]:
        """What `blend.json` keeps of it."""
        names = ("in_sample", "crossfit", "low", "high", "behind", "behind_error")
        return {"candidate": self.candidate.name, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Scoring:
    """What recipes are scored with: the members' out-of-fold predictions and the metric.

    objective  the metric as a function of the weights, for recipes that need no blending
    """

    members: Members
    metric: Metric
    objective: Objective

    def outcomes(self, fits: Sequence[Fits]) -> np.ndarray:
        """Each candidate's outcomes in-sample [:, 0] and cross-fitted [:, 1]. (candidates, 2, N) float64."""
        rows = self.members.rows
        outcomes, slow = np.empty((len(fits), 2, len(rows))), []
        for i, fit in enumerate(fits):
            objective = self._objective_for(fit.whole)
            if objective is None:
                slow.append(i)
                continue
            outcomes[i, 0] = objective.outcomes(fit.whole.weights)
            for fold, recipe in enumerate(fit.without):
                place = rows.of_fold(fold)
                outcomes[i, 1, place] = objective.outcomes(recipe.weights)[place]
        if slow:
            outcomes[slow] = self._blended_outcomes([fits[i] for i in slow])
        return outcomes

    def _objective_for(self, recipe: Recipe) -> Objective | None:
        """The objective for the recipe's pool; None where the images have to be blended."""
        if recipe.bias is not None:
            return None
        if recipe.pool == "mean":
            return self.objective
        # Where all members give the true class next to nothing, it ties with classes that they give less.
        is_exact = self.members.true_probs.max(axis=0).min() > LEAST_DISTINCT
        return replace(self.objective, pool="log") if is_exact and isinstance(self.objective, Reduction) else None

    def _blended_outcomes(self, fits: Sequence[Fits]) -> np.ndarray:
        """The same by blending all images, for recipes that the objective does not know."""
        rows, metric = self.members.rows, self.metric
        outcomes = np.empty((len(fits), 2, len(rows)))
        for fold in range(rows.n_folds):
            recipes = [recipe for fit in fits for recipe in (fit.whole, fit.without[fold])]
            for piece, probs in self.members.chunks(fold):
                made = []
                for recipe, scores in zip(recipes, blend_scores(recipes, probs), strict=True):
                    # Ranks are of the scores, as in the submission: probabilities can be equal where scores are not.
                    judged = recipe.probs(scores) if metric.name == "log-loss" else scores
                    made.append(metric.outcomes(judged, rows.target[piece]))
                outcomes[:, :, piece] = np.reshape(made, (len(fits), 2, -1))
        return outcomes


def score_candidates(scoring: Scoring, fits: Mapping[Candidate, Fits]) -> list[Score]:
    """The candidates in their order, each with in-sample and cross-fitted loss, interval and distance to the best."""
    group, outcomes = scoring.members.rows.group, scoring.outcomes(list(fits.values()))  # (candidates, 2, N)
    in_sample, crossfit = outcomes.mean(axis=2).T.tolist()
    best = int(np.argmin(crossfit))
    return [
        Score(
            candidate,
            fits[candidate],
            in_sample[i],
            crossfit[i],
            *scoring.metric.interval(outcomes[i, 1], group),
            behind=crossfit[i] - crossfit[best],
            behind_error=paired_difference(outcomes[i, 1], outcomes[best, 1], group).standard_error,
            outcomes=outcomes[i, 1],
        )
        for i, candidate in enumerate(fits)
    ]


def best_or_equal(scores: Sequence[Score], group: np.ndarray, rows: np.ndarray) -> Score:
    """The first candidate, equal weights, where it is within one standard error of the best; else the best.

    group  (N,) int: images with one number are copies
    rows   (N,) bool: the images that decide. The standard error is that of all N images, with which the kept one is
           chosen: fewer would keep equal weights. Of equally good candidates the first is the best.
    """
    first, best = scores[0], min(scores, key=lambda score: float(score.outcomes[rows].mean()))
    behind = paired_difference(first.outcomes[rows], best.outcomes[rows], group[rows])
    behind = Difference(behind.mean, behind.standard_error * float(np.sqrt(rows.mean())), len(rows))
    return best if behind.is_above_error else first


@dataclass(frozen=True)
class Nested:
    """What choosing among the candidates leads to, each fold scored under the candidate chosen without it."""

    chosen: tuple[Score, ...]  # by fold
    outcomes: np.ndarray  # (N,) each image's loss


def nested_choice(scores: Sequence[Score], kept: Score, rows: Rows, *, is_chosen: bool) -> Nested:
    """The score of the whole procedure, the choice of the candidate included.

    is_chosen  whether the figures chose `kept`; a candidate that the user named has its own cross-fitted score
    """
    if not is_chosen or rows.n_folds == 1 or len(scores) == 1:
        return Nested((kept,) * rows.n_folds, kept.outcomes)
    chosen = tuple(best_or_equal(scores, rows.group, rows.fold != k) for k in range(rows.n_folds))
    return Nested(chosen, np.stack([one.outcomes for one in chosen])[rows.fold, np.arange(len(rows))])
