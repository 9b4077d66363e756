"""Which training images an epoch shows: tempered against imbalance, a function of seed and epoch."""

from __future__ import annotations

import numpy as np

from models.settings import TrainSettings

MOST_REPEATS = 4.0  # draws of one image in an epoch, on average: more of them would be known by heart


def expected_repeats(target: np.ndarray, *, power: float, most: float = MOST_REPEATS) -> np.ndarray:
    """How often each image is drawn in an epoch of N draws, on average. (N,) float64, sums to N.

    target  (N,) int class of each training image
    power   an image of a class of n images has weight n^-power: 0 is natural, 1 shows all classes equally
    most    cap on the repeats of one image; what the cap takes is spread over the others (needs most >= 1)
    """
    counts = np.bincount(target)
    weight = counts[target] ** -power
    repeats = weight * (len(target) / weight.sum())
    capped = np.zeros(len(target), dtype=bool)
    while (repeats > most * (1 + 1e-9)).any():  # each round caps at least one class: at most C rounds
        capped |= repeats > most
        room = len(target) - most * capped.sum()
        repeats = np.where(capped, most, weight * (room / weight[~capped].sum()))
    return repeats


def draw_epoch(repeats: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rows of one epoch in random order: row i appears floor or ceil of repeats[i] times. (N,) int64.

    Systematic sampling: one random offset against the running sum of the repeats in random order, so that the class
    counts of an epoch vary less than with independent draws.
    """
    order = rng.permutation(len(repeats))
    edges = np.cumsum(repeats[order]) + rng.random()
    times = np.diff(np.floor(edges), prepend=0.0).astype(np.int64)
    drawn = np.repeat(order, times)
    missing = len(repeats) - len(drawn)  # rounding of the running sum may cost or add one
    drawn = np.concatenate([drawn, order[:missing]]) if missing > 0 else drawn[: len(repeats)]
    return rng.permutation(drawn)


def sampling_shift(target: np.ndarray, settings: TrainSettings, *, n_classes: int) -> np.ndarray:
    """What to add to logits learnt under the settings' sampling to restore the natural class prior. (C,) float64.

    target  (N,) int class of each image in the training part
    The log of the natural over the sampled share of each class, 0 for absent classes. Source: Saerens, Latinne,
    Decaestecker 2002.
    """
    repeats = expected_repeats(target, power=settings.sampling_power)
    natural = np.bincount(target, minlength=n_classes)
    sampled = np.bincount(target, weights=repeats, minlength=n_classes)
    shares = np.stack([natural, sampled])
    logs = np.log(shares, where=natural > 0, out=np.zeros_like(shares))
    return logs[0] - logs[1]


def prior_correction(target: np.ndarray, settings: TrainSettings, *, n_classes: int) -> np.ndarray:
    """What a network's logits get at prediction, (C,) float64: zeros with `--no-restore-prior`."""
    return sampling_shift(target, settings, n_classes=n_classes) if settings.restore_prior else np.zeros(n_classes)
