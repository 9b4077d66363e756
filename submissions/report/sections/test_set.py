"""Section 6, the test set: predicted shares of classes, the least certain images, copies of training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.blend.apply import Blended, apply_blend, apply_run
from folds.base.metrics import top_classes
from folds.manifest.manifest import USABLE
from submissions.report.oof import Oof
from submissions.report.plots import Chart, points
from submissions.report.sections.data import UNEVEN
from submissions.report.workfolder import WorkFolder
from submissions.settings import ReportSettings

NAMED = 8  # classes in the table and with their names in the chart: those whose shares differ most
Row = dict[str, Any]


def test_set_section(work: WorkFolder, oof: Oof | None, settings: ReportSettings, *, copies: Sequence[Row]) -> Row:
    """What is predicted of the test images; copies: all that the data section found.

    distance  half the sum of the shares' differences; 0: equal shares, 1: none in common
    """
    test = work.manifest[work.manifest["split"] == "test"]
    blended = work.attempt(lambda: _apply(work, oof)) if oof is not None and len(test) else None
    shares = _shares(work, blended) if blended is not None else []
    apart = sorted(range(len(shares)), key=lambda i: -abs(shares[i]["train"] - shares[i]["test"]))[:NAMED]
    return {
        "of": oof.name if oof is not None and blended is not None else None,
        "images": len(test),
        "unreadable": int((test["status"] != USABLE).sum()),
        "shares": shares,
        "largest_differences": [shares[i] for i in apart],
        "distance": sum(abs(one["train"] - one["test"]) for one in shares) / 2 if shares else None,
        "chart": _chart(shares, apart) if shares else None,
        "unsure": _unsure(work, blended, oof, settings) if blended is not None and oof is not None else [],
        "copies": [one for one in copies if "test" in one["title"] and not one["title"].startswith("training")],
    }


def _apply(work: WorkFolder, oof: Oof) -> Blended:
    if oof.is_blend and work.blend is not None:
        return apply_blend(work.workspace, work.blend)
    return apply_run(work.workspace, oof.name)


def _shares(work: WorkFolder, blended: Blended) -> list[Row]:
    first = top_classes(blended.scores, k=1)[:, 0]
    test = np.bincount(first, minlength=len(blended.classes)) / max(len(first), 1)
    counts = np.array([work.class_counts.get(label, 0) for label in blended.classes])
    train = counts / max(counts.sum(), 1)
    shares = zip(blended.classes, train.tolist(), test.tolist(), strict=True)
    return [{"label": label, "train": before, "test": now} for label, before, now in shares]


def _chart(shares: Sequence[Row], apart: Sequence[int]) -> Chart:
    most, known = shares[apart[0]], [one["train"] for one in shares if one["train"] > 0]
    return points(
        "shares",
        "Share of each class: predicted in test, counted in training",
        f"Shares of {len(shares):,} classes; {most['label']} differs most, {most['train']:.2%} in training and"
        f" {most['test']:.2%} in test",
        rows=[(one["label"], 100 * one["train"], 100 * one["test"]) for one in shares],
        x_title="% of training images",
        y_title="% of test images, by their top class",
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
