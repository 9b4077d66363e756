"""Applies a blend to the test images: every member's networks averaged as probabilities, then pooled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from ensemble.blend.blend_json import HINT, Blend
from ensemble.members.members import Member, Members, read_members
from ensemble.members.open_run import list_runs, open_run
from ensemble.members.run import Run
from ensemble.members.training_rows import Rows, rows_of
from ensemble.weights.recipe import Recipe
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from folds.split.assign import load_folds


@dataclass(frozen=True)
class Blended:
    """Scores of images that a blend, or a run by its name, was applied to.

    image_id (n,) str, sorted    scores (n, C) float64, finite, higher is better    classes: C labels
    """

    made_from: Blend | str
    image_id: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]

    @property
    def probs(self) -> np.ndarray:
        """The scores as probabilities. (n, C) float64"""
        return self.scores if isinstance(self.made_from, str) else self.made_from.recipe().probs(self.scores)


@dataclass(frozen=True)
class Applied:
    """A blend whose members are opened: those that have weight, in the order of the recipe's weights."""

    recipe: Recipe
    members: tuple[Member, ...]
    rows: Rows

    def scores(self, probs_of: Callable[[Member], np.ndarray]) -> np.ndarray:
        """The blended scores of n images. probs_of: a member's probabilities of them, (n, C). (n, C) float64"""
        return self.recipe.scores(map(probs_of, self.members))

    def probs(self, probs_of: Callable[[Member], np.ndarray]) -> np.ndarray:
        """The same as probabilities. (n, C) float64, rows sum to 1"""
        return self.recipe.probs(self.scores(probs_of))


def apply_blend(workspace: Workspace, made_from: Blend | str) -> Blended:
    """The scores of all test images that the members of a blend, or the run of that name, predicted.

    Raises UserError where a member is gone or not as it was when the blend was made.
    """
    made = open_blend(workspace, made_from, tests_only=True)
    image_id = made.members[0].runs[0].test_ids()
    scores = made.scores(lambda member: member.test_probs(image_id))
    return Blended(made_from, image_id, scores, made.rows.classes)


def open_blend(workspace: Workspace, made_from: Blend | str, *, tests_only: bool) -> Applied:
    """A blend with the members that it needs, or the run of that name as a blend of one. Raises as `apply_blend`.

    tests_only  for the test images alone: no out-of-fold file is read
    """
    if isinstance(made_from, str):
        rows = rows_of(load_folds(workspace))
        run = open_run(workspace, made_from, rows=rows, tests_only=tests_only)
        return Applied(Recipe("mean", np.ones(1)), (Member(run.name, (run,)),), rows)
    recipe, used = made_from.recipe(), [name for name, weight in made_from.weights.items() if weight > 0]
    rows, members = _as_they_were(workspace, made_from, used, tests_only=tests_only)
    return Applied(replace(recipe, weights=recipe.weights[recipe.weights > 0]), members, rows)


def open_members(workspace: Workspace, blend: Blend) -> Members:
    """The members that a blend was made of, with their out-of-fold predictions, in the order of its weights.

    Raises UserError where one is gone or not as it was when the blend was made.
    """
    return read_members(*_as_they_were(workspace, blend, blend.weights, tests_only=False))


def _as_they_were(
    workspace: Workspace, blend: Blend, names: Collection[str], *, tests_only: bool
) -> tuple[Rows, tuple[Member, ...]]:
    """The training images and the members, sorted by name, that a blend was made of, with the views that it uses."""
    rows = rows_of(load_folds(workspace), blend.partial["folds"] if blend.partial else None)
    if (rows.digest, rows.classes) != (blend.folds_digest, blend.classes):
        raise UserError("the blend was made with other folds than those of this work folder", hint=HINT)

    gone = {run for name in names for run in blend.runs[name]} - {*list_runs(workspace)}
    if gone:
        raise UserError(f"the blend needs {first_few(sorted(gone))}, which is gone", hint=HINT)

    def same(name: str, views: tuple[str, ...]) -> Run:
        run, known = open_run(workspace, name, rows=rows, views=views, tests_only=tests_only), blend.files[name]
        changed = [place for place in sorted({*known, *run.digests}) if run.digests.get(place) != known.get(place)]
        if changed:
            raise UserError(f"{name} has changed since the blend was made: {first_few(changed)}", hint=HINT)
        return run

    return rows, tuple(
        Member(name, tuple(same(run, blend.views[name]) for run in blend.runs[name])) for name in sorted(names)
    )
