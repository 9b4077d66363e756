"""Shows the test set: predicted shares of classes, the least certain images, copies of training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.blend.apply import Blended, apply_blend, apply_run
from folds.base.metrics import top_classes
from folds.manifest.manifest import USABLE
from submissions.report.charts import Points, numbers
from submissions.report.data import UNEVEN, CopySets
from submissions.report.guesses import Guesses
from submissions.report.source import Picture, Source
from submissions.settings import ReportSettings

NAMED = 8  # classes whose names stand in the chart: those whose shares differ most


@dataclass(frozen=True)
class Share:
    label: str
    train: float
    test: float


@dataclass(frozen=True)
class Unsure:
    """A test image with its guesses and their probabilities."""

    picture: Picture
    guesses: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Testing:
    """The sixth section. distance: half the sum of the shares' differences; 0: equal shares, 1: none in common."""

    of: str | None
    images: int
    unreadable: int
    shares: tuple[Share, ...]
    distance: float | None
    chart: Points | None
    unsure: tuple[Unsure, ...]
    copies: tuple[CopySets, ...]


def gather_testing(
    source: Source, guesses: Guesses | None, settings: ReportSettings, *, copies: tuple[CopySets, ...]
) -> Testing:
    """What is predicted of the test images; copies: all that the data section found."""
    test = source.manifest[source.manifest["split"] == "test"]
    blended = source.attempt(lambda: _apply(source, guesses)) if guesses is not None else None
    shares = _shares(source, blended) if blended is not None else ()
    return Testing(
        of=guesses.name if guesses is not None and blended is not None else None,
        images=len(test),
        unreadable=int((test["status"] != USABLE).sum()),
        shares=shares,
        distance=sum(abs(one.train - one.test) for one in shares) / 2 if shares else None,
        chart=_chart(shares) if shares else None,
        unsure=_unsure(source, blended, guesses, settings) if blended is not None and guesses is not None else (),
        copies=tuple(one for one in copies if "test" in one.title and not one.title.startswith("training")),
    )


def _apply(source: Source, guesses: Guesses) -> Blended | None:
    """The blend's scores of the test images, or the run's; None where there is no test image."""
    if not (source.manifest["split"] == "test").any():
        return None
    if guesses.is_blend and source.blend is not None:
        return apply_blend(source.workspace, source.blend)
    return apply_run(source.workspace, guesses.name)


def _shares(source: Source, blended: Blended) -> tuple[Share, ...]:
    first = top_classes(blended.scores, k=1)[:, 0]
    test = np.bincount(first, minlength=len(blended.classes)) / max(len(first), 1)
    counts = np.array([source.class_counts.get(label, 0) for label in blended.classes])
    train = counts / max(counts.sum(), 1)
    return tuple(Share(*one) for one in zip(blended.classes, train.tolist(), test.tolist(), strict=True))


def _chart(shares: tuple[Share, ...]) -> Points:
    apart = sorted(range(len(shares)), key=lambda i: -abs(shares[i].train - shares[i].test))
    most, known = shares[apart[0]], [one.train for one in shares if one.train > 0]
    return Points(
        key="shares",
        title="Share of each class: predicted in test, counted in training",
        alt=f"Shares of {len(shares):,} classes; {most.label} differs most, {most.train:.2%} in training and"
        f" {most.test:.2%} in test",
        labels=tuple(one.label for one in shares),
        x=numbers([100 * one.train for one in shares]),
        y=numbers([100 * one.test for one in shares]),
        x_title="% of training images",
        y_title="% of test images, by first guess",
        is_log=max(known) >= UNEVEN * min(known),
        has_diagonal=True,
        named=tuple(apart[:NAMED]),
    )


def _unsure(source: Source, blended: Blended, guesses: Guesses, settings: ReportSettings) -> tuple[Unsure, ...]:
    """The test images whose first guess has the lowest probability."""
    probs = _probs(source, blended, guesses)
    top = top_classes(probs)
    order = np.argsort(probs.max(axis=1), kind="stable")[: settings.hardest_images]
    return tuple(
        Unsure(
            source.picture(str(blended.image_id[row]), split="test"),
            tuple((blended.classes[c], float(probs[row, c])) for c in top[row].tolist()),
        )
        for row in order.tolist()
    )


def _probs(source: Source, blended: Blended, guesses: Guesses) -> np.ndarray:
    """Calibrated probabilities of the test images. (T, C) float64"""
    probs = blended.scores
    if guesses.is_blend and source.blend is not None:
        probs = source.blend.recipe().probs(probs)
    logs = np.log(np.maximum(probs, 1e-12)) / guesses.temperature
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
