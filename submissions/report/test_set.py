"""Section 6, the test set: class mix, likeness to training images, the least certain images, copies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ensemble.analysis.test_likeness import Likeness, WeightedRate, measure_likeness
from ensemble.analysis.test_set import class_mix_of, copies_of_training_images
from ensemble.blend.apply import apply_blend
from folds.base.metrics import top_classes
from folds.manifest.manifest import USABLE
from submissions.report.data import UNEVEN
from submissions.report.plots import points
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
    far = likeness if likeness is not None and likeness.is_far else None
    predicted = work.attempt(partial(_predicted, work, oof, settings)) if oof is not None and len(test) else None
    return {
        "images": len(test),
        "unreadable": int((test["status"] != USABLE).sum()),
        "likeness": likeness,
        "error": _error(far, oof) if far and oof else None,
        "giving_away": far
        and {
            "test": _most_like_test(work, "test", far.test_id, far.test_odds),
            "train": _most_like_test(work, "train", far.train_id, far.train_odds),
        },
        "copies": [one for one in copies if "test" in one["title"] and not one["title"].startswith("training")],
        **(predicted or {"mix": None, "unsure": [], "twins": None}),
    }


def _error(likeness: Likeness, oof: Oof) -> WeightedRate | None:
    """None where an image that was compared is not predicted."""
    rows = pd.Index(oof.rows.image_id).get_indexer(likeness.train_id)
    return likeness.weighted_rate(oof.rank[rows] >= 3) if (rows >= 0).all() else None


def _most_like_test(work: WorkFolder, split: str, image_id: np.ndarray, odds: np.ndarray) -> list[Image]:
    """The images of a set that are most surely of the test set."""
    return [work.image(name, split=split) for name in image_id[np.argsort(-odds, kind="stable")][:GIVING_AWAY].tolist()]


def _predicted(work: WorkFolder, oof: Oof, settings: ReportSettings) -> Row:
    """The test images as the blend, or the best run where there is none, sees them: class mix, least certain images.

    Raises UserError where they are not predicted.
    """
    blended = apply_blend(work.workspace, (work.blend if oof.is_blend else None) or oof.name)
    mix, probs = class_mix_of(work.workspace, blended), blended.probs
    largest = mix.most_changed[:NAMED].tolist()
    train, test = (100 * mix.train).tolist(), (100 * mix.test).tolist()
    chart = points(
        "shares",
        "Share of each class: estimated in test, counted in training",
        rows=list(zip(blended.classes, train, test, strict=True)),
        x_title="% of training images",
        y_title="% of test images, estimated",
        is_log=max(train) >= UNEVEN * min(train),
        has_diagonal=True,
        named=largest,
    )
    unsure = np.argsort(probs.max(axis=1), kind="stable")[: settings.hardest_images]
    return {
        "of": oof.name,
        "mix": mix,
        "distance": float(np.abs(mix.test - mix.train).sum()) / 2,  # 0: equal shares, 1: none in common
        "largest_differences": [(c, blended.classes[c]) for c in largest],
        "chart": chart,
        "unsure": [
            {
                "image": work.image(str(blended.image_id[row]), split="test"),
                "top": [(blended.classes[c], float(probs[row, c])) for c in top],
            }
            for row, top in zip(unsure.tolist(), top_classes(probs[unsure]).tolist(), strict=True)
        ],
        "twins": copies_of_training_images(work.workspace, blended),
    }
