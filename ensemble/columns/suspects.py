"""Finds columns that are too good, and columns that have other values in the test images."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ensemble.analysis.test_likeness import FAR, crossfit_auc, deal_groups
from ensemble.columns.column_kinds import Column

Auc: TypeAlias = tuple[float, float, float]  # and the 95% interval

LEAK_ERROR = 0.01  # of the label alone, by the image that is nearest in the column: a leak, and no luck
LEAK_GAIN = 0.1  # and at most so much of the error of the most frequent class
LEAST_KNOWN = 0.5  # share of the training images that must have a value
BINS = 64  # of a number's values: enough that a narrow range of times is seen


def label_error(column: Column, target: np.ndarray, fold: np.ndarray) -> float | None:
    """The error where each training image gets the label of the nearest one of other folds, by this column alone.

    target, fold (N,) int64. Images without a value are left out; None where that are most of them.
    """
    known = ~np.isnan(column.train[:, 0])
    if known.mean() < LEAST_KNOWN:
        return None
    wrong = 0
    for held in np.unique(fold[known]):
        seen, own = known & (fold != held), known & (fold == held)
        order = np.argsort(column.train[seen, 0], kind="stable")
        if not len(order):
            return None
        values, labels = column.train[seen, 0][order], target[seen][order]
        asked = column.train[own, 0]
        right = np.minimum(np.searchsorted(values, asked), len(values) - 1)
        left = np.maximum(right - 1, 0)
        nearest = np.where(np.abs(values[left] - asked) < np.abs(values[right] - asked), left, right)
        wrong += int((labels[nearest] != target[own]).sum())
    return wrong / int(known.sum())


def is_leak(column: Column, target: np.ndarray, fold: np.ndarray) -> bool:
    """Whether the column says the label by itself."""
    error = label_error(column, target, fold)
    most_frequent = 1 - np.bincount(target).max() / len(target)
    return error is not None and error <= min(LEAK_ERROR, LEAK_GAIN * most_frequent)


def measure_test_auc(column: Column, group: np.ndarray, *, seed: int) -> Auc | None:
    """How well the column tells test from training images: an AUC of 0.5 to 1, and its 95% interval.

    group (N + T,) int64: copies, of training images first. By the share of test images among the other images of the
    same bin; a value that is missing is a bin too. None where there are too few images.
    """
    is_test = np.arange(len(group)) >= len(column.train)
    fold = deal_groups(group, is_test, np.random.default_rng([seed, 44])) if is_test.any() else None
    if fold is None:
        return None
    own = np.concatenate([column.train[:, 0], column.test[:, 0]])
    known = own[~np.isnan(own)]
    edges = np.unique(known if column.is_category else np.quantile(known, np.linspace(0, 1, BINS)))
    bins = np.where(np.isnan(own), len(edges) + 1, np.searchsorted(edges, own))
    odds = np.empty(len(own))
    for held in np.unique(fold):
        seen = fold != held
        test, train = (np.bincount(bins[seen & part], minlength=len(edges) + 2) + 1.0 for part in (is_test, ~is_test))
        odds[fold == held] = np.log(test / train)[bins[fold == held]]
    return crossfit_auc(odds, is_test, fold, group, noise=1.0)  # as where the sets are alike: the widest interval


def is_far(auc: Auc) -> bool:
    """Beyond chance, and so far that what the trees learn from the column may not hold for the test images."""
    return auc[1] > 0.5 and auc[0] >= FAR
