"""Finds labels that are probably wrong: cleanlab's confident learning on out-of-fold probabilities."""

from __future__ import annotations

import warnings

import numpy as np


def suspected_labels(probs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rows whose label is probably wrong, those first that lie furthest behind the first guess. (S,) int

    probs   (N, C) of networks that have not trained on the image    target  (N,) int in [0, C)
    A row counts where its first guess is another class, as confidently as that class is guessed where it is right.
    Source: Northcutt, Jiang, Chuang 2021, Confident Learning.
    """
    from cleanlab.filter import find_label_issues  # it takes seconds to import

    present = np.unique(target)
    if len(present) < 2:
        return np.empty(0, np.int64)
    narrow = probs[:, present].astype(np.float64)  # a class without any image here has no threshold
    narrow /= np.maximum(narrow.sum(axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find_label_issues(
            np.searchsorted(present, target),
            narrow,
            filter_by="confident_learning",
            return_indices_ranked_by="normalized_margin",
            n_jobs=1,
        )
    rows = np.asarray(found, dtype=np.int64)
    return rows[probs[rows].argmax(axis=1) != target[rows]]
