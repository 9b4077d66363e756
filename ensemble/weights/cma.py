"""The CMA evolution strategy in a few lines: a normal distribution that learns where the good points lie.

Source: Hansen 2016, The CMA Evolution Strategy: A Tutorial, with its default constants and positive weights only.
"""

from __future__ import annotations

import numpy as np

POPULATION = 16  # points per generation: also the batch in which the objective is evaluated
START_STEP = 0.5  # of the logits: a weight changes by a factor of 1.6


class CMA:
    """Proposes generations of points and learns from their losses; all randomness comes from `rng`."""

    def __init__(self, mean: np.ndarray, rng: np.random.Generator, *, low: float, high: float) -> None:
        n = len(mean)
        self.mean, self.rng, self.low, self.high = mean.astype(np.float64), rng, low, high
        ranks = np.log(POPULATION / 2 + 0.5) - np.log(np.arange(1, POPULATION // 2 + 1))
        self.share = ranks / ranks.sum()  # (POPULATION / 2,): the better half, the best most
        mu = 1 / (self.share**2).sum()  # how many points that is worth
        self.c_sigma, self.c_path = (mu + 2) / (n + mu + 5), (4 + mu / n) / (n + 4 + 2 * mu / n)
        self.damping = 1 + 2 * max(0.0, np.sqrt((mu - 1) / (n + 1)) - 1) + self.c_sigma
        self.c_one = 2 / ((n + 1.3) ** 2 + mu)
        self.c_mu = min(1 - self.c_one, 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        self.mu, self.length = mu, np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))  # length: of a normal vector
        self.step, self.covariance, self.generation = START_STEP, np.eye(n), 0
        self.step_path, self.path = np.zeros(n), np.zeros(n)

    def ask(self) -> np.ndarray:
        """The next generation, inside the bounds. (POPULATION, n)"""
        values, self.axes = np.linalg.eigh(self.covariance)
        self.scales = np.sqrt(np.maximum(values, 1e-20))
        normal = self.rng.standard_normal((POPULATION, len(self.mean)))
        return np.clip(self.mean + self.step * (normal * self.scales) @ self.axes.T, self.low, self.high)

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        """Learn from the generation that was asked for. (POPULATION, n), (POPULATION,)"""
        best = np.argsort(losses, kind="stable")[: len(self.share)]
        moves = (points[best] - self.mean) / self.step  # (mu, n)
        move = self.share @ moves
        self.mean = self.mean + self.step * move
        whitened = self.axes @ ((self.axes.T @ move) / self.scales)
        self.step_path = (1 - self.c_sigma) * self.step_path
        self.step_path += np.sqrt(self.c_sigma * (2 - self.c_sigma) * self.mu) * whitened
        self.generation += 1
        norm = np.linalg.norm(self.step_path) / np.sqrt(1 - (1 - self.c_sigma) ** (2 * self.generation))
        stalled = norm / self.length >= 1.4 + 2 / (len(self.mean) + 1)
        self.path = (1 - self.c_path) * self.path
        self.path += 0.0 if stalled else np.sqrt(self.c_path * (2 - self.c_path) * self.mu) * move
        keep = 1 - self.c_one - self.c_mu + (self.c_one * self.c_path * (2 - self.c_path) if stalled else 0.0)
        self.covariance = keep * self.covariance + self.c_one * np.outer(self.path, self.path)
        self.covariance += self.c_mu * (moves.T * self.share) @ moves
        self.step *= float(np.exp(min(1.0, self.c_sigma / self.damping * (norm / self.length - 1))))
        self.step = min(max(self.step, 1e-3), 4.0)  # the objective has steps: below them nothing is left to learn
