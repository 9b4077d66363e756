"""Opens a run's predictions and refuses, by name, whatever must not be blended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.members.oof_file import StoredPredictions, open_predictions
from ensemble.members.run_checks import (
    again,
    check_belonging,
    check_layout,
    check_prior,
    check_refit,
    checked_digests,
    places_of_views,
    refuse_gaps,
    settings_without_seed,
)
from ensemble.members.training_rows import Rows
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, read_json
from models.runs import done_folds, done_refit


@dataclass(frozen=True)
class Block:
    """The out-of-fold rows of one fold: where they start among all rows, and in which order the file has them."""

    start: int
    stored: StoredPredictions
    order: np.ndarray | None  # row i of the fold is row order[i] of the file; None: the same order

    @property
    def stop(self) -> int:
        return self.start + len(self.stored.image_id)

    def log_probs(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, counted from the first row of all. (n, V, C) float32."""
        start, stop = start - self.start, stop - self.start
        return (
            self.stored.rows(start, stop) if self.order is None else self.stored.scattered_rows(self.order[start:stop])
        )


@dataclass(frozen=True)
class Run:
    """One trained run (or one set of predictions from elsewhere), opened and checked, its values still on disk."""

    name: str
    root: Path
    blocks: tuple[Block, ...]
    tests: tuple[Path, ...]
    views: tuple[str, ...]  # those in use
    use_views: tuple[int, ...]  # their places in the file
    columns: np.ndarray | None  # class c stands in column columns[c] of the file; None: in column c
    seed: int | None
    settings: Mapping[str, Any] = field(repr=False)  # without seed and name: equal settings make siblings
    digests: Mapping[str, str] = field(repr=False)  # of every file, by its path below the run
    warnings: tuple[str, ...] = ()

    def probs(self, start: int, stop: int) -> np.ndarray:
        """Probabilities of rows start to stop, the views averaged. (n, C) float32."""
        pieces = [
            self.averaged(block.log_probs(max(start, block.start), min(stop, block.stop)))
            for block in self.blocks
            if block.start < stop and start < block.stop
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    @property
    def mend(self) -> str:
        """The command that makes its predictions anew."""
        return again(self.root)

    def with_view(self, view: str) -> Run:
        """The same run with one of its views in use."""
        return replace(self, views=(view,), use_views=(self.use_views[self.views.index(view)],))

    def averaged(self, log_probs: np.ndarray) -> np.ndarray:
        """The views in use, averaged as probabilities, columns in target order. (n, V, C) -> (n, C) float32."""
        probs = np.exp(log_probs[:, self.use_views[0]])
        for view in self.use_views[1:]:
            probs += np.exp(log_probs[:, view])
        probs /= np.float32(len(self.use_views))
        return probs if self.columns is None else np.ascontiguousarray(probs[:, self.columns])


def list_runs(workspace: Workspace) -> tuple[str, ...]:
    """The names of all runs with at least one finished fold, and of all added members, sorted."""
    trained = {path.parent.parent.name for path in workspace.models.glob("*/fold*/done.json")}
    added = {path.parent.name for path in workspace.members.glob("*/done.json")}
    return tuple(sorted(trained | added))


def open_run(workspace: Workspace, name: str, *, rows: Rows, views: tuple[str, ...] | None = None) -> Run:
    """A run with all its folds, and its refit on all images if that is done: one more network for the test images.

    Raises UserError, naming the run, where anything about it is unfit for a blend.
    """
    added = (workspace.members / name / "done.json").is_file()
    root = workspace.members / name if added else workspace.models / name
    hint = again(root) if added else f"`python run.py train --run {name}`"
    numbers = _networks(workspace, name, rows) if not added else list(rows.folds)
    folders = [root / f"fold{k}" for k in numbers]
    if not added:
        gaps = f"{hint}, or `python run.py blend --partial` for the folds that are done"
        refuse_gaps(name, folders, known=_known_runs(workspace), hint=gaps)
    if added:
        done = {root: read_json(root / "done.json", hint=hint)}
    else:
        hint, records = again(root), done_folds(workspace, name)
        done = {folder: records[number] for folder, number in zip(folders, numbers, strict=True)}
    digests = checked_digests(name, root, done, hint=hint)
    stored = _open_folds(name, folders, rows=rows, hint=hint)
    if not added and (refit := done_refit(workspace, name)):
        done[workspace.refit(name)] = refit
        digests |= _refit_digests(workspace, name, refit, stored[0], fold=folders[0], rows=rows)
    check_prior(name, done, hint=f"`python run.py train --run {name}`")
    places = places_of_views(root, stored[0].views, views)
    first = next(iter(done.values()))
    return Run(
        name=name,
        root=root,
        blocks=tuple(
            _block(name, stored[numbers.index(number)], k, rows=rows, hint=hint) for k, number in enumerate(rows.folds)
        ),
        tests=tuple(folder / "test.npz" for folder in done),
        views=tuple(stored[0].views[place] for place in places),
        use_views=places,
        columns=_columns(stored[0].classes, rows.classes),
        seed=first.get("seed"),
        settings={} if added else settings_without_seed(folders[0]),
        digests=digests,
        warnings=tuple(first.get("warnings", ())),
    )


def _networks(workspace: Workspace, name: str, rows: Rows) -> list[int]:
    """The folds whose networks are asked about the test images: all, or of a run in parts those that are done."""
    return sorted({*rows.folds, *done_folds(workspace, name)}) if rows.is_partial else list(rows.folds)


def _open_folds(name: str, folders: Sequence[Path], *, rows: Rows, hint: str) -> list[StoredPredictions]:
    """The out-of-fold predictions of each fold, made on these folds, for these classes and under the same views."""
    stored = [open_predictions(folder / "oof.npz", hint=hint) for folder in folders]
    for k, predictions in enumerate(stored):
        check_belonging(name, predictions, rows=rows, what=f"fold {k}", hint=hint)
        check_layout(name, predictions, stored[0], what=f"fold {k}")
    return stored


def _refit_digests(
    workspace: Workspace, name: str, done: dict[str, Any], first: StoredPredictions, *, fold: Path, rows: Rows
) -> dict[str, str]:
    """The files of a run's refit with their digests, once it is checked like a fold."""
    folder = workspace.refit(name)
    hint = f"remove {folder}, then `python run.py train --fold all --run {name}`"
    digests = checked_digests(name, folder.parent, {folder: done}, hint=hint, held="test.npz")
    check_refit(name, folder, fold, hint=hint)
    stored = open_predictions(folder / "test.npz", hint=hint)
    check_belonging(name, stored, rows=rows, what="its refit", hint=hint)
    check_layout(name, stored, first, what="its refit")
    return digests


def _known_runs(workspace: Workspace) -> str:
    names = list_runs(workspace)
    return f"there are {', '.join(names)}" if names else "`python run.py train` makes the first run"


def _block(name: str, stored: StoredPredictions, fold: int, *, rows: Rows, hint: str) -> Block:
    """The fold's rows, joined by id. Refuses gaps, strangers and ids that stand there twice."""
    place = rows.of_fold(fold)
    expected, fold = rows.image_id[place], rows.folds[fold]
    if np.array_equal(stored.image_id, expected):
        return Block(place.start, stored, None)
    ids, first, count = np.unique(stored.image_id, return_index=True, return_counts=True)
    gaps, strangers, twice = np.setdiff1d(expected, ids), np.setdiff1d(ids, expected), ids[count > 1]
    for names, fault in ((gaps, "has no prediction for"), (strangers, "predicts images that are not in it:")):
        if len(names):
            raise UserError(f"{name}: fold {fold} {fault} {first_few(list(names))}", hint=hint)
    if len(twice):
        raise UserError(f"{name}: fold {fold} predicts twice {first_few(list(twice))}", hint=hint)
    return Block(place.start, stored, first[np.searchsorted(ids, expected)])


def _columns(classes: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray | None:
    """Where each class stands in the file, or None if all stand where they should."""
    return None if classes == wanted else np.array([classes.index(label) for label in wanted])
