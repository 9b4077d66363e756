"""What the test images are like, without their labels: class mix, copies of training images, likeness to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ensemble.analysis.class_mix import ClassMix, Predicted, estimate_class_mix
from ensemble.analysis.test_likeness import Likeness, measure_likeness
from ensemble.blend.apply import Applied, Blended, member_test_probs, open_members
from ensemble.blend.blend_json import Blend
from ensemble.blend.recipe import Recipe
from ensemble.members.members import Members, load_members
from ensemble.members.open_run import Run
from folds.base.errors import UserError
from folds.base.metrics import top_classes
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, usable_rows

NAMED = 3  # classes in a sentence


@dataclass(frozen=True)
class Copies:
    """Test images that are copies of usable training images, and what their twins' labels would mean.

    images  predicted test images, copies included    image_id  of the copies, sorted
    missed  copies whose twins' label is not among the three that are predicted
    """

    images: int
    image_id: tuple[str, ...]
    missed: int

    def expected_error(self, without: float) -> float:
        """The expected top-3 error where copies have their twins' labels. without: that of images without a twin."""
        return ((self.images - len(self.image_id)) * without + self.missed) / max(self.images, 1)


@dataclass(frozen=True)
class Unlabelled:
    """What is known of the test images. mix: None where it could not be estimated, `problem` says why.

    likeness  None where no features are kept
    """

    mix: ClassMix | None
    copies: Copies
    likeness: Likeness | None
    problem: str = ""


def describe_test_set(workspace: Workspace, blended: Blended, made_from: Blend | str) -> Unlabelled:
    """Everything of the images that a blend, or the run of that name, was applied to. It never refuses."""
    mix, problem = None, ""
    try:
        members, recipe = _members_of(workspace, made_from)
        oof = Predicted(_oof_probs(members, recipe), members.rows.group)
        mix = blend_class_mix(workspace, _applied(members, recipe), oof, members.rows.target, blended.image_id)
    except UserError as err:
        problem = err.message
    likeness = measure_likeness(workspace) if workspace.manifest.is_file() else None
    return Unlabelled(mix, copies_of_training_images(workspace, blended), likeness, problem)


def blend_class_mix(
    workspace: Workspace, made: Applied, oof: Predicted, target: np.ndarray, image_id: np.ndarray
) -> ClassMix:
    """The class mix of the test images, each predicted by the networks of one fold, as training images are out of fold.

    The mean over all folds' networks has other errors and another confidence than out-of-fold predictions, and would
    be taken for a shift: with members that a mean improves from 0.142 to 0.069 it was, in 8 of 40 made-up worlds.

    oof, target (N,)  out-of-fold predictions of the same blend, and the true classes
    image_id (T,)     test images, sorted
    """
    group = np.arange(len(image_id))
    if workspace.manifest.is_file():
        table = usable_rows(read_manifest(workspace), split="test")
        known = dict(zip(table["image_id"], table["group"].tolist(), strict=True))
        group = np.array([known.get(name, -1 - row) for row, name in enumerate(image_id.tolist())])
    return estimate_class_mix(oof, target, Predicted(_by_one_fold(made, image_id), group))


def copies_of_training_images(workspace: Workspace, blended: Blended) -> Copies:
    """The predicted test images whose group of copies has usable training images."""
    if not workspace.manifest.is_file():
        return Copies(len(blended.image_id), (), 0)
    manifest = read_manifest(workspace)
    train, test = (usable_rows(manifest, split=split) for split in ("train", "test"))
    labels: dict[int, set[str]] = {}
    shared = train[train["group"].isin(test["group"])]
    for group, label in zip(shared["group"].tolist(), shared["label"], strict=True):
        labels.setdefault(group, set()).add(label)
    row_of = {name: row for row, name in enumerate(blended.image_id.tolist())}
    twins = {
        name: labels[group]
        for name, group in zip(test["image_id"], test["group"].tolist(), strict=True)
        if group in labels and name in row_of
    }
    names = sorted(twins)
    top = top_classes(blended.scores[[row_of[name] for name in names]])
    missed = sum(not twins[name] & {blended.classes[c] for c in best} for name, best in zip(names, top, strict=True))
    return Copies(len(blended.image_id), tuple(names), missed)


