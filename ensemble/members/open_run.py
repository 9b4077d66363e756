"""Opens a run's predictions and refuses, by name, whatever must not be blended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.members.oof_file import CHUNK_ROWS, StoredPredictions, open_predictions, refuse_changed
from ensemble.members.training_rows import Rows
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, read_json
from models.predict.predictions import ROW_SUM_TOLERANCE, average_views
from models.runs import KNN, PROBE, done_folds, done_refit


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
        if self.order is None:
            return self.stored.rows(start, stop)
        return self.stored.scattered_rows(self.order[start:stop])


@dataclass(frozen=True)
class Run:
    """One trained run (or one member of columns or of another tool), opened and checked, its values still on disk."""

    name: str
    root: Path
    blocks: tuple[Block, ...]  # none where the run was opened for the test images alone
    tests: tuple[Path, ...]
    views: tuple[str, ...]  # those in use
    use_views: tuple[int, ...]  # their places in the file
    columns: np.ndarray | None  # class c stands in column columns[c] of the file; None: in column c
    seed: int | None
    settings: Mapping[str, Any] = field(repr=False)  # without seed and name: equal settings make siblings
    digests: Mapping[str, str] = field(repr=False)  # of every file, by its path below the run
    warnings: tuple[str, ...] = ()
    is_of_columns: bool = False  # and of no pixels

    def probs(self, start: int, stop: int) -> np.ndarray:
        """Probabilities of rows start to stop, the views averaged. (n, C) float32."""
        pieces = [
            self.averaged(block.log_probs(max(start, block.start), min(stop, block.stop)))
            for block in self.blocks
            if block.start < stop and start < block.stop
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def test_ids(self) -> np.ndarray:
        """The ids of its test predictions, sorted. (T,) str"""
        return np.sort(open_predictions(self.tests[0], hint=self.remake_hint).image_id)

    def test_probs(self, path: Path, image_id: np.ndarray, *, some: bool) -> Iterator[tuple[slice, np.ndarray]]:
        """The probabilities in one of its `tests` in the order of the ids, piece by piece: (rows, (n, C) float32).

        some  the ids are a few of those predicted: only their rows are read, and the file's digest is not taken
        Raises UserError where the file was changed, is unfit, or predicts other images.
        """
        hint, place = self.remake_hint, path.relative_to(self.root).as_posix()
        stored = open_predictions(path, hint=hint)
        if not some:
            refuse_changed(path, self.digests.get(place), what=f"{self.name}: {place}", hint=hint)
        if not set(self.views) <= set(stored.views):
            raise UserError(f"{self.name}: {place} lacks views of its test images", hint=hint)
        order = np.argsort(stored.image_id, kind="stable")
        is_known = len(order) >= len(image_id) if some else len(order) == len(image_id)
        if is_known:
            rows = np.searchsorted(stored.image_id, image_id, sorter=order)
            rows = order.take(rows, mode="clip")
        if not is_known or not np.array_equal(stored.image_id[rows], image_id):
            odd = np.setdiff1d(image_id, stored.image_id) if some else np.setxor1d(image_id, stored.image_id)
            fault = "has no prediction for" if some else "predicts other test images than the other files do:"
            raise UserError(f"{self.name}: {place} {fault} {first_few(list(odd))}", hint=hint)
        in_order = np.array_equal(rows, np.arange(len(order)))
        for start in range(0, len(rows), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, len(rows))
            probs = self.averaged(stored.rows(start, stop) if in_order else stored.scattered_rows(rows[start:stop]))
            if not (np.abs(probs.sum(axis=1) - 1) <= ROW_SUM_TOLERANCE).all():
                raise UserError(f"{self.name}: {place} holds NaN, or rows that do not sum to 1", hint=hint)
            yield slice(start, stop), probs

    @property
    def remake_hint(self) -> str:
        """The command that makes its predictions again."""
        return _remake_hint(self.root)

    def with_views(self, views: tuple[str, ...]) -> Run:
        """The same run with some of its views in use."""
        return replace(self, views=views, use_views=tuple(self.use_views[self.views.index(view)] for view in views))

    def averaged(self, log_probs: np.ndarray) -> np.ndarray:
        """The views in use, averaged as probabilities, columns in target order. (n, V, C) -> (n, C) float32."""
        probs = average_views(log_probs, self.use_views)
        return probs if self.columns is None else np.ascontiguousarray(probs[:, self.columns])


def list_runs(workspace: Workspace) -> tuple[str, ...]:
    """The names of all runs with at least one finished fold, and of all added members, sorted."""
    trained = {path.parent.parent.name for path in workspace.models.glob("*/fold*/done.json")}
    added = {path.parent.name for path in workspace.members.glob("*/done.json")}
    return tuple(sorted(trained | added))


def open_run(
    workspace: Workspace,
    name: str,
    *,
    rows: Rows,
    views: tuple[str, ...] | None = None,
    tests_only: bool = False,
) -> Run:
    """A run with all its folds, and its refit on all images if that is done: one more network for the test images.

    tests_only  for the test images alone: no out-of-fold file is read
    Raises UserError, naming the run, where anything about it is unfit for a blend.
    """
    added = (workspace.members / name / "done.json").is_file()
    root = (workspace.members if added else workspace.models) / name
    opened = _Opened(name, root, rows, _remake_hint(root))
    done = {root: read_json(root / "done.json", hint=opened.hint)} if added else opened.done_folds(workspace)
    digests = opened.digests(done, checked="" if tests_only else "oof.npz")
    folders = [root / f"fold{k}" for k in rows.folds] if added else list(done)
    files = [folder / "test.npz" for folder in done] if tests_only else [folder / "oof.npz" for folder in folders]
    stored: list[StoredPredictions] = []
    for k, file in enumerate(files):
        stored.append(opened.predictions(file, f"fold {k}", first=stored[0] if stored else None))
    if not added and (refit := done_refit(workspace, name)):
        done[workspace.refit(name)] = refit
        digests |= opened.refit_digests(workspace.refit(name), refit, stored[0], tests_only=tests_only)
    known, use_views = stored[0].classes, opened.places_of_views(stored[0].views, views)
    in_use = [] if tests_only else [stored[folders.index(root / f"fold{number}")] for number in rows.folds]
    first = next(iter(done.values()))
    return Run(
        name=name,
        root=root,
        blocks=tuple(opened.block(one, k) for k, one in enumerate(in_use)),
        tests=tuple(folder / "test.npz" for folder in done),
        views=tuple(stored[0].views[place] for place in use_views),
        use_views=use_views,
        columns=None if known == rows.classes else np.array([known.index(label) for label in rows.classes]),
        seed=first.get("seed"),
        settings={} if added else _settings_without_seed(folders[0]),
        digests=digests,
        warnings=tuple(first.get("warnings", ())),
        is_of_columns="columns" in first,
    )


@dataclass(frozen=True)
class _Opened:
    """A run while it is opened; hint: what makes its predictions again."""

    name: str
    root: Path
    rows: Rows
    hint: str

    def done_folds(self, workspace: Workspace) -> dict[Path, Any]:
        """Each fold's folder and `done.json`. Refuses a run that lacks one of the folds in use."""
        there = done_folds(workspace, self.name)
        lacking = [str(k) for k in self.rows.folds if k not in there]
        if len(lacking) == len(self.rows.folds):
            known = ", ".join(list_runs(workspace))
            hint = f"there are {known}" if known else "`python run.py train` makes the first run"
            raise UserError(f"there is no finished fold of a run {self.name}", hint=hint)
        if lacking:
            train = f"`python run.py train --run {self.name}`"
            hint = f"{train}, or `python run.py blend --partial` for the folds that are done"
            raise UserError(f"{self.name} lacks fold {', '.join(lacking)} of {len(self.rows.folds)}", hint=hint)
        # Of a run in parts all networks that are done predict the test images.
        return {self.root / f"fold{k}": there[k] for k in (there if self.rows.is_partial else self.rows.folds)}

    def digests(self, done: Mapping[Path, Any], *, checked: str, hint: str = "") -> dict[str, str]:
        """The digests that each `done.json` records; the files called `checked` are compared with theirs now."""
        hint, digests = hint or self.hint, {}
        for folder, record in done.items():
            files = record.get("files") if isinstance(record, dict) else None
            if not isinstance(files, dict):
                place = (folder / "done.json").relative_to(self.root)
                raise UserError(f"{self.name}: {place} names no files", hint=hint)
            for path, expected in sorted((folder / file, expected) for file, expected in files.items()):
                place = path.relative_to(self.root).as_posix()
                digests[place] = str(expected)
                if not path.is_file():
                    raise UserError(f"{self.name} lacks its file {place}", hint=hint)
                if path.name in (checked, "settings.json"):
                    way_out = hint if path.name == checked else f"remove {folder} and train it again"
                    refuse_changed(path, expected, what=f"{self.name}: {place}", hint=way_out)
        return digests

    def predictions(
        self, path: Path, what: str, *, first: StoredPredictions | None = None, hint: str = ""
    ) -> StoredPredictions:
        """A file of predictions. Refuses those made on other folds or for other classes, or unlike the first ones."""
        stored, rows, hint = open_predictions(path, hint=hint or self.hint), self.rows, hint or self.hint
        first = first or stored
        odd = sorted(set(stored.classes) ^ set(rows.classes))
        counts = f"{len(stored.classes)} classes where the folds have {len(rows.classes)}"
        views = f"({', '.join(stored.views)}) than fold 0 ({', '.join(first.views)})"
        predict = f"`python run.py predict --run {self.name} --views {','.join(first.views)}`"
        other_folds = f"other folds ({stored.folds_digest}) than this work folder's ({rows.digest})"
        for is_wrong, fault, way_out in (
            (stored.folds_digest != rows.digest, f"was made on {other_folds}", hint),
            (
                odd or len(stored.classes) != len(rows.classes),
                f"has {counts}; the difference is {first_few(odd)}",
                hint,
            ),
            (stored.views != first.views, f"has other views or view order {views}", predict),
            (stored.classes != first.classes, "has its classes in another order than fold 0", self.hint),
        ):
            if is_wrong:
                raise UserError(f"{self.name}: {what} {fault}", hint=self.hint if _is_added(self.root) else way_out)
        return stored

    def refit_digests(
        self, folder: Path, done: dict[str, Any], first: StoredPredictions, *, tests_only: bool
    ) -> dict[str, str]:
        """The digests of a run's refit, once it is checked like a fold; refuses other settings than a fold's."""
        hint = f"remove {folder}, then `python run.py train --fold all --run {self.name}`"
        digests = self.digests({folder: done}, checked="" if tests_only else "test.npz", hint=hint)
        fold = first.path.parent
        now, before = (_flat(read_json(one / "settings.json", hint=hint)) for one in (folder, fold))
        keys = dict.fromkeys([*before, *now])
        changed = [f"{key} {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
        if changed:
            raise UserError(
                f"{self.name}: its refit on all images was trained with other settings than its folds:"
                f" {first_few(changed, most=4)}",
                hint=hint,
            )
        self.predictions(folder / "test.npz", "its refit", first=first, hint=hint)
        return digests

    def places_of_views(self, there: tuple[str, ...], views: tuple[str, ...] | None) -> tuple[int, ...]:
        """Where the views in use (all by default) stand among those that are there."""
        lacking = [view for view in views or () if view not in there]
        if lacking:
            more = ",".join(dict.fromkeys([*there, *(views or ())]))
            raise UserError(
                f"{self.name} has no view {first_few(lacking)}; it has {', '.join(there)}",
                hint=f"no network made it: leave out `--member-views`, or {self.name} with `--members`"
                if _is_added(self.root)
                else f"`python run.py predict --run {self.name} --views {more}`",
            )
        return tuple(there.index(view) for view in (views or there))

    def block(self, stored: StoredPredictions, fold: int) -> Block:
        """A fold's rows, joined by id. Refuses gaps, ids of other folds, and ids that stand there twice."""
        place = self.rows.of_fold(fold)
        expected, what = self.rows.image_id[place], f"{self.name}: fold {self.rows.folds[fold]}"
        if np.array_equal(stored.image_id, expected):
            return Block(place.start, replace(stored, image_id=expected), None)  # one copy of the ids for all runs
        ids, first, count = np.unique(stored.image_id, return_index=True, return_counts=True)
        for names, fault in (
            (np.setdiff1d(expected, ids), "has no prediction for"),
            (np.setdiff1d(ids, expected), "predicts images that are not in it:"),
            (ids[count > 1], "predicts twice"),
        ):
            if len(names):
                raise UserError(f"{what} {fault} {first_few(list(names))}", hint=self.hint)
        return Block(place.start, stored, first[np.searchsorted(ids, expected)])


def _is_added(root: Path) -> bool:
    """Whether another tool or columns made these predictions: no network here can predict them again."""
    return root.parent.name == "members"


def _remake_hint(root: Path) -> str:
    """What makes a run's predictions again: its networks, one more pass, another lookup, or an added member's files."""
    if _is_added(root):
        with suppress(UserError):  # its record may be what is damaged
            if "columns" in read_json(root / "done.json", hint=""):
                return f"`python run.py table CSV --name {root.name}`, or remove {root}"
        return f"`python run.py add {root.name} --oof FILE --test FILE`, or remove {root}"
    paths = sorted(root.glob("fold*/settings.json"))
    kinds = {read_json(path, hint=f"remove {path.parent} and train it again").get("kind") for path in paths}
    if PROBE in kinds:
        return f"remove {root}, then `python run.py probe` with its backbone"
    if KNN in kinds:
        return f"remove {root}, then `python run.py knn --run {root.name.removesuffix(f'-{KNN}')}`"
    return f"`python run.py predict --run {root.name}`"


def _settings_without_seed(folder: Path) -> dict[str, Any]:
    """The settings that siblings share; none where the file is absent, and then there are no siblings."""
    path = folder / "settings.json"
    settings = read_json(path, hint="`python run.py train`") if path.is_file() else {}
    return {key: value for key, value in settings.items() if key not in ("seed", "run", "fold")}


def _flat(stored: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run or a refit as one dict, without the number of the fold."""
    kept = {key: value for key, value in stored.items() if key not in ("settings", "fold")}
    return {**kept, **stored.get("settings", {})}
