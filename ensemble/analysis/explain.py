"""Gathers each member's and the blend's predictions of one image, never by a network that was trained on it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Group
from rich.text import Text

from ensemble.blend.apply import member_test_probs, open_blend
from ensemble.blend.blend_json import load_blend
from ensemble.members.members import Member
from ensemble.members.open_run import list_runs, open_run
from ensemble.members.run import Run
from ensemble.members.training_rows import Rows, rows_of
from folds.base.errors import UserError, first_few, visible
from folds.base.metrics import top_classes
from folds.base.terminal import figures
from folds.base.workspace import Workspace
from folds.find.listing import Lookup
from folds.find.reasons import reason_text
from folds.manifest.manifest import USABLE, read_manifest
from folds.split.assign import SPLIT_HINT, Folds, load_folds
from models.runs import done_folds

K = 3  # guesses that are shown
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
            return member_test_probs(member.runs, np.array([image_id]), some=True)
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
    return Explained(
        image_id=image_id,
        split=split,
        label=None if target is None else folds.classes[target],
        fold=fold,
        members=tuple(guess(name, probs(Member(name, (one,)), rows)) for name, (one, rows) in runs.items()),
        blend=blended,
        left_out=tuple(left_out.values()),
        weights={} if blend is None else {run: blend.weights[name] for name in blend.runs for run in blend.runs[name]},
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
