"""What the test images are like, without their labels: class mix, copies of training images, likeness to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ensemble.analysis.class_mix import ClassMix, Predicted, estimate_class_mix
from ensemble.analysis.test_likeness import Likeness, measure_likeness
from ensemble.blend.apply import Applied, Blended, open_blend
from ensemble.members.members import Member
from ensemble.members.run import Run
from folds.base.errors import UserError
from folds.base.metrics import top_classes
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, usable_rows

NAMED = 3  # classes in a sentence
MOST_TRAIN, MOST_TEST = 10_000, 20_000  # images, drawn at random: a class of 0.1% still has 10 and 20 of them


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


def class_mix_of(workspace: Workspace, blended: Blended) -> ClassMix:
    """The class mix of the test images that a blend or a run was applied to; of many images on a sample.

    Each test image is predicted by the networks of one fold, as training images are out of fold. The mean over all
    folds' networks has other errors and another confidence, and would be taken for a shift: in made-up worlds where it
    has an error of 0.069 and a single fold 0.142, it was in 8 of 40.

    Raises UserError where no image is predicted, or a member is gone or not as it was when the blend was made.
    """
    from threadpoolctl import threadpool_limits

    image_id = blended.image_id
    if not len(image_id):
        raise UserError("no test image is predicted", hint="`python run.py predict`")
    made = open_blend(workspace, blended.made_from, tests_only=False)
    rows, rng = made.rows, np.random.default_rng(0)
    train, test = (
        np.sort(rng.permutation(n)[:most]) for n, most in ((len(rows), MOST_TRAIN), (len(image_id), MOST_TEST))
    )
    group = test
    if known := copies_of_test_images(workspace):
        group = np.array([known.get(name, -1 - row) for row, name in enumerate(image_id[test].tolist())])
    oof = Predicted(_out_of_fold(made, train), rows.group[train])
    tested = Predicted(_by_one_fold(made, image_id[test]), group)
    with threadpool_limits(1):  # as in `make_blend`: threads that wait for a busy neighbour take longer than one
        return estimate_class_mix(oof, rows.target[train], tested)


def copies_of_test_images(workspace: Workspace) -> Mapping[str, int]:
    """The group of copies that each usable test image belongs to; none where there is no manifest."""
    if not workspace.manifest.is_file():
        return {}
    images = usable_rows(read_manifest(workspace), split="test")
    return dict(zip(images["image_id"], images["group"].tolist(), strict=True))


def copies_of_training_images(workspace: Workspace, blended: Blended) -> Copies:
    """The predicted test images whose group of copies has usable training images."""
    if not workspace.manifest.is_file():
        return Copies(len(blended.image_id), (), 0)
    manifest = read_manifest(workspace)
    train, test = (usable_rows(manifest, split=split) for split in ("train", "test"))
    labels = train[train["group"].isin(test["group"])].groupby("group")["label"].agg(set)
    is_copy = test["group"].isin(labels.index) & test["image_id"].isin(blended.image_id.tolist())
    copies = test[is_copy].sort_values("image_id")
    top = top_classes(blended.scores[np.searchsorted(blended.image_id, copies["image_id"].to_numpy(dtype=str))])
    guesses = ({blended.classes[c] for c in best} for best in top.tolist())
    missed = sum(not labels[group] & own for group, own in zip(copies["group"], guesses, strict=True))
    return Copies(len(blended.image_id), tuple(copies["image_id"]), missed)


def submission_sentences(
    workspace: Workspace, blended: Blended, mix: ClassMix | str, *, expected: float | None, is_matched: bool
) -> Iterator[str]:
    """What a submission's summary says of the test set.

    mix       of its classes, or why it was not estimated
    expected  the blend's top-3 error, None for a single run
    """
    copies, likeness = copies_of_training_images(workspace, blended), measure_likeness(workspace)
    if copies.image_id and expected is not None:
        yield copies_sentence(copies, expected)
    if likeness is not None and likeness.is_far:
        yield likeness_sentence(likeness)
    if isinstance(mix, ClassMix):
        yield mix_sentence(mix, blended.classes, is_matched=is_matched)
    else:
        yield f"the class mix of the test images was not estimated: {mix}"


def copies_sentence(copies: Copies, expected: float) -> str:
    """How many copies there are, and the expected error with them."""
    count = len(copies.image_id)
    are = "is a copy of a training image" if count == 1 else "are copies of training images"
    return (
        f"{count:,} of {copies.images:,} test images {are}: with the labels of their twins, {copies.missed:,} of"
        f" {count:,} {'is' if copies.missed == 1 else 'are'} missed, and the expected error of all test images is"
        f" {copies.expected_error(expected):.4f}"
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
    way = "weighed by it" if is_matched else "with `submit --match-test`"
    return (
        f"class mix of the test images: shifted from the training images, {changes}; in a simulation the top-3 error is"
        f" {mix.before:.4f}, and {mix.gain.mean:+.4f} +- {mix.gain.standard_error:.4f} {way}"
        f"{'' if mix.pays else ', no sure gain'}"
    )


def _out_of_fold(made: Applied, rows: np.ndarray) -> np.ndarray:
    """The blend's probabilities of training images, by networks that have not seen them. rows (n,) -> (n, C) float32"""

    def of_run(run: Run) -> np.ndarray:
        return np.concatenate([run.averaged(fold.scattered(rows)) for fold in run.oof])

    return made.probs(lambda member: np.mean([of_run(run) for run in member.runs], axis=0)).astype(np.float32)


def _by_one_fold(made: Applied, image_id: np.ndarray) -> np.ndarray:
    """The blend's probabilities of test images, of each by the networks of one fold, dealt at random. (T, C) float32"""
    runs = [run for member in made.members for run in member.runs]  # those of other tools have one file, of no fold
    tests = {run.name: [path for path in run.tests if path.parent.name.startswith("fold")] or run.tests for run in runs}
    turn = np.random.default_rng(0).permutation(len(image_id)) % max(map(len, tests.values()))

    def probs_of(member: Member, k: int) -> np.ndarray:
        alone = tuple(replace(run, tests=(tests[run.name][k % len(tests[run.name])],)) for run in member.runs)
        return replace(member, runs=alone).test_probs(image_id[turn == k], some=True)

    probs = np.empty((len(image_id), len(made.rows.classes)), np.float32)
    for k in range(turn.max() + 1):
        probs[turn == k] = made.probs(partial(probs_of, k=k))
    return probs
