"""Draws one image with class maps of a network and all predictions."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ensemble.analysis.explain import Explained, Guess, K
from folds.base.workspace import Workspace, digest, write_bytes
from folds.pixels.store import open_store

if TYPE_CHECKING:
    from models.predict.gradcam import ClassMaps

MOST_ROWS = 14  # members that are drawn; those that weigh most come first
INK, TRUE, BAR = "#22313f", "#0b6e4f", "#9db4c0"


def draw_explained(workspace: Workspace, said: Explained, maps: ClassMaps | None, no_map: Sequence[str]) -> Path:
    """Write `report/explain-ID.png`; the id is made fit for a file's name."""
    store = open_store(workspace)
    row = int(store.rows(np.array([said.image_id]), split=said.split)[0])
    image, ratio = np.array(store.pixels[row]), float(store.height[row] / store.width[row])  # a square, true h / w
    guesses = [*said.by_weight()[:MOST_ROWS], *([said.blend] if said.blend else [])]
    high = 3.2 * min(ratio, 1.4) + 0.5  # inches of the images, by their title
    low = 0.34 * len(guesses) + 0.4
    figure = Figure(figsize=(10.5, high + low + 0.4), dpi=130, layout="constrained")
    figure.suptitle(_plain(said.headline), fontsize=11, color=INK)
    grid = figure.add_gridspec(2, 3, height_ratios=[high, low])
    first, *others = [figure.add_subplot(grid[0, i]) for i in range(3)]
    _draw_image(first, image, ratio, "the image")
    for i, axes in enumerate(others):
        if maps and i < len(maps.classes):
            _draw_map(axes, image, ratio, maps, i, is_true=maps.classes[i] == said.label)
        else:
            axes.set_axis_off()
    if not maps:
        text = "\n".join(textwrap.fill(_plain(f"no map: {why}"), 44) for why in no_map)
        others[0].text(0, 0.5, text, fontsize=9, color=INK, va="center")
    _draw_guesses(figure.add_subplot(grid[1, :]), guesses, label=said.label, hidden=len(said.members) - MOST_ROWS)
    path = workspace.report / f"explain-{_file_name(said.image_id)}.png"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    return path


def _draw_image(axes: Axes, image: np.ndarray, ratio: float, title: str, *, colour: str = INK) -> None:
    """The square, drawn as wide and high as the image truly is: x in [0, 1], y downwards in [0, 1]."""
    axes.imshow(image, extent=(0, 1, 1, 0), aspect=ratio, interpolation="bilinear")
    axes.set_title(_plain(title), fontsize=9, color=colour)
    axes.set(xticks=[], yticks=[])


def _draw_map(axes: Axes, image: np.ndarray, ratio: float, maps: ClassMaps, i: int, *, is_true: bool) -> None:
    """The i-th class's map over the image in grey, in the box that the network saw."""
    heat, (left, top, right, bottom) = maps.heat[i], maps.box
    size = f"{heat.shape[1]} x {heat.shape[0]}"
    mark = " (the truth)" if is_true else ""
    title = f"class map of {maps.classes[i]}{mark}\n{maps.run} fold {maps.fold}, {size}"
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    _draw_image(axes, grey, ratio, title, colour=TRUE if is_true else INK)
    extent, look = (left, right, bottom, top), {"cmap": "inferno", "alpha": 0.55, "vmin": 0, "vmax": 1}
    axes.imshow(heat, extent=extent, aspect=ratio, interpolation="bilinear", **look)  # type: ignore[arg-type]
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1))
    axes.set(xlim=(0, 1), ylim=(1, 0))
    if not heat.any():
        axes.text(0.5, 0.5, "no part of the image supports it", color="white", ha="center")


def _draw_guesses(axes: Axes, guesses: Sequence[Guess], *, label: str | None, hidden: int) -> None:
    """A row per member: its first classes, each with a bar as long as its probability; the true one is marked."""
    for y, one in enumerate(guesses):
        axes.text(-0.02, y, _plain(one.name), ha="right", va="center", fontsize=9, color=INK)
        for place, (text, name, prob) in enumerate(zip(one.texts, one.labels, one.probs, strict=True)):
            weight, colour, mark = ("bold", TRUE, "  (true)") if name == label else ("normal", INK, "")
            axes.barh(y, 0.9 * prob, left=place, height=0.72, color=BAR)
            axes.text(place + 0.02, y, _plain(text) + mark, va="center", fontsize=9, color=colour, fontweight=weight)
    axes.set(xlim=(0, K), ylim=(len(guesses) - 0.4, -0.6), yticks=[])
    axes.set_xticks([0.45, 1.45, 2.45], labels=["first guess", "second", "third"], fontsize=9, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if hidden > 0:
        axes.set_xlabel(f"and {hidden} members that weigh less", fontsize=9, color=INK)


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _file_name(image_id: str) -> str:
    """The id where it can be a file's name; else what is left of it, and a digest that keeps two apart."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", image_id).strip(".-")[:80]
    return kept if kept == image_id else f"{kept}-{digest(image_id.encode())[:6]}"
