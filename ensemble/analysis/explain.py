"""Explains one image: every member's and the blend's predictions, by no network that has seen it, and class maps."""

from __future__ import annotations

import difflib
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Group
from rich.text import Text

from ensemble.blend.apply import open_blend
from ensemble.blend.blend_json import load_blend
from ensemble.members.members import Member
from ensemble.members.open_run import list_runs, open_run
from ensemble.members.run import Run
from ensemble.members.training_rows import Rows, rows_of
from folds.base.errors import UserError, first_few, visible
from folds.base.metrics import top_classes
from folds.base.terminal import figures
from folds.base.workspace import Workspace, digest, write_bytes
from folds.find.listing import Lookup
from folds.find.reasons import reason_text
from folds.manifest.manifest import USABLE, read_manifest
from folds.pixels.store import open_store
from folds.split.assign import SPLIT_HINT, Folds, load_folds
from models.runs import done_folds

if TYPE_CHECKING:
    from models.predict.gradcam import ClassMaps

K = 3  # guesses that are shown
MOST_ROWS = 14  # members that are drawn; those that weigh most come first
INK, TRUE, BAR = "#22313f", "#0b6e4f", "#9db4c0"
MOST_COMPARED = 50_000  # ids that are searched for the nearest: more take longer than a user waits


@dataclass(frozen=True)
class Guess:
    """One member's, or the blend's, prediction: the first classes with their probabilities, the true one's too.

    rank  of the true class, 1 is first; None where the truth is not known
    """

    name: str
    labels: tuple[str, ...]
    probs: tuple[float, ...]
    rank: int | None
    true_prob: float | None

    @property
    def texts(self) -> list[str]:
        """The first classes, each with its probability."""
        return [f"{label}  {prob:.2f}" for label, prob in zip(self.labels, self.probs, strict=True)]


@dataclass(frozen=True)
class Explained:
    """One image: a training image with its label and fold, as networks see it that were trained without that fold."""

    image_id: str
    split: Literal["train", "test"]
    label: str | None
    fold: int | None
    members: tuple[Guess, ...]
    blend: Guess | None
    left_out: tuple[str, ...]  # why runs are left out that are not fit for it
    weights: Mapping[str, float]  # of each run's member in the blend

    def by_weight(self) -> list[Guess]:
        """The members' predictions, of those that weigh most in the blend first."""
        return sorted(self.members, key=lambda one: -self.weights.get(one.name, 0.0))

    def labels_of(self, run: str) -> list[str]:
        """A run's first class, and the truth where that is something else and known."""
        first = next(one.labels[0] for one in self.members if one.name == run)
        return list(dict.fromkeys([first, *([self.label] if self.label is not None else [])]))

    @property
    def headline(self) -> str:
        """What is known of the image."""
        name = visible(self.image_id)
        if self.label is None:
            return f"{name}, a test image: the mean over each member's networks"
        return f"{name}, labelled {visible(self.label)}, in fold {self.fold}: by networks that were trained without it"


def explain_image(workspace: Workspace, image_id: str, *, run: str | None = None) -> Explained:
    """Everything that is predicted of a usable image. run: one that must be among those that have a prediction.

    image_id  as in the manifest, or a shorter name that one image alone has: see `Lookup`
    Raises UserError where the id is unknown (with the nearest ones), the image was left out, or nothing is predicted.
    """
    folds = load_folds(workspace)
    image_id, split = _find(workspace, image_id)
    fold = target = None
    if split == "train":
        place = folds.image_id == image_id
        if not place.any():
            raise UserError(f"{image_id} is not in the folds, which are older than the manifest", hint=SPLIT_HINT)
        fold, target = int(folds.fold[place][0]), int(folds.target[place][0])
    runs, left_out = _fit_runs(workspace, folds, fold)
    if not runs:
        raise UserError(f"there is no finished run: {first_few(list(left_out.values()))}", hint="`python run.py train`")
    if run is not None and run not in runs:
        raise UserError(left_out.get(run, f"there is no run {run}"), hint=f"`--run` with one of {', '.join(runs)}")

    def probs(member: Member, rows: Rows) -> np.ndarray:
        """Out of fold, or of a test image as a submission has them. rows: with which it was opened. (1, C) float32"""
        if fold is None:
            return member.test_probs(np.array([image_id]), some=True)
        row = int(np.flatnonzero(rows.image_id == image_id)[0])
        return member.probs(row, row + 1)

    def guess(name: str, probs: np.ndarray) -> Guess:
        order = top_classes(probs, k=len(folds.classes))[0]
        labels, shares = tuple(folds.classes[c] for c in order[:K]), tuple(probs[0, order[:K]].tolist())
        rank = None if target is None else order.tolist().index(target) + 1
        return Guess(name, labels, shares, rank, None if target is None else float(probs[0, target]))

    blend = load_blend(workspace.blend) if workspace.blend.is_file() else None
    if blend is not None and (blend.folds_digest, blend.classes) != (folds.digest, tuple(folds.classes)):
        blend = None
    blended = None
    if blend is not None and (fold is None or not blend.partial or fold in blend.partial["folds"]):
        with suppress(UserError):  # a member of it is gone or has changed
            made = open_blend(workspace, blend, tests_only=fold is None)
            blended = guess(f"blend ({blend.candidate})", made.probs(lambda member: probs(member, made.rows)))
    weights: dict[str, float] = {}  # a run whose views are members of their own has the weight of all
    for name, weight in (blend.weights if blend else {}).items():
        for run in blend.runs[name] if blend else ():
            weights[run] = weights.get(run, 0.0) + weight
    return Explained(
        image_id=image_id,
        split=split,
        label=None if target is None else folds.classes[target],
        fold=fold,
        members=tuple(guess(name, probs(Member(name, (one,)), rows)) for name, (one, rows) in runs.items()),
        blend=blended,
        left_out=tuple(left_out.values()),
        weights=weights,
    )


