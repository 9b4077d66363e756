"""Fits gradient-boosted trees to columns, and makes calibrated probabilities of all classes from them.

Settings measured on 5,500 images of made-up columns (place, camera, hour, month, size; of 103 classes the largest is 65
times the smallest) and on folds 0 to 2 of Caltech-101 with the manifest's columns; seed 0, scikit-learn 1.9.1:

    rate, leaves, L2             0.2,7,10   0.2,5,10   0.2,4,3   0.2,4,10   0.2,4,30   0.2,3,10
    made-up, log loss             1.924      1.895      1.885     1.874      1.876      1.847
    processor seconds of the fit   4.7        4.9        2.9       5.2        9.5        6.2
    Caltech-101, log loss         2.745      2.730      2.732     2.724        -        2.717

On another 6,000 made-up images scikit-learn's defaults (0.1, 31 leaves, L2 0) ended in a loss of 5.4, and with L2 1 in
2.0: single leaves of rare classes diverge. Three leaves are as good and take a third more rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ensemble.settings import TableSettings
from folds.split.assign import stratified_group_folds

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

HELD_FOLDS = 10  # one of so many parts of the training part stops the trees and calibrates them
PATIENCE = 5  # rounds without a lower loss on that part, and no more trees are added
LEAST_PROB = 1e-12  # of the trees, before a logarithm
PRIOR_SHARE = 1e-3  # of every prediction: no class gets a probability of 0, not even one that the trees have never seen
TEMPERATURES = (0.25, 8.0)  # between which the one of the least loss is looked for


@dataclass(frozen=True)
class TableModel:
    """The trees of one fold, and what calibrates them. trees: None where there are too few images, and the prior is all

    targets (c,) int64: the classes that the trees know    prior (C,) float64: shares of the classes, none of them 0
    """

    trees: HistGradientBoostingClassifier | None
    targets: np.ndarray
    prior: np.ndarray
    temperature: float = 1.0

    def probs(self, values: np.ndarray) -> np.ndarray:
        """Probabilities of all classes, none of them 0. (n, D) float64 -> (n, C) float64"""
        if self.trees is None or not len(values):
            return np.tile(self.prior, (len(values), 1))
        return self._calibrated(_log_probs(self.trees, values))

    def _calibrated(self, log_probs: np.ndarray) -> np.ndarray:
        """(n, c) of the trees' classes -> (n, C)"""
        odds = np.exp(log_probs / self.temperature)
        probs = np.tile(PRIOR_SHARE * self.prior, (len(log_probs), 1))
        probs[:, self.targets] += (1 - PRIOR_SHARE) * odds / odds.sum(axis=1, keepdims=True)
        return probs


def fit_table_model(
    values: np.ndarray,
    target: np.ndarray,
    group: np.ndarray,
    settings: TableSettings,
    *,
    is_category: np.ndarray,
    n_classes: int,
    seed: int,
) -> TableModel:
    """Fit trees to the training part of a fold. One thread: threads add up in any order, and the last digits differ.

    values (n, D) float64, NaN where missing; codes of 0 to 254 where is_category (D,)    target (n,) int64 in [0, C)
    group  (n,) int64: images of one number are held out together
    A tenth of the images is held out: it says when to stop, and which temperature has the least loss.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    prior = (np.bincount(target, minlength=n_classes) + 1.0) / (len(target) + n_classes)
    held = held_part(target, group, seed=seed)
    targets = np.unique(target[~held])
    if not held.any() or len(targets) < 2:
        return TableModel(None, targets, prior)
    trees = HistGradientBoostingClassifier(
        max_iter=settings.rounds,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.leaves,
        l2_regularization=settings.l2,
        categorical_features=is_category,
        early_stopping=True,
        n_iter_no_change=PATIENCE,
        random_state=seed,
    )
    with threadpool_limits(1):
        trees.fit(values[~held], target[~held], X_val=values[held], y_val=target[held])
        log_probs = _log_probs(trees, values[held])

    def loss(log_temperature: float) -> float:
        model = TableModel(trees, targets, prior, float(np.exp(log_temperature)))
        return -float(np.log(model._calibrated(log_probs)[np.arange(held.sum()), target[held]]).mean())

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return TableModel(trees, targets, prior, float(np.exp(best.x)))


def held_part(target: np.ndarray, group: np.ndarray, *, seed: int) -> np.ndarray:
    """Which images stop the trees: a tenth of each class, copies together, and no class that is then gone. (n,) bool"""
    n_folds = min(HELD_FOLDS, len(np.unique(group)))
    held = stratified_group_folds(target, group, n_folds=n_folds, seed=seed) == 0
    return held & np.isin(target, target[~held])


def _log_probs(trees: HistGradientBoostingClassifier, values: np.ndarray) -> np.ndarray:
    """(n, D) -> (n, c) float64"""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return np.log(np.maximum(trees.predict_proba(values), LEAST_PROB))
