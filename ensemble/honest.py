"""This file scores candidates on images that their weights have not seen, and keeps the simplest that is good enough.

A candidate's cross-fitted score blends each fold with weights fitted on the other folds. Candidates are compared on the
same images, by a bootstrap over groups of duplicates; the first one (they are ordered by simplicity) whose loss lies
within one standard error of the best is kept. Source: the one-standard-error rule, Breiman et al. 1984, CART.
The kept candidate's score flatters it, since it was chosen on the images that it is scored on. What is promised is the
nested score: each fold under the candidate chosen on the other folds. Source: Varma and Simon 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.candidates import Candidate, Fits
from ensemble.evidence import Objective, pooled_as
from ensemble.members import Members
from ensemble.metric import Metric
from ensemble.pools import Recipe, stream_scores
from folds.paired import paired_difference

RESAMPLES = 1000
NONE_SEEN = (
    3.0  # no error on n images: up to 3 / n are likely, though no resample shows one (Hanley, Lippman-Hand 1983)
)
MOST_PATTERNS = 20_000  # above so many distinct rows of outcomes (log loss) 200 resamples must do


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
    members: Members, metric: Metric, objective: Objective, fits: Mapping[Candidate, Fits], *, seed: int
) -> list[Score]:
    """The candidates in their order, each with in-sample and cross-fitted loss, interval and distance to the best."""
    target, group = members.rows.target, members.rows.group
    outcomes = crossfit_outcomes(members, metric, objective, list(fits.values()))  # (candidates, 2, N)
    crossfit = [metric.loss(outcome, target) for _, outcome in outcomes]
    best = int(np.argmin(crossfit))
    resampled = bootstrap_losses(metric, outcomes[:, 1], target, group, seed=seed)  # (R, candidates)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    spread = (resampled - resampled[:, [best]]).std(axis=0)
    return [
        Score(
            candidate=candidate,
            fits=fits[candidate],
            in_sample=metric.loss(outcomes[i, 0], target),
            crossfit=crossfit[i],
            interval=(float(low[i]), float(high[i]) or NONE_SEEN / len(target)),
            behind=crossfit[i] - crossfit[best],
            behind_error=float(spread[i]),
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
    Macro-F1, which is no mean over images, keeps the plain score.
    """
    n_folds = members.rows.n_folds
    if not is_chosen or n_folds == 1 or len(scores) == 1 or metric.name == "macro-f1":
        return Nested((kept,) * n_folds, kept.crossfit, kept.interval)
    target, fold, group = members.rows.target, members.rows.fold, members.rows.group
    chosen = tuple(_chosen_on(metric, scores, target, group, fold != k) for k in range(n_folds))
    outcomes = np.stack([one.outcomes for one in chosen])[fold, np.arange(len(fold))]
    loss = metric.loss(outcomes, target)
    width = kept.interval[1] - kept.crossfit, kept.crossfit - kept.interval[0]
    return Nested(chosen, loss, (max(0.0, loss - width[1]), loss + width[0]))


def _chosen_on(
    metric: Metric, scores: Sequence[Score], target: np.ndarray, group: np.ndarray, rows: np.ndarray
) -> Score:
    """The candidate that `simplest_good` would keep if there were these images only. rows (N,) bool"""
    losses = [metric.loss(score.outcomes[rows], target[rows]) for score in scores]
    best = scores[int(np.argmin(losses))].outcomes[rows]
    return next(
        score for score in scores if not paired_difference(score.outcomes[rows], best, group[rows]).is_above_error
    )


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


def bootstrap_losses(
    metric: Metric, outcomes: np.ndarray, target: np.ndarray, group: np.ndarray, *, seed: int
) -> np.ndarray:
    """The losses of all candidates on resampled groups of duplicates, the same for all. (R, candidates) float64."""
    rng = np.random.default_rng([seed, 2])
    _, member_of, size = np.unique(group, return_inverse=True, return_counts=True)
    if metric.name == "macro-f1":
        draws = (rng.multinomial(len(size), np.full(len(size), 1 / len(size)))[member_of] for _ in range(200))
        return np.array([[metric.loss(one, target, counts) for one in outcomes] for counts in draws])
    sums = np.stack([np.bincount(member_of, one) for one in outcomes])  # (candidates, G)
    # Groups with the same outcomes are one pattern: drawing patterns by their frequency is drawing groups.
    signs = np.sum(sums * rng.random((len(sums), 1)), axis=0) + size * rng.random()
    _, first, frequency = np.unique(signs, return_index=True, return_counts=True)
    n_draws = RESAMPLES if len(first) <= MOST_PATTERNS else RESAMPLES // 5
    drawn = rng.multinomial(len(size), frequency / frequency.sum(), size=n_draws)  # (R, patterns)
    return (drawn @ sums[:, first].T) / (drawn @ size[first])[:, None]
