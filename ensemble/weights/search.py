"""Searches weights with Optuna directly on the metric, then by exact line searches.

The metric is piecewise constant, so that its steps along a line can be listed: from one member alone to the blend of
the others each contest changes sides at most once, where two linear functions meet. Source: Och 2003, Minimum error
rate training in statistical machine translation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ensemble.settings import BlendSettings
from ensemble.weights.recipe import softmax
from ensemble.weights.reduction import Reduction
from ensemble.weights.simple import FitData
from folds.base.workspace import write_bytes

if TYPE_CHECKING:
    from optuna.study import Study

LEAST_LOGIT = -6.0  # of a start's weight, the largest having 0: no member starts with less than a 400th of the largest
REACH = 3.0  # how far the search goes from the best start, in logits: a weight changes by a factor of 20 at most
MOST_PASSES = 6  # of exact line searches over all members; two or three find nothing more to do
NARROWEST = 1e-7  # intervals of a weight narrower than this are rounding
STUDY = "blend"  # the name of the stored study


@dataclass(frozen=True)
class Search:
    """A search that can be repeated: with the same data and number it finds the same weights."""

    names: tuple[str, ...]
    settings: BlendSettings
    seed: int
    study: Path | None = None  # where the study of the search on all images is stored

    def weights(self, data: FitData, number: int) -> np.ndarray:
        """Optuna's best weights, improved by line searches on each of 16 half-samples, and the mean of those. (M,)

        number  0 for the search on all images, which is stored; others seed other random streams
        """
        if len(self.names) == 1:
            return np.ones(1)
        best = self.best_of_trials(data, number)
        if not isinstance(data.objective, Reduction):
            return best
        best = descend(data.objective, best, passes=MOST_PASSES)
        if self.settings.half_samples == 1:
            return best
        rng = np.random.default_rng([self.seed, number, 1])
        halves = (data.objective.subset(half_of_groups(data.group, rng)) for _ in range(self.settings.half_samples))
        return np.mean([descend(half, best, passes=1) for half in halves], axis=0)

    def best_of_trials(self, data: FitData, number: int) -> np.ndarray:
        """The best weights of all trials, ties by log loss. (M,)"""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        starts = start_weights(data)
        best = data.best_of(starts)
        with np.errstate(divide="ignore"):  # where CMA-ES begins: in the middle of the space
            centre = np.maximum(np.log(best / best.max()), LEAST_LOGIT)
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        samplers = {"cma": optuna.samplers.CmaEsSampler, "tpe": optuna.samplers.TPESampler}
        sampler = samplers.get(self.settings.sampler, optuna.samplers.RandomSampler)(seed=seed)
        study = optuna.create_study(sampler=sampler, study_name=STUDY)

        def loss_of(trial: optuna.Trial) -> float:
            pairs = zip(self.names, centre, strict=True)
            logits = np.array([trial.suggest_float(name, mid - REACH, mid + REACH) for name, mid in pairs])
            return float(data.objective.losses(softmax(logits[None]))[0])

        study.optimize(loss_of, n_trials=self.settings.trials)
        if self.study and number == 0:
            store_study(study, self.study)
        tied = [trial for trial in study.get_trials(deepcopy=False) if trial.value == study.best_value]
        found = softmax(np.array([[trial.params[name] for name in self.names] for trial in tied]))
        return data.best_of(np.concatenate([starts, found]))


class _Lines(list):
    """A journal of Optuna in memory: its own file storage waits for the disk after each trial."""

    def append_logs(self, logs: Sequence[dict]) -> None:
        self.extend(logs)

    def read_logs(self, log_number_from: int) -> list:
        return self[log_number_from:]


def store_study(study: Study, path: Path) -> None:
    """Write a study that was made in memory to a journal file, which optuna-dashboard opens."""
    import optuna

    journal = _Lines()
    storage = optuna.storages.JournalStorage(journal)  # type: ignore[arg-type]
    optuna.copy_study(from_study_name=STUDY, from_storage=study._storage, to_storage=storage)
    write_bytes(path, "".join(json.dumps(log) + "\n" for log in journal).encode())


def descend(reduction: Reduction, weights: np.ndarray, *, passes: int) -> np.ndarray:
    """Weights on the simplex that no change of a single weight improves, or those after so many passes. (M,) -> (M,)"""
    weights = weights / weights.sum()
    loss = float(reduction.losses(weights[None])[0])
    for _ in range(passes):
        before = loss
        for alone in np.eye(len(weights)):
            others = np.where(alone == 1, 0.0, weights)
            if others.sum() < NARROWEST:
                continue
            share, found = best_on_line(reduction, others / others.sum(), alone)
            if found < loss - 1e-12:
                weights, loss = (1 - share) * others / others.sum() + share * alone, found
        if loss == before:
            break
    return weights


def best_on_line(reduction: Reduction, start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Where from start (0) to end (1) the loss is least, the middle of the widest such part, and that loss."""
    owner, k = reduction.owner, len(reduction.steps) - 1
    lead, final = (weights.astype(np.float32) @ reduction.leads for weights in (start, end))  # (R,)
    ahead = lead > 0  # at the start
    ranks = reduction.sure[reduction.row] + np.bincount(owner[ahead], minlength=len(reduction.row))  # (U,)
    turning = np.flatnonzero(ahead != (final > 0))
    first = lead[turning].astype(np.float64)
    where = first / (first - final[turning])  # in [0, 1]: where the rival and the true class are level
    order = np.argsort(2.0 * owner[turning] + where)  # image after image, inside an image along the line
    turned, where = owner[turning][order], where[order]  # the images that the turns belong to
    change = np.where(ahead[turning][order], -1, 1)
    after = np.cumsum(change)
    begins = np.flatnonzero(np.diff(turned, prepend=-1))  # each image's first turn
    before_image = np.repeat((after - change)[begins], np.diff(np.append(begins, len(turned))))
    after += ranks[turned] - before_image  # the rank after each turn
    gain = reduction.steps[np.minimum(after, k)] - reduction.steps[np.minimum(after - change, k)]
    total = float(reduction.steps[np.minimum(ranks, k)].sum()) + reduction.decided_loss
    steps = np.flatnonzero(gain)
    steps = steps[np.argsort(where[steps], kind="stable")]  # of all images together, along the line
    edges = np.concatenate([[0.0], where[steps], [1.0]])
    heights = np.concatenate([[0.0], np.cumsum(gain[steps])])  # above the start, between two edges each
    widths = np.diff(edges)
    wide_enough = np.where(widths > NARROWEST, heights, np.inf)
    lowest = np.flatnonzero(wide_enough <= wide_enough.min() + 1e-9)
    part = lowest[widths[lowest].argmax()]
    return float((edges[part] + edges[part + 1]) / 2), (total + float(heights[part])) / len(reduction.sure)


def start_weights(data: FitData) -> np.ndarray:
    """Where the search starts: equal weights, each member alone, the least log loss, the greedy choice. (M + 3, M)"""
    return np.stack([np.full(data.n_members, 1 / data.n_members), *np.eye(data.n_members), data.convex, data.greedy])


def half_of_groups(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images of a random half of the groups of duplicates. (n,) -> (n,) bool"""
    distinct = np.unique(group)
    return np.isin(group, rng.permutation(distinct)[: (len(distinct) + 1) // 2])
