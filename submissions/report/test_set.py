"""Section 6, the test set: class mix, likeness to training images, the least certain images, copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ensemble.analysis.class_mix import ClassMix
from ensemble.analysis.test_likeness import Likeness, measure_likeness
from ensemble.analysis.test_set import class_mix_of, copies_of_training_images
from ensemble.blend.apply import Blended, apply_blend
from folds.base.metrics import top_classes
from folds.manifest.manifest import USABLE
from submissions.report.data import UNEVEN
from submissions.report.plots import Chart, points
from submissions.report.workfolder import Oof, WorkFolder
from submissions.settings import ReportSettings

NAMED = 8  # classes in the table and with their names in the chart: those whose shares differ most
GIVING_AWAY = 10  # images of each set that show how the sets differ
Row = dict[str, Any]


def test_set_section(work: WorkFolder, oof: Oof | None, settings: ReportSettings, *, copies: Sequence[Row]) -> Row:
    """What is known of the test images without their labels; copies: all that the data section found.

    distance  half the sum of the shares' differences; 0: equal shares, 1: none in common
    """
    test = work.manifest[work.manifest["split"] == "test"]
    blended, mix = _predicted(work, oof) if oof is not None and len(test) else (None, None)
    shares = _shares(work, blended, mix) if blended is not None else []
    apart = sorted(range(len(shares)), key=lambda i: -abs(shares[i]["train"] - shares[i]["test"]))[:NAMED]
    likeness = work.attempt(lambda: measure_likeness(work.workspace))
    return {
        "of": oof.name if oof is not None and blended is not None else None,
        "images": len(test),
        "unreadable": int((test["status"] != USABLE).sum()),
        "shares": shares,
        "largest_differences": [shares[i] for i in apart],
        "distance": sum(abs(one["train"] - one["test"]) for one in shares) / 2 if shares else None,
        "chart": _chart(shares, apart) if shares else None,
        "mix": _mix(mix) if mix is not None else None,
        "likeness": _likeness(work, likeness, oof) if likeness is not None else None,
        "unsure": _unsure(work, blended, oof, settings) if blended is not None and oof is not None else [],
        "twins": _twins(work, blended) if blended is not None else None,
        "copies": [one for one in copies if "test" in one["title"] and not one["title"].startswith("training")],
    }


def _predicted(work: WorkFolder, oof: Oof) -> tuple[Blended | None, ClassMix | None]:
    """The test images as the blend, or the best run where there is none, sees them, and their class mix."""
    workspace, blend = work.workspace, work.blend if oof.is_blend else None
    blended = work.attempt(lambda: apply_blend(workspace, blend or oof.name))
    if blended is None:
        return None, None
    return blended, work.attempt(lambda: class_mix_of(workspace, blend or oof.name, blended.image_id))


def _shares(work: WorkFolder, blended: Blended, mix: ClassMix | None) -> list[Row]:
    """Shares of the training images and, estimated, of the test images; without an estimate by their top class."""
    counts = np.array([work.class_counts.get(label, 0) for label in blended.classes])
    if mix is None:
        first = top_classes(blended.scores, k=1)[:, 0]
        found = {"test": np.bincount(first, minlength=len(blended.classes)) / max(len(first), 1)}
    else:
        found = {"test": mix.test, "low": mix.low, "high": mix.high}
        found |= {"null_low": mix.null_low, "null_high": mix.null_high}
    figures = {"train": counts / max(counts.sum(), 1), **found}
    return [
        {"label": label, **{name: float(values[c]) for name, values in figures.items()}}
        for c, label in enumerate(blended.classes)
    ]


def _mix(mix: ClassMix) -> Row:
    """Whether the mix is another one; gain, standard_error: simulated top-3 error when weighed by it, less before."""
    gain = {} if mix.gain is None else {"gain": mix.gain.mean, "standard_error": mix.gain.standard_error}
    sharpness = mix.calibration.sharpness
    return {"is_shift": mix.is_shift, "pays": mix.pays, "before": mix.before, "temperature": 1 / sharpness, **gain}


def _likeness(work: WorkFolder, likeness: Likeness, oof: Oof | None) -> Row:
    """How far the sets are apart, the images that show it where they are, and the error of training images like them.

    error  of out-of-fold images, plain and weighted to look like the test images; None where nothing is predicted
    """
    figures = {name: getattr(likeness, name) for name in ("auc", "low", "high", "features", "is_far")}
    rated, error = None, None
    if oof is not None and likeness.is_far:
        place = {name: row for row, name in enumerate(oof.rows.image_id.tolist())}
        rows = [place.get(name, -1) for name in likeness.train_id.tolist()]
        rated = likeness.weighted_rate(oof.rank[rows] >= 3) if min(rows) >= 0 else None
    if rated is not None:
        error = {**asdict(rated), "is_known": rated.is_known}
    shown = {
        "test": (likeness.test_id, likeness.test_odds),
        "train": (likeness.train_id, likeness.train_odds),
    }
    pictures = {
        split: [work.image(name, split=split) for name in ids[np.argsort(-odds, kind="stable")][:GIVING_AWAY].tolist()]
        for split, (ids, odds) in shown.items()
    }
    return {**figures, "error": error, "pictures": pictures if likeness.is_far else None}


def _twins(work: WorkFolder, blended: Blended) -> Row | None:
    """Copies of training images among the test images; expected: the top-3 error with them. None without copies."""
    found = copies_of_training_images(work.workspace, blended)
    if not found.image_id:
        return None
    without = work.blend.expected_top3.mean if work.blend is not None else None
    expected = found.expected_error(without) if without is not None else None
    figures = {"images": found.images, "copies": len(found.image_id), "missed": found.missed}
    return {**figures, "without": without, "expected": expected}


def _chart(shares: Sequence[Row], apart: Sequence[int]) -> Chart:
    known = [one["train"] for one in shares if one["train"] > 0]
    return points(
        "shares",
        "Share of each class: estimated in test, counted in training",
        rows=[(one["label"], 100 * one["train"], 100 * one["test"]) for one in shares],
        x_title="% of training images",
        y_title="% of test images, estimated",
        is_log=max(known) >= UNEVEN * min(known),
        has_diagonal=True,
        named=apart,
    )


def _unsure(work: WorkFolder, blended: Blended, oof: Oof, settings: ReportSettings) -> list[Row]:
    """The test images whose top class has the lowest probability."""
    probs = work.blend.recipe().probs(blended.scores) if oof.is_blend and work.blend is not None else blended.scores
    top = top_classes(probs)
    order = np.argsort(probs.max(axis=1), kind="stable")[: settings.hardest_images]
    return [
        {
            "image": work.image(str(blended.image_id[row]), split="test"),
            "top": [(blended.classes[c], float(probs[row, c])) for c in top[row].tolist()],
        }
        for row in order.tolist()
    ]
