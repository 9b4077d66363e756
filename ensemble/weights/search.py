"""Searches weights on the simplex with Optuna, directly on the metric, and ends with exact line searches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.blend.evidence import Evidence
from ensemble.settings import SamplerName
from ensemble.weights.cma import POPULATION
from ensemble.weights.line_search import descend
from ensemble.weights.objective import Reduction

LOW, HIGH = -4.0, 2.0  # logits of the weights: a softmax of them reaches weights that differ by a factor of 400
COPIED_TRIALS = 256  # trials between two copies to the study file
MOST_PASSES = 6  # of exact line searches over all members; two or three find nothing more to do


@dataclass(frozen=True)
class Search:
    """A search that can be repeated: with the same evidence and number it finds the same weights."""

    names: tuple[str, ...]
    trials: int | None
    sampler: SamplerName
    half_samples: int
    seed: int
    study: tuple[Path, str] | None = None  # file and name of the study of the search on all images

    def weights(self, evidence: Evidence, number: int) -> np.ndarray:
        """Weights of little loss: Optuna's best, polished on each of 16 half-samples, and the mean of those. (M,)

        number  0 for the search on all images, which is kept in the study file; others seed other random streams
        """
        if len(self.names) == 1:
            return np.ones(1)
        best = self.best_of_trials(evidence, number)
        if not isinstance(evidence.objective, Reduction):
            return best
        polished = descend(evidence.objective, best, passes=MOST_PASSES)
        if self.half_samples == 1:
            return polished
        rng = np.random.default_rng([self.seed, number, 1])
        halves = [evidence.objective.subset(half_of_groups(evidence.group, rng)) for _ in range(self.half_samples)]
        return np.mean([descend(half, polished, passes=1) for half in halves], axis=0)

    def best_of_trials(self, evidence: Evidence, number: int) -> np.ndarray:
        """The trial with the least loss, ties by log loss. (M,)"""
        logits, losses = self._run_trials(evidence, number)
        tied = softmax(logits[losses == losses.min()])
        return tied[evidence.likelihood.losses(tied).argmin()] if len(tied) > 1 else tied[0]

    def _run_trials(self, evidence: Evidence, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Ask and tell in batches of 16. Logits (trials, M) and losses (trials,)."""
        import optuna

        from ensemble.weights.sampler import Logit, make_sampler
        from ensemble.weights.study import append_trials, stored_losses

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = {name: Logit(LOW, HIGH) for name in self.names}
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        study = optuna.create_study(sampler=make_sampler(self.sampler, seed, space), direction="minimize")
        starts = start_weights(evidence)
        for weights in starts:
            study.enqueue_trial(dict(zip(space, to_logits(weights).tolist(), strict=True)))
        kept = self.study if number == 0 else None
        known = stored_losses(*kept, space) if kept else {}
        asked: list[np.ndarray] = []
        losses: list[float] = []
        n_trials = default_trials(len(space)) if self.trials is None else self.trials
        while len(losses) < n_trials + len(starts):
            size = len(starts) if not losses else POPULATION  # CMA starts from the best start
            batch = [study.ask(dict(space)) for _ in range(size)]
            chosen = [trial.params for trial in batch]  # a copy at each access
            points = np.array([[params[name] for name in space] for params in chosen])  # (16, M)
            values = _losses(evidence, points, [known.get(trial.number) for trial in batch])
            for trial, value in zip(batch, values.tolist(), strict=True):
                study.tell(trial, value)
            asked.append(points)
            losses.extend(values.tolist())
            if kept and (len(losses) // COPIED_TRIALS > (len(losses) - size) // COPIED_TRIALS):
                append_trials(*kept, study.get_trials(deepcopy=False))
        if kept:
            append_trials(*kept, study.get_trials(deepcopy=False))
        return np.concatenate(asked), np.array(losses)


def start_weights(evidence: Evidence) -> list[np.ndarray]:
    """Where the search starts: equal weights, each member nearly alone, the least log loss, the greedy choice."""
    n_members = evidence.n_members
    return [np.full(n_members, 1 / n_members), *np.eye(n_members), evidence.convex, evidence.greedy]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (n, M) as weights that sum to 1."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def to_logits(weights: np.ndarray) -> np.ndarray:
    """Weights as logits inside the bounds, the largest at the upper one. (M,)"""
    with np.errstate(divide="ignore"):
        return np.clip(HIGH + np.log(weights / weights.max()), LOW, HIGH)


def half_of_groups(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images of a random half of the groups of duplicates. (n,) -> (n,) bool"""
    distinct, member_of = np.unique(group, return_inverse=True)
    chosen = np.zeros(len(distinct), bool)
    chosen[rng.permutation(len(distinct))[: (len(distinct) + 1) // 2]] = True
    return chosen[member_of]


def default_trials(n_members: int) -> int:
    """200 up to 5 members, 1,000 up to 15, then 2,000: more finds nothing but the noise of the sample."""
    return 200 if n_members <= 5 else 1000 if n_members <= 15 else 2000


def _losses(evidence: Evidence, points: np.ndarray, known: list[tuple[list[float], float] | None]) -> np.ndarray:
    """The losses of a batch; what a study file knows of the same points is not computed again."""
    if all(trial is not None and np.array_equal(trial[0], point) for trial, point in zip(known, points, strict=True)):
        return np.array([trial[1] for trial in known if trial is not None])
    return evidence.objective.losses(softmax(points))
