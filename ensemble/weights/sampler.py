"""Lets Optuna sample with `ensemble.weights.cma`: 0.1 to 0.4 ms a trial, and no package beside Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ensemble.settings import SamplerName
from ensemble.weights.cma import CMA, POPULATION


class Logit(FloatDistribution):
    """A float that is not copied: Optuna copies every distribution of every trial a dozen times, half of its time."""

    def __deepcopy__(self, _: dict) -> Logit:
        return self


def make_sampler(name: SamplerName, seed: int, space: Mapping[str, FloatDistribution]) -> BaseSampler:
    """The sampler of that name for a space of floats."""
    if name == "cma":
        return CmaSampler(seed, space)
    if name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=2 * POPULATION)


class CmaSampler(BaseSampler):
    """CMA-ES that starts from the best enqueued trial. Ask it for 16 trials, then tell it all 16, and so on."""

    def __init__(self, seed: int, space: Mapping[str, FloatDistribution]) -> None:
        self._seed, self._space = seed, dict(space)
        self._strategy: CMA | None = None
        self._best_start: tuple[float, list[float]] = (np.inf, [0.0] * len(space))
        self._waiting: list[np.ndarray] = []  # points of this generation that no trial has yet
        self._told: list[tuple[list[float], float]] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:
            return {}
        if not self._waiting:
            self._waiting = list(self._ready_strategy().ask())
        return dict(zip(self._space, self._waiting.pop(0).tolist(), strict=True))

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError(f"{param_name} is not in the search space")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        loss = np.inf if values is None else values[0]
        point = [trial.params[name] for name in self._space]
        if "fixed_params" in trial.system_attrs:
            self._best_start = min(self._best_start, (loss, point), key=lambda start: start[0])
            return
        self._told.append((point, loss))
        if len(self._told) == POPULATION:
            points, losses = zip(*self._told, strict=True)
            self._ready_strategy().tell(np.array(points), np.array(losses))
            self._told = []

    def _ready_strategy(self) -> CMA:
        if self._strategy is None:
            limits = next(iter(self._space.values()))
            rng = np.random.default_rng(self._seed)
            self._strategy = CMA(np.array(self._best_start[1]), rng, low=limits.low, high=limits.high)
        return self._strategy
