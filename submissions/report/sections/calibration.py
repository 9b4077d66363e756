"""Calibration in section 5: how often the top class is right, over the probability that it has."""

from __future__ import annotations

from typing import Any

import numpy as np

from submissions.report.oof import Oof
from submissions.report.plots import Chart, lines

BINS = 10  # of confidence, with equally many images


def calibration_of(oof: Oof) -> dict[str, Any]:
    """Confidence and share of hits in each bin; error: their mean distance over images; log_loss in nats."""
    probs = np.maximum(oof.probs, 1e-12).astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    confidence, hit = probs.max(axis=1), oof.rank == 0
    parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), BINS) if len(part)]
    means = np.array([confidence[part].mean() for part in parts])
    hits = np.array([hit[part].mean() for part in parts])
    true = probs[np.arange(len(hit)), oof.rows.target]
    return {
        "name": oof.name,
        "confidence": means.tolist(),
        "hits": hits.tolist(),
        "error": float(np.average(np.abs(means - hits), weights=[len(part) for part in parts])),
        "log_loss": float(-np.log(true).mean()),
    }


def calibration_chart(calibration: dict[str, Any]) -> Chart:
    """A line that would lie on the diagonal if every probability were right."""
    line = {"name": calibration["name"], "role": "valid", "x": calibration["confidence"], "y": calibration["hits"]}
    return lines(
        "calibration",
        "Calibration of the top class",
        f"Share of hits over confidence; mean distance from the diagonal: {calibration['error']:.4f}",
        series=[line],
        x_title="probability of the top class",
        y_title="share of hits",
        has_diagonal=True,
    )
