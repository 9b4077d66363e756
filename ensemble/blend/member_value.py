"""Says what each member is worth to the blend that is kept: its own loss, its weight, the loss without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ensemble.blend.candidates import Fits
from ensemble.blend.cross_fit import Score, crossfit_outcomes
from ensemble.blend.evidence import Objective
from ensemble.blend.recipe import Recipe
from ensemble.members.members import Members
from ensemble.weights.metric import Metric
from folds.base.paired import Difference, paired_difference


@dataclass(frozen=True)
class Worth:
    """One member. Losses are the metric's; without it the others keep their proportions, cross-fitted."""

    name: str
    alone: float
    log_loss: float
    weight: float  # its share: those of all members sum to 1
    weight_low: float  # least and largest of the weights fitted without one fold
    weight_high: float
    without: float | None  # None where nothing is left without it
    error_correlation: float | None  # of its outcomes with the other members', the mean; None for a single member
    nearest: str | None  # the member whose errors are most like its own


def member_worth(members: Members, metric: Metric, objective: Objective, kept: Score) -> list[Worth]:
    """Every member's worth, in the order of their names."""
    alone = np.stack([objective.outcomes(one) for one in np.eye(len(members))])  # (M, N)
    alike = correlation(alone)
    weights = np.stack([recipe.weights / recipe.weights.sum() for recipe in (kept.fits.whole, *kept.fits.without)])
    without = _losses_without(members, metric, objective, kept)
    return [
        Worth(
            name=name,
            alone=metric.loss(alone[m], members.rows.target),
            log_loss=float(-np.log(np.maximum(members.true_probs[m].astype(np.float64), 1e-15)).mean()),
            weight=float(weights[0, m]),
            weight_low=float(weights[1:, m].min()),
            weight_high=float(weights[1:, m].max()),
            without=without[m],
            error_correlation=None if len(members) == 1 else float(np.delete(alike[m], m).mean()),
            nearest=None if len(members) == 1 else _nearest(members.names, alike[m], m),
        )
        for m, name in enumerate(members.names)
    ]


def costs_nothing(worth: list[Worth], crossfit: float) -> list[str]:
    """The members without which the kept blend would be as good."""
    return [one.name for one in worth if one.without is not None and one.without <= crossfit]


def gain_over_best(
    members: Members, metric: Metric, objective: Objective, kept: Score, worth: list[Worth]
) -> tuple[str, Difference] | None:
    """The best member's name, and the kept blend's cross-fitted loss minus its own (below 0: the blend is better).

    None for macro-F1, which is no mean over images.
    """
    if metric.name == "macro-f1":
        return None
    best = min(range(len(worth)), key=lambda member: worth[member].alone)
    alone = objective.outcomes(np.eye(len(members))[best])
    return worth[best].name, paired_difference(kept.outcomes, alone, members.rows.group)


def _nearest(names: tuple[str, ...], correlation: np.ndarray, member: int) -> str:
    others = np.where(np.arange(len(names)) == member, -np.inf, correlation)
    return names[int(others.argmax())]


def correlation(outcomes: np.ndarray) -> np.ndarray:
    """Correlations of the rows, 0 where a row is constant. (M, N) -> (M, M)"""
    away = outcomes - outcomes.mean(axis=1, keepdims=True)
    scaled = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    return scaled @ scaled.T


def _losses_without(members: Members, metric: Metric, objective: Objective, kept: Score) -> list[float | None]:
    """The cross-fitted loss of the kept blend when each member in turn has no weight."""
    fits = [_without(kept.fits, member) for member in range(len(members))]
    possible = [fit for fit in fits if fit is not None]
    if not possible:
        return [None] * len(members)
    outcomes = iter(crossfit_outcomes(members, metric, objective, possible))
    return [None if fit is None else metric.loss(next(outcomes)[1], members.rows.target) for fit in fits]


def _without(fits: Fits, member: int) -> Fits | None:
    recipes = [_dropped(recipe, member) for recipe in (fits.whole, *fits.without)]
    if any(recipe.weights.sum() <= 1e-9 for recipe in recipes):
        return None
    return Fits(recipes[0], tuple(recipes[1:]))


def _dropped(recipe: Recipe, member: int) -> Recipe:
    """The member's weight goes to the others in proportion to theirs."""
    weights = recipe.weights.copy()
    weights[member] = 0.0
    return replace(recipe, weights=weights * (recipe.weights.sum() / max(weights.sum(), 1e-12)))
