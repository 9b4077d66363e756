"""Measures what each member brings to the blend that is kept: its own loss, its weight, the loss without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.blend.candidates import Fits
from ensemble.blend.cross_fit import Score, Scoring
from ensemble.weights.metric import LEAST_PROB
from folds.base.interval import paired_difference


@dataclass(frozen=True)
class MemberValue:
    """One member. Losses are the metric's; without it the others keep their proportions, cross-fitted."""

    name: str
    alone: float
    rarest: float  # alone, the mean of the rarest quarter of the classes
    log_loss: float
    weight: float  # its share: those of all members sum to 1
    weight_low: float  # least and largest of the weights fitted without one fold
    weight_high: float
    without: float | None  # None where nothing is left without it
    error_correlation: float | None  # of its outcomes with the other members', the mean; None for a single member


def member_values(scoring: Scoring, kept: Score) -> tuple[MemberValue, ...]:
    """Every member's figures, in the order of their names."""
    members = scoring.members
    alone = np.stack([scoring.objective.outcomes(one) for one in np.eye(len(members))])  # (M, N)
    alike, is_single = correlation(alone), len(members) == 1
    weights = np.stack([recipe.weights / recipe.weights.sum() for recipe in (kept.fits.whole, *kept.fits.without)])
    fits = {m: fit for m in range(len(members)) if (fit := _without(kept.fits, m)) is not None}
    without = dict(zip(fits, scoring.outcomes(list(fits.values()))[:, 1], strict=True))  # cross-fitted, (N,) each
    return tuple(
        MemberValue(
            name=name,
            alone=float(alone[m].mean()),
            rarest=rarest_loss(alone[m], members.rows.target),
            log_loss=float(-np.log(np.maximum(members.true_probs[m].astype(np.float64), LEAST_PROB)).mean()),
            weight=float(weights[0, m]),
            weight_low=float(weights[1:, m].min()),
            weight_high=float(weights[1:, m].max()),
            without=float(without[m].mean()) if m in without else None,
            error_correlation=None if is_single else float(np.delete(alike[m], m).mean()),
        )
        for m, name in enumerate(members.names)
    )


def rarest_loss(outcomes: np.ndarray, target: np.ndarray) -> float:
    """The mean over the rarest quarter of the classes of the mean loss of their images; for an error, 1 - recall.

    outcomes  (N,) the loss of each image    target  (N,) int; of equally rare classes the lower ones count first
    """
    classes, which, images = np.unique(target, return_inverse=True, return_counts=True)
    rarest = np.argsort(images, kind="stable")[: -(-len(classes) // 4)]
    return float((np.bincount(which, outcomes) / images)[rarest].mean())


def gain_over_best(scoring: Scoring, kept: Score, values: Sequence[MemberValue]) -> dict[str, str | float]:
    """The kept blend's cross-fitted loss minus the best member's and its 95% interval; below 0 the blend is better."""
    best = min(range(len(values)), key=lambda member: values[member].alone)
    alone = scoring.objective.outcomes(np.eye(len(values))[best])
    gain = paired_difference(kept.outcomes, alone, scoring.members.rows.group)
    return {"over": values[best].name, "mean": gain.mean, "low": gain.low, "high": gain.high}


def correlation(outcomes: np.ndarray) -> np.ndarray:
    """Correlations of the rows, 0 where a row is constant. (M, N) -> (M, M)"""
    away = outcomes - outcomes.mean(axis=1, keepdims=True)
    scaled = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    return scaled @ scaled.T


def _without(fits: Fits, member: int) -> Fits | None:
    """The member's weight goes to the others in proportion to theirs; None where they have none."""
    made = []
    for recipe in (fits.whole, *fits.without):
        weights = recipe.weights.copy()
        weights[member] = 0.0
        if weights.sum() <= 1e-9:
            return None
        made.append(replace(recipe, weights=weights * (recipe.weights.sum() / weights.sum())))
    return Fits(made[0], tuple(made[1:]))
