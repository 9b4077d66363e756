"""Draws a sweep of learning rates: the loss over the rate, and the rate that it suggests."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from folds.base.workspace import write_bytes
from models.train.lr_find import Sweep


def draw_sweep(path: Path, sweep: Sweep, *, title: str) -> None:
    """Write a PNG of 1,200 x 750 pixels."""
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(sweep.rates, sweep.losses, color="#1f4e79", linewidth=2)
    marks = (("steepest", sweep.steepest, ":"), ("lowest", sweep.lowest, "--"), ("suggested", sweep.suggested, "-"))
    for name, rate, style in marks:
        colour = "#c0392b" if name == "suggested" else "#7f8c8d"
        axes.axvline(rate, color=colour, linestyle=style, label=f"{name} {rate:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, nats (running mean)", title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
