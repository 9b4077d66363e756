"""Draws one image as the ensemble sees it: the picture, where a network looks, everybody's guesses."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ensemble.analysis.explain import Explained, K
from ensemble.analysis.explain_tables import guesses, headline
from folds.base.workspace import Workspace, digest, write_bytes
from folds.pixels.store import open_store
from models.predict.class_maps import ClassMaps

MOST_ROWS = 14  # members that are drawn; those that weigh most come first
INK, TRUE, BAR = "#22313f", "#0b6e4f", "#9db4c0"


def draw_explained(workspace: Workspace, said: Explained, maps: ClassMaps | None, no_map: str) -> Path:
    """Write `report/explain-ID.png`; the id is made fit for a file's name."""
    picture, ratio = _picture(workspace, said)
    rows = _rows(said)
    high = 3.2 * min(ratio, 1.4) + 0.5  # inches of the pictures, by their title
    figure = Figure(figsize=(10.5, high + 0.34 * len(rows) + 0.8), dpi=130, layout="constrained")
    figure.suptitle(_plain(headline(said)), fontsize=11, color=INK)
    grid = figure.add_gridspec(2, 3, height_ratios=[high, 0.34 * len(rows) + 0.4])
    places = [figure.add_subplot(grid[0, i]) for i in range(3)]
    _draw_picture(places[0], picture, ratio, "the picture")
    for axes in places[1:]:
        axes.set_axis_off()
    if maps:
        for i, axes in enumerate(places[1 : 1 + len(maps.classes)]):
            _draw_map(axes, picture, ratio, maps, i, is_true=maps.classes[i] == said.label)
    else:
        places[1].text(0, 0.5, _wrapped(f"no map: {no_map}"), fontsize=9, color=INK, va="center")
    _draw_guesses(figure.add_subplot(grid[1, :]), said, rows)
    path = workspace.report / f"explain-{_file_name(said.image_id)}.png"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    return path


def _picture(workspace: Workspace, said: Explained) -> tuple[np.ndarray, float]:
    """The picture as the store keeps it, a square, and its true height over its width."""
    store = open_store(workspace)
    row = int(store.rows(np.array([said.image_id]), split=said.split)[0])
    return np.array(store.pixels[row]), float(store.height[row] / store.width[row])


def _rows(said: Explained) -> list[int]:
    """Which of the guesses are drawn: members by weight, the blend last."""
    all_ = guesses(said)
    order = sorted(range(len(said.members)), key=lambda i: -said.weights.get(all_[i].name, 0.0))
    return [*order[:MOST_ROWS], *range(len(said.members), len(all_))]


def _draw_picture(axes: Axes, picture: np.ndarray, ratio: float, title: str, *, colour: str = INK) -> None:
    """The square, drawn as wide and high as the picture truly is: x in [0, 1], y downwards in [0, 1]."""
    axes.imshow(picture, extent=(0, 1, 1, 0), aspect=ratio, interpolation="bilinear")
    axes.set_title(_plain(title), fontsize=9, color=colour)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_map(axes: Axes, picture: np.ndarray, ratio: float, maps: ClassMaps, i: int, *, is_true: bool) -> None:
    """The i-th class's map over the picture in grey, in the box that the network saw."""
    heat, (left, top, right, bottom) = maps.heat[i], maps.box
    title = (
        f"what speaks for {maps.classes[i]}{' (the truth)' if is_true else ''}\n"
        f"{maps.run} fold {maps.fold}, a map of {heat.shape[1]} x {heat.shape[0]}"
    )
    grey = picture.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    axes.set_axis_on()
    _draw_picture(axes, grey, ratio, title, colour=TRUE if is_true else INK)
    axes.imshow(
        heat, extent=(left, right, bottom, top), aspect=ratio, cmap="inferno", alpha=0.55, vmin=0, vmax=1,
        interpolation="bilinear",
    )  # fmt: skip
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1))
    axes.set(xlim=(0, 1), ylim=(1, 0))
    if not heat.any():
        axes.text(0.5, 0.5, "nothing speaks for it", color="white", ha="center")


def _draw_guesses(axes: Axes, said: Explained, rows: Sequence[int]) -> None:
    """A row per member: its first guesses, each with a bar as long as its probability; the true one is marked."""
    shown = [guesses(said)[i] for i in rows]
    for y, one in enumerate(shown):
        axes.text(-0.02, y, _plain(one.name), ha="right", va="center", fontsize=9, color=INK)
        for place, (label, prob) in enumerate(zip(one.labels, one.probs, strict=True)):
            is_true = label == said.label
            axes.barh(y, 0.9 * prob, left=place, height=0.72, color=BAR)
            text = f"{label}  {prob:.2f}{'  (true)' if is_true else ''}"
            weight, colour = ("bold", TRUE) if is_true else ("normal", INK)
            axes.text(place + 0.02, y, _plain(text), va="center", fontsize=9, color=colour, fontweight=weight)
    axes.set(xlim=(0, K), ylim=(len(shown) - 0.4, -0.6), yticks=[], xticks=[0, 1, 2], xticklabels=[])
    axes.set_xticks([0.45, 1.45, 2.45], labels=["first guess", "second", "third"], fontsize=9, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    hidden = len(said.members) - MOST_ROWS
    if hidden > 0:
        axes.set_xlabel(f"and {hidden} members that weigh less", fontsize=9, color=INK)


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _wrapped(text: str, columns: int = 44) -> str:
    lines = [""]
    for word in _plain(text).split():
        if lines[-1] and len(lines[-1]) + len(word) >= columns:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _file_name(image_id: str) -> str:
    """The id where it can be a file's name; else what is left of it, and a digest that keeps two apart."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", image_id).strip(".-")[:80]
    return kept if kept == image_id else f"{kept}-{digest(image_id.encode())[:6]}"
