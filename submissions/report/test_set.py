"""Section 6, the test set: class mix, likeness to training images, the least certain images, copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.analysis.class_mix import ClassMix
from ensemble.analysis.test_likeness import Likeness, WeightedRate, measure_likeness
from ensemble.analysis.test_set import class_mix_of, copies_of_training_images
from ensemble.blend.apply import Blended, apply_blend
from folds.base.metrics import top_classes
from folds.manifest.manifest import USABLE
from submissions.report.data import UNEVEN
from submissions.report.plots import Chart, points
from submissions.report.workfolder import Image, Oof, WorkFolder
from submissions.settings import ReportSettings

NAMED = 8  # classes in the table and with their names in the chart: those whose shares differ most
GIVING_AWAY = 10  # images of each set that show how the sets differ
Row = dict[str, Any]


def test_set_section(work: WorkFolder, oof: Oof | None, settings: ReportSettings, *, copies: Sequence[Row]) -> Row:
    """What is known of the test images without their labels; copies: all that the data section found.

    error  of out-of-fold images, plain and weighted to look like the test images; None where the sets are alike
    """
    test = work.manifest[work.manifest["split"] == "test"]
    likeness = work.attempt(lambda: measure_likeness(work.workspace))
    is_far = likeness is not None and likeness.is_far
    section = {
        "images": len(test),
        "unreadable": int((test["status"] != USABLE).sum()),
        "likeness": likeness,
        "error": _error(likeness, oof) if likeness and is_far and oof else None,
        "giving_away": _giving_away(work, likeness) if likeness and is_far else None,
        "copies": [one for one in copies if "test" in one["title"] and not one["title"].startswith("training")],
    }
    blended, mix = _predicted(work, oof) if oof is not None and len(test) else (None, None)
    if oof is None or blended is None or mix is None:
        return {**section, "mix": None, "unsure": [], "twins": None}
    largest = mix.most_changed[:NAMED].tolist()
    return {
        **section,
        "of": oof.name,
        "mix": mix,
        "distance": float(np.abs(mix.test - mix.train).sum()) / 2,  # 0: equal shares, 1: none in common
        "largest_differences": [(c, blended.classes[c]) for c in largest],
        "chart": _chart(mix, blended.classes, largest),
        "unsure": _unsure(work, blended, oof, settings),
        "twins": copies_of_training_images(work.workspace, blended),
    }


def _predicted(work: WorkFolder, oof: Oof) -> tuple[Blended | None, ClassMix | None]:
    """The test images as the blend, or the best run where there is none, sees them, and their class mix."""
    workspace, blend = work.workspace, work.blend if oof.is_blend else None
    blended = work.attempt(lambda: apply_blend(workspace, blend or oof.name))
    if blended is None:
        return None, None
    return blended, work.attempt(lambda: class_mix_of(workspace, blend or oof.name, blended.image_id))


def _error(likeness: Likeness, oof: Oof) -> WeightedRate | None:
    """None where an image that was compared is not predicted."""
    place = {name: row for row, name in enumerate(oof.rows.image_id.tolist())}
    rows = [place.get(name, -1) for name in likeness.train_id.tolist()]
    return likeness.weighted_rate(oof.rank[rows] >= 3) if min(rows) >= 0 else None


def _giving_away(work: WorkFolder, likeness: Likeness) -> dict[str, list[Image]]:
    """The images that show how the sets differ: of each those that are most surely of the test set."""
    shown = {"test": (likeness.test_id, likeness.test_odds), "train": (likeness.train_id, likeness.train_odds)}
    return {
        split: [work.image(name, split=split) for name in ids[np.argsort(-odds, kind="stable")][:GIVING_AWAY].tolist()]
        for split, (ids, odds) in shown.items()
    }


def _chart(mix: ClassMix, classes: Sequence[str], named: Sequence[int]) -> Chart:
    train, test = (100 * mix.train).tolist(), (100 * mix.test).tolist()
    return points(
        "shares",
        "Share of each class: estimated in test, counted in training",
        rows=list(zip(classes, train, test, strict=True)),
        x_title="% of training images",
        y_title="% of test images, estimated",
        is_log=max(train) >= UNEVEN * min(train),
        has_diagonal=True,
        named=named,
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
