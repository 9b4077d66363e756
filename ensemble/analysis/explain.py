"""Gathers what is said of one image: by each member, and by the blend, never by a network that saw it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ensemble.blend.apply import member_test_probs, open_blend
from ensemble.blend.blend_json import Blend, load_blend
from ensemble.members.members import Member
from ensemble.members.open_run import Run, list_runs, open_run
from ensemble.members.training_rows import Rows, rows_of
from folds.base.errors import UserError, first_few
from folds.base.metrics import top_classes
from folds.base.workspace import Workspace
from folds.find.reasons import reason_text
from folds.manifest.manifest import USABLE, read_manifest
from folds.split.assign import Folds, load_folds

K = 3  # guesses that are shown
MOST_COMPARED = 50_000  # ids that are searched for the nearest: more take longer than a user waits


@dataclass(frozen=True)
class Guess:
    """What one member, or the blend, says of the image: the first classes with their probabilities, the true one's too.

    rank  of the true class, 1 is first; None where the truth is not known
    """

    name: str
    labels: tuple[str, ...]
    probs: tuple[float, ...]
    rank: int | None
    true_prob: float | None


@dataclass(frozen=True)
class Explained:
    """One image: a training image with its label and fold, as networks see it that were trained without that fold."""

    image_id: str
    split: Literal["train", "test"]
    label: str | None
    fold: int | None
    members: tuple[Guess, ...]
    blend: Guess | None
    left_out: tuple[str, ...]  # why runs are not asked that are not fit for it
    weights: Mapping[str, float]  # of each run's member in the blend

    def runs_by_weight(self) -> list[str]:
        """All runs that were asked, those that weigh most in the blend first."""
        return sorted((one.name for one in self.members), key=lambda name: -self.weights.get(name, 0.0))

    def labels_of(self, run: str) -> list[str]:
        """What a run guesses first, and the truth where that is something else and known."""
        first = next(one.labels[0] for one in self.members if one.name == run)
        return list(dict.fromkeys([first, *([self.label] if self.label is not None else [])]))


def explain_image(workspace: Workspace, image_id: str, *, run: str | None = None) -> Explained:
    """Everything that is predicted of a usable image. run: one that must be among those that are asked.

    Raises UserError where the id is unknown (with the nearest ones), the image was left out, or nothing is predicted.
    """
    folds = load_folds(workspace)
    split = _find(workspace, folds, image_id)
    rows = rows_of(folds)
    runs, left_out = _fit_runs(workspace, rows)
    if not runs:
        raise UserError(f"there is no finished run to ask: {first_few(left_out)}", hint="`python run.py train`")
    if run is not None and run not in [one.name for one in runs]:
        hint = f"`--run` with one of {', '.join(one.name for one in runs)}"
        raise UserError(next((why for why in left_out if why.startswith(run)), f"there is no run {run}"), hint=hint)
    target = int(folds.target[_place(folds.image_id, image_id)]) if split == "train" else None
    asked = _Asked(rows, image_id, split)
    probs = {run.name: asked.probs(Member(run.name, (run,)))[0].astype(np.float64) for run in runs}
    blend = _load_blend(workspace, rows)
    return Explained(
        image_id=image_id,
        split=split,
        label=None if target is None else folds.classes[target],
        fold=None if target is None else int(folds.fold[_place(folds.image_id, image_id)]),
        members=tuple(_guess(name, one, folds.classes, target) for name, one in probs.items()),
        blend=None if blend is None else _blended(asked, workspace, blend, folds.classes, target),
        left_out=tuple(left_out),
        weights={} if blend is None else {run: blend.weights[name] for name in blend.runs for run in blend.runs[name]},
    )


@dataclass(frozen=True)
class _Asked:
    """The image among the rows of predictions."""

    rows: Rows
    image_id: str
    split: Literal["train", "test"]

    def probs(self, member: Member) -> np.ndarray:
        """A member's probabilities: out of fold, or of a test image as a submission has them. (1, C) float32"""
        if self.split == "train":
            place = int(np.flatnonzero(self.rows.image_id == self.image_id)[0])
            return member.probs(place, place + 1)
        return member_test_probs(member.runs, np.array([self.image_id]), some=True)


def _blended(
    asked: _Asked, workspace: Workspace, blend: Blend, classes: tuple[str, ...], target: int | None
) -> Guess | None:
    """The blend's guess, by its calibrated probabilities; None where a member of it cannot be asked any more."""
    try:
        made = open_blend(workspace, blend)
    except UserError:
        return None
    scores = made.recipe.scores(asked.probs(member) for member in made.members)  # (1, C)
    odds = np.log(np.maximum(scores, 1e-300)) if made.recipe.pool == "mean" else scores
    heat = np.exp((odds - odds.max()) / blend.temperature)
    return _guess(f"blend ({blend.candidate})", heat[0] / heat.sum(), classes, target)


def _load_blend(workspace: Workspace, rows: Rows) -> Blend | None:
    """The blend of these folds, if there is one that is not partial."""
    if not workspace.blend.is_file():
        return None
    blend = load_blend(workspace.blend)
    is_ours = (blend.folds_digest, blend.classes) == (rows.digest, rows.classes)
    return blend if is_ours and not blend.partial else None


def _guess(name: str, probs: np.ndarray, classes: tuple[str, ...], target: int | None) -> Guess:
    order = top_classes(probs[None], k=len(classes))[0]
    top = order[:K]
    rank = None if target is None else int(np.flatnonzero(order == target)[0]) + 1
    true_prob = None if target is None else float(probs[target])
    return Guess(name, tuple(classes[c] for c in top), tuple(float(probs[c]) for c in top), rank, true_prob)


def _fit_runs(workspace: Workspace, rows: Rows) -> tuple[list[Run], list[str]]:
    """All runs that have every fold, and the others with what is wrong with them."""
    runs, left_out = [], []
    for name in list_runs(workspace):
        try:
            runs.append(open_run(workspace, name, rows=rows))
        except UserError as err:
            left_out.append(err.message)
    return runs, left_out


def _place(ids: np.ndarray, image_id: str) -> int:
    return int(np.searchsorted(ids, image_id))


def _find(workspace: Workspace, folds: Folds, image_id: str) -> Literal["train", "test"]:
    """Which part the image belongs to."""
    manifest = read_manifest(workspace)
    found = manifest[manifest["image_id"] == image_id]
    usable = found[found["status"] == USABLE]
    if len(usable):
        return "train" if (usable["split"] == "train").any() else "test"
    if len(found):
        status, why = found["status"].iloc[0], reason_text(found["reasons"].iloc[0])
        raise UserError(
            f"{image_id} is {status} ({why}): nothing is predicted of it",
            hint=f"{workspace.manifest} names the images that are usable",
        )
    near = nearest(image_id, manifest.loc[manifest["status"] == USABLE, "image_id"].tolist())
    hint = f"did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else f"{workspace.manifest} has all ids"
    raise UserError(f"there is no image {image_id}", hint=hint)


def nearest(text: str, ids: Sequence[str]) -> list[str]:
    """At most three ids: those that hold the text, else those that are spelled most like it."""
    holding = [one for one in ids if text and text in one]
    return holding[:3] or difflib.get_close_matches(text, ids[:MOST_COMPARED], n=3)
