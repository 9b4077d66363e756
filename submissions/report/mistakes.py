"""Shows what goes wrong: errors by class, confused pairs, the hardest images, labels that may be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from submissions.report.charts import Points, numbers
from submissions.report.guesses import Guesses
from submissions.report.source import Picture, Source
from submissions.report.suspects import suspected_labels
from submissions.settings import ReportSettings

TYPICAL, CONFUSED = 2, 3  # pictures of a class, and of those taken for another, beside a confused pair
NAMED = 6  # classes whose names stand in the chart
WORST = 12  # classes in the table


@dataclass(frozen=True)
class ClassError:
    label: str
    images: int
    top1_error: float
    top3_error: float
    missed: int  # images whose label is not among the three


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are taken for each other, by first guess. taken: pictures of `one` guessed `other`, or back."""

    one: str
    other: str
    one_as_other: int
    other_as_one: int
    taken: tuple[Guessed, ...]
    typical_one: tuple[Picture, ...]
    typical_other: tuple[Picture, ...]


@dataclass(frozen=True)
class Guessed:
    """An image with the three best guesses and their probabilities. true_prob: of its label."""

    picture: Picture
    label: str
    true_prob: float
    guesses: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Mistakes:
    """The fourth section. suspects: all of them, most suspicious first; of: whose guesses these are."""

    of: str
    is_blend: bool
    images: int
    top1_error: float
    chart: Points
    worst: tuple[ClassError, ...]
    pairs: tuple[ConfusedPair, ...]
    hardest: tuple[Guessed, ...]
    missed: int
    suspects: tuple[Guessed, ...]


def gather_mistakes(source: Source, guesses: Guesses, settings: ReportSettings) -> Mistakes:
    """What the blend (or the best run) gets wrong on images that its networks have not trained on."""
    classes = _class_errors(guesses)
    hardest = np.argsort(guesses.true_prob, kind="stable")
    hardest = hardest[guesses.rank[hardest] >= 1][: settings.hardest_images]
    suspects = suspected_labels(guesses.probs, guesses.rows.target)
    worst = sorted((one for one in classes if one.missed), key=lambda one: (-one.top3_error, -one.missed))
    return Mistakes(
        of=guesses.name,
        is_blend=guesses.is_blend,
        images=len(guesses.rows),
        top1_error=float((guesses.rank >= 1).mean()),
        chart=_chart(classes),
        worst=tuple(worst[:WORST]),
        pairs=tuple(_pairs(source, guesses, settings.confused_pairs)),
        hardest=tuple(guessed(source, guesses, row) for row in hardest.tolist()),
        missed=int((guesses.rank >= 3).sum()),
        suspects=tuple(guessed(source, guesses, row) for row in suspects.tolist()),
    )


def guessed(source: Source, guesses: Guesses, row: int) -> Guessed:
    """One image with its guesses."""
    rows, probs = guesses.rows, guesses.probs[row]
    top = [(rows.classes[c], float(probs[c])) for c in guesses.top[row].tolist()]
    target = int(rows.target[row])
    picture = source.picture(str(rows.image_id[row]))
    return Guessed(picture, rows.classes[target], float(probs[target]), tuple(top))


def _class_errors(guesses: Guesses) -> list[ClassError]:
    target, n = guesses.rows.target, len(guesses.rows.classes)
    images = np.bincount(target, minlength=n)
    top1 = np.bincount(target, guesses.rank >= 1, minlength=n)
    top3 = np.bincount(target, guesses.rank >= 3, minlength=n)
    return [
        ClassError(label, int(images[c]), float(top1[c] / images[c]), float(top3[c] / images[c]), int(top3[c]))
        for c, label in enumerate(guesses.rows.classes)
        if images[c]
    ]


def _chart(classes: list[ClassError]) -> Points:
    order = sorted(range(len(classes)), key=lambda i: -classes[i].top3_error)
    worst = classes[order[0]]
    return Points(
        key="class-errors",
        title="Top-3 error of each class",
        alt=f"Top-3 error over the number of images, {len(classes):,} classes; the highest is {worst.label} with"
        f" {worst.top3_error:.4f}",
        labels=tuple(one.label for one in classes),
        x=numbers([one.images for one in classes]),
        y=numbers([one.top3_error for one in classes]),
        x_title="training images of the class",
        y_title="top-3 error",
        is_log=max(one.images for one in classes) >= 8 * min(one.images for one in classes),
        named=tuple(i for i in order[:NAMED] if classes[i].top3_error > 0),
    )


def _pairs(source: Source, guesses: Guesses, most: int) -> Iterator[ConfusedPair]:
    """The pairs with most first guesses the wrong way, both directions summed."""
    target, first = guesses.rows.target, guesses.top[:, 0]
    n = len(guesses.rows.classes)
    wrong = np.flatnonzero(first != target)
    low, high = np.minimum(target, first)[wrong], np.maximum(target, first)[wrong]
    pairs, counts = np.unique(low * n + high, return_counts=True)  # a square of all classes may not fit into memory
    for pair in pairs[np.argsort(-counts, kind="stable")][:most].tolist():
        a, b = divmod(pair, n)
        labels = guesses.rows.classes[a], guesses.rows.classes[b]
        there, back = (target == a) & (first == b), (target == b) & (first == a)
        taken = np.flatnonzero(there | back)
        taken = taken[np.argsort(guesses.true_prob[taken], kind="stable")][:CONFUSED]
        yield ConfusedPair(
            *labels,
            one_as_other=int(there.sum()),
            other_as_one=int(back.sum()),
            taken=tuple(guessed(source, guesses, row) for row in taken.tolist()),
            typical_one=_typical(source, guesses, a),
            typical_other=_typical(source, guesses, b),
        )


def _typical(source: Source, guesses: Guesses, c: int) -> tuple[Picture, ...]:
    """The pictures of a class that are recognised most surely."""
    rows = np.flatnonzero(guesses.rows.target == c)
    rows = rows[np.argsort(-guesses.true_prob[rows], kind="stable")][:TYPICAL]
    return tuple(source.picture(str(guesses.rows.image_id[row])) for row in rows.tolist())
