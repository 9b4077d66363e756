"""Says how honest probabilities are: how often the first guess is right, over how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from submissions.report.charts import Lines, Series, numbers
from submissions.report.guesses import Guesses

BINS = 10  # of confidence, equally filled


@dataclass(frozen=True)
class Calibration:
    """How honest probabilities are: `error` is the mean distance between confidence and hits over bins."""

    name: str
    confidence: tuple[float, ...]
    hits: tuple[float, ...]
    error: float
    log_loss: float


def calibrations(guesses: Guesses) -> tuple[Calibration, ...]:
    """The blend's before and after its temperature, or the one of a run."""
    before = _calibration("as blended" if guesses.is_blend else guesses.name, guesses, temperature=1.0)
    if guesses.temperature == 1.0:
        return (before,)
    return before, _calibration(f"temperature {guesses.temperature:.2f}", guesses, temperature=guesses.temperature)


def _calibration(name: str, guesses: Guesses, *, temperature: float) -> Calibration:
    """Confidence of the first guess against the share of hits, in bins of equally many images."""
    logs = np.log(np.maximum(guesses.probs, 1e-12)) / np.float32(temperature)
    logs -= logs.max(axis=1, keepdims=True)
    total = np.exp(logs).sum(axis=1)
    confidence, hit = 1 / total, guesses.rank == 0
    parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), BINS) if len(part)]
    means = np.array([confidence[part].mean() for part in parts])
    hits = np.array([hit[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    true = logs[np.arange(len(hit)), guesses.rows.target] - np.log(total)
    error = float((np.abs(means - hits) * sizes).sum() / sizes.sum())
    return Calibration(name, numbers(means.tolist()), numbers(hits.tolist()), error, float(-true.mean()))


def calibration_chart(calibration: Sequence[Calibration]) -> Lines | None:
    """A line for each; None where there is none."""
    if not calibration:
        return None
    roles = ("train", "valid") if len(calibration) > 1 else ("plain",)
    errors = ", ".join(f"{one.name} {one.error:.4f}" for one in calibration)
    return Lines(
        key="calibration",
        title="Calibration of the first guess",
        alt=f"Share of hits over confidence; mean distance from the diagonal: {errors}",
        series=tuple(
            Series(one.name, role, one.confidence, one.hits) for one, role in zip(calibration, roles, strict=True)
        ),
        x_title="confidence",
        y_title="share of hits",
        has_diagonal=True,
    )
