"""This file opens a run's predictions and refuses, by name, whatever must not be blended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.rows import Rows
from ensemble.stored import StoredPredictions, file_digest, open_predictions
from folds.errors import UserError, first_few
from folds.workspace import Workspace, read_json


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
    added = {path.parent.name for path in members_folder(workspace).glob("*/done.json")}
    return tuple(sorted(trained | added))


def members_folder(workspace: Workspace) -> Path:
    """Where members lie that were made by other tools."""
    return workspace.ensemble / "members"


def open_run(workspace: Workspace, name: str, *, rows: Rows, views: tuple[str, ...] | None = None) -> Run:
    """A run with all its folds. Raises UserError, naming the run, where anything about it is unfit for a blend."""
    added = (members_folder(workspace) / name / "done.json").is_file()
    root = members_folder(workspace) / name if added else workspace.models / name
    hint = f"`python run.py add {name} --oof FILE --test FILE`" if added else f"`python run.py train --run {name}`"
    folders = [root / f"fold{k}" for k in range(rows.n_folds)]
    if not added:
        _refuse_gaps(workspace, name, folders, hint=hint)
    done = {folder: read_json(folder / "done.json", hint=hint) for folder in ([root] if added else folders)}
    digests = _checked_digests(name, root, done, hint=hint)
    stored = [open_predictions(folder / "oof.npz", hint=hint) for folder in folders]
    for k, predictions in enumerate(stored):
        _check_belonging(name, predictions, rows=rows, what=f"fold {k}", hint=hint)
    use_views = _use_views(name, stored, views)
    first = next(iter(done.values()))
    return Run(
        name=name,
        root=root,
        blocks=tuple(_block(name, predictions, k, rows=rows, hint=hint) for k, predictions in enumerate(stored)),
        tests=tuple(folder / "test.npz" for folder in done),
        views=tuple(stored[0].views[place] for place in use_views),
        use_views=use_views,
        columns=_columns(stored[0].classes, rows.classes),
        seed=first.get("seed"),
        settings={} if added else _settings_without_seed(folders[0]),
        digests=digests,
        warnings=tuple(first.get("warnings", ())),
    )


def _known_runs(workspace: Workspace) -> str:
    names = list_runs(workspace)
    return f"there are {', '.join(names)}" if names else "`python run.py train` makes the first run"


def _refuse_gaps(workspace: Workspace, name: str, folders: list[Path], *, hint: str) -> None:
    lacking = [k for k, folder in enumerate(folders) if not (folder / "done.json").is_file()]
    if len(lacking) == len(folders):
        raise UserError(f"there is no finished fold of a run {name}", hint=_known_runs(workspace))
    if lacking:
        raise UserError(f"{name} lacks fold {', '.join(map(str, lacking))} of {len(folders)}", hint=hint)


def _checked_digests(name: str, root: Path, done: dict[Path, Any], *, hint: str) -> dict[str, str]:
    """The digests that each `done.json` records, held against the out-of-fold files as they lie there now."""
    digests = {}
    for folder, record in done.items():
        files = record.get("files") if isinstance(record, dict) else None
        if not isinstance(files, dict):
            raise UserError(f"{name}: {(folder / 'done.json').relative_to(root)} names no files", hint=hint)
        for path, expected in sorted((folder / file, expected) for file, expected in files.items()):
            place = path.relative_to(root).as_posix()
            digests[place] = str(expected)
            if not path.is_file():
                raise UserError(f"{name} lacks its file {place}", hint=hint)
            if path.name == "oof.npz" and file_digest(path) != expected:
                raise UserError(f"{name}: {place} is damaged, its bytes are not those that were written", hint=hint)
    return digests


def _check_belonging(name: str, stored: StoredPredictions, *, rows: Rows, what: str, hint: str) -> None:
    """Refuse predictions made on other folds or for other classes."""
    if stored.folds_digest != rows.digest:
        raise UserError(
            f"{name}: {what} was made on other folds ({stored.folds_digest}) than this work folder's ({rows.digest})",
            hint=hint,
        )
    odd = sorted(set(stored.classes) ^ set(rows.classes))
    if odd or len(stored.classes) != len(rows.classes):
        raise UserError(
            f"{name}: {what} has {len(stored.classes)} classes where the folds have {len(rows.classes)};"
            f" the difference is {first_few(odd)}",
            hint=hint,
        )


def _block(name: str, stored: StoredPredictions, fold: int, *, rows: Rows, hint: str) -> Block:
    """The fold's rows, joined by id. Refuses gaps, strangers and ids that stand there twice."""
    place = rows.of_fold(fold)
    expected = rows.image_id[place]
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


def _use_views(name: str, stored: list[StoredPredictions], views: tuple[str, ...] | None) -> tuple[int, ...]:
    """The places of the views in use; every fold must have the same views."""
    there = stored[0].views
    hint = f"`python run.py predict --run {name} --views {','.join(dict.fromkeys([*there, *(views or ())]))}`"
    odd = [k for k, predictions in enumerate(stored) if predictions.views != there]
    if odd:
        raise UserError(f"{name}: fold {first_few(odd)} has other views or view order than fold 0", hint=hint)
    lacking = [view for view in views or () if view not in there]
    if lacking:
        raise UserError(f"{name} has no view {first_few(lacking)}; it has {', '.join(there)}", hint=hint)
    return tuple(there.index(view) for view in (views or there))


def _settings_without_seed(folder: Path) -> dict[str, Any]:
    """The settings that siblings share; none where the file is absent, and then there are no siblings."""
    path = folder / "settings.json"
    settings = read_json(path, hint="`python run.py train`") if path.is_file() else {}
    return {key: value for key, value in settings.items() if key not in ("seed", "run", "fold")}