def submission_sentences(
    said: Unlabelled, classes: Sequence[str], *, expected: float | None, is_matched: bool
) -> Iterator[str]:
    """What a submission's summary says of the test set. expected: the blend's top-3 error, None for a single run."""
    count = len(said.copies.image_id)
    if count and expected is not None:
        yield (
            f"{count:,} of {said.copies.images:,} test images are copies of training images: with the labels of those,"
            f" {said.copies.missed:,} of them {'is' if said.copies.missed == 1 else 'are'} missed, and the expected"
            f" error of all is {said.copies.expected_error(expected):.4f}"
        )
    if said.likeness is not None and said.likeness.is_far:
        yield likeness_sentence(said.likeness)
    yield (
        mix_sentence(said.mix, classes, is_matched=is_matched)
        if said.mix
        else (f"the class mix of the test images was not estimated: {said.problem}")
    )


def likeness_sentence(likeness: Likeness) -> str:
    """That the sets differ, where they are far apart."""
    return (
        f"test images can be told from training images (AUC {likeness.auc:.2f}, {likeness.low:.2f} to"
        f" {likeness.high:.2f}; 0.5 is alike): the expected error may not hold, and the report shows which images"
    )


def mix_sentence(mix: ClassMix, classes: Sequence[str], *, is_matched: bool) -> str:
    """The largest changes of the classes' shares, whether they are a shift, and what weighing by them would gain."""
    changes = ", ".join(
        f"{classes[c]} {mix.train[c]:.1%} -> {mix.test[c]:.1%} ({mix.low[c]:.1%} to {mix.high[c]:.1%})"
        for c in mix.most_changed[: NAMED if mix.is_shift else 1].tolist()
    )
    if not mix.is_shift:
        kept = "; `--match-test` changed nothing" if is_matched else ""
        return f"class mix of the test images: no shift from the training images, most for {changes}{kept}"
    assert mix.gain is not None, "a shift without a simulation"
    assert mix.before is not None, "a shift without a simulation"
    way = "weighed by it" if is_matched else "`submit --match-test` weighs by it"
    return (
        f"class mix of the test images: shifted from the training images, {changes}; {way}: top-3 error"
        f" {mix.before:.4f} {mix.gain.mean:+.4f} +- {mix.gain.standard_error:.4f} in a simulation"
    )


def _members_of(workspace: Workspace, made_from: Blend | str) -> tuple[Members, Recipe]:
    """Members with their out-of-fold predictions, and how they are pooled."""
    if isinstance(made_from, Blend):
        return open_members(workspace, made_from), made_from.recipe()
    return load_members(workspace, [made_from]), Recipe("mean", np.ones(1))


def _applied(members: Members, recipe: Recipe) -> Applied:
    used = recipe.weights > 0
    own = tuple(member for member, has_weight in zip(members.members, used, strict=True) if has_weight)
    return Applied(Recipe(recipe.pool, recipe.weights[used], recipe.bias), own)


def _oof_probs(members: Members, recipe: Recipe) -> np.ndarray:
    """The blend's probabilities of the training images, by networks that have not seen them. (N, C) float32"""
    probs = np.empty((len(members.rows), len(members.rows.classes)), np.float32)
    for piece, own in members.chunks():
        probs[piece] = recipe.probs(recipe.scores(own))
    return probs


def _by_one_fold(made: Applied, image_id: np.ndarray) -> np.ndarray:
    """The blend's probabilities of test images, of each by the networks of one fold, dealt at random. (T, C) float32"""
    assert len(image_id), "no test image"
    tests = {run.name: _fold_tests(run) for member in made.members for run in member.runs}
    n_folds = max(map(len, tests.values()))
    turn = np.random.default_rng(0).permutation(len(image_id)) % n_folds
    parts = []
    for k in range(turn.max() + 1):
        alone = [
            [replace(run, tests=(tests[run.name][k % len(tests[run.name])],)) for run in member.runs]
            for member in made.members
        ]
        scores = made.recipe.scores(member_test_probs(runs, image_id[turn == k], some=True) for runs in alone)
        parts.append(made.recipe.probs(scores).astype(np.float32))
    return np.concatenate(parts)[np.argsort(np.argsort(turn, kind="stable"), kind="stable")]


def _fold_tests(run: Run) -> Sequence[Path]:
    """The test predictions of each fold's network; another tool's one file, which is whatever that tool made."""
    return [path for path in run.tests if path.parent.name.startswith("fold")] or run.tests