def _fit_runs(
    workspace: Workspace, folds: Folds, fold: int | None
) -> tuple[dict[str, tuple[Run, Rows]], dict[str, str]]:
    """All runs that have predicted the image, each with the rows it was opened with, and why the others have not.

    fold  of a training image; None: a test image, which every network of a run predicts
    """
    runs, left_out, every = {}, {}, range(folds.n_folds)
    for name in list_runs(workspace):
        try:
            done = every if (workspace.members / name).is_dir() else sorted(done_folds(workspace, name))
            if fold is not None and fold not in done:
                raise UserError(f"{name} lacks fold {fold}, which this image is in")
            rows = rows_of(folds, done if fold is None else [fold])
            runs[name] = open_run(workspace, name, rows=rows, tests_only=fold is None), rows
        except UserError as err:
            left_out[name] = err.message
    return runs, left_out


def _find(workspace: Workspace, image_id: str) -> tuple[str, Literal["train", "test"]]:
    """The image's id in the manifest, and which part it belongs to."""
    manifest = read_manifest(workspace)
    found = manifest[manifest["image_id"] == image_id]
    if not len(found) and (file := Lookup.of_images(manifest["image_id"], manifest["path"]).find(image_id)):
        found = manifest[manifest["path"] == file.path]
    if not len(found):
        near = nearest(image_id, manifest.loc[manifest["status"] == USABLE, "image_id"].tolist())
        hint = f"did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else None
        raise UserError(f"there is no image {image_id}", hint=hint or f"{workspace.manifest} has all ids")
    image_id = found["image_id"].iloc[0]
    splits = set(found.loc[found["status"] == USABLE, "split"])
    if not splits:
        status, why = found["status"].iloc[0], reason_text(found["reasons"].iloc[0])
        raise UserError(
            f"{image_id} is {status} ({why}): nothing is predicted of it",
            hint=f"{workspace.manifest} names the images that are usable",
        )
    return image_id, "train" if "train" in splits else "test"


def nearest(text: str, ids: Sequence[str]) -> list[str]:
    """At most three ids: those that hold the text, else those that are spelled most like it."""
    holding = [one for one in ids if text and text in one]
    return holding[:3] or difflib.get_close_matches(text, ids[:MOST_COMPARED], n=3)


def explained_summary(said: Explained, no_map: Sequence[str]) -> Group:
    """A row per member and the blend. no_map: why runs have no map, where some have none."""
    guesses = [f"guess {place}" for place in range(1, K + 1)]
    table = figures(said.headline, texts=("member", *guesses), numbers=("truth",) if said.label is not None else ())
    for one in (*said.members, *([said.blend] if said.blend else [])):
        texts = [*one.texts, *[""] * (K - len(one.texts))]
        truth = [f"{one.true_prob:.2f}, place {one.rank}"] if one.rank is not None else []
        table.add_row(one.name, *(Text(visible(text)) for text in texts), *truth)
    notes = [f"left out: {why}" for why in said.left_out] + [f"no map: {why}" for why in no_map]
    return Group(table, *map(Text, notes))


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
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", said.image_id).strip(".-")[:80]
    if name != said.image_id:
        name = f"{name}-{digest(said.image_id.encode())[:6]}"  # keeps two apart
    path = workspace.report / f"explain-{name}.png"
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
