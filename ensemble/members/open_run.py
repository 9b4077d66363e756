"""Opens a run's predictions and refuses, by name, whatever must not be blended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.members.oof_file import StoredPredictions, open_predictions, refuse_changed
from ensemble.members.run import Run, is_added
from ensemble.members.training_rows import Rows
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, read_json
from models.runs import CHOSEN, KNN, PROBE, begun_settings, changed_settings, done_folds, done_refit, flat_settings


def list_runs(workspace: Workspace) -> tuple[str, ...]:
    """The names of all runs with at least one finished fold, and of all added members, sorted."""
    trained = {path.parent.parent.name for path in workspace.models.glob("*/fold*/done.json")}
    added = {path.parent.name for path in workspace.members.glob("*/done.json")}
    return tuple(sorted(trained | added))


def known_runs(workspace: Workspace) -> str:
    """A hint for who names a run that is not there."""
    known = ", ".join(list_runs(workspace))
    return f"there are {known}" if known else "`python run.py train` makes the first run"


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
    begun: dict[str, Any] = {} if added else next(begun_settings(workspace, name), {})
    hint = _add_again(root) if added else _predict_again(root, begun.get("kind"))
    opened = _Opened(name, root, rows, hint, begun.get("kind"))
    done = {root: read_json(root / "done.json", hint=hint)} if added else opened.done_folds(workspace)
    digests = opened.digests(done, checked="" if tests_only else "oof.npz")
    folders = [root / f"fold{k}" for k in rows.folds] if added else list(done)
    files = [folder / "test.npz" for folder in done] if tests_only else [folder / "oof.npz" for folder in folders]
    stored: list[StoredPredictions] = []
    for file in files:
        stored.append(opened.predictions(file, _as_words(file.parent), first=stored[0] if stored else None))
    if not added:
        opened.refuse_mixed_folds(list(done))
    if not added and (refit := done_refit(workspace, name)):
        folder = workspace.refit(name)
        done[folder] = refit
        opened_refit = replace(opened, hint=f"remove {folder}, then `python run.py train --fold all --run {name}`")
        digests |= opened_refit.digests({folder: refit}, checked="" if tests_only else "test.npz")
        opened_refit.refuse_other_settings(folder, "its refit on all images", stored[0].path.parent)
        opened_refit.predictions(folder / "test.npz", "its refit", first=stored[0])
    known, use_views = stored[0].classes, opened.places_of_views(stored[0].views, views)
    in_use = [] if tests_only else [stored[folders.index(root / f"fold{number}")] for number in rows.folds]
    first = next(iter(done.values()))
    return Run(
        name=name,
        root=root,
        oof=tuple(opened.joined(one, k) for k, one in enumerate(in_use)),
        tests=tuple(folder / "test.npz" for folder in done),
        views=tuple(stored[0].views[place] for place in use_views),
        use_views=use_views,
        columns=None if known == rows.classes else np.array([known.index(label) for label in rows.classes]),
        seed=first.get("seed"),
        settings={key: value for key, value in begun.items() if key not in ("seed", "run", CHOSEN)},
        digests=digests,
        remake_hint=hint,
        warnings=tuple(first.get("warnings", ())),
        is_of_columns="columns" in first,
    )


def _add_again(root: Path) -> str:
    """What makes the predictions of an added member again: its files, or its columns."""
    command = f"`python run.py add {root.name} --oof FILE --test FILE`"
    with suppress(UserError):  # its record may be what is damaged
        if "columns" in read_json(root / "done.json", hint=""):
            command = f"`python run.py table CSV --name {root.name}`"
    return f"{command}, or remove {root}"


def _predict_again(root: Path, kind: str | None) -> str:
    """What makes a run's predictions again: another probe, another lookup, or one more pass of its networks."""
    if kind == PROBE:
        return f"remove {root}, then `python run.py probe` with its backbone"
    if kind == KNN:
        return f"remove {root}, then `python run.py knn --run {root.name.removesuffix(f'-{KNN}')}`"
    return f"`python run.py predict --run {root.name}`"


def _as_words(folder: Path) -> str:
    """`fold 2` for the folder of a fold."""
    return folder.name.replace("fold", "fold ")


@dataclass(frozen=True)
class _Opened:
    """A run, or its refit on all images, while it is opened; hint: what makes its predictions again."""

    name: str
    root: Path
    rows: Rows
    hint: str
    kind: str | None

    def done_folds(self, workspace: Workspace) -> dict[Path, Any]:
        """Each fold's folder and `done.json`. Refuses a run that lacks one of the folds in use."""
        there = done_folds(workspace, self.name)
        lacking = [str(k) for k in self.rows.folds if k not in there]
        if len(lacking) == len(self.rows.folds):
            raise UserError(f"there is no finished fold of a run {self.name}", hint=known_runs(workspace))
        if lacking:
            hint = self.hint if self.kind in (PROBE, KNN) else f"`python run.py train --run {self.name}`"
            hint += ", or `python run.py blend --partial` for the folds that are done"
            raise UserError(f"{self.name} lacks fold {', '.join(lacking)} of {len(self.rows.folds)}", hint=hint)
        # Of a run in parts all networks that are done predict the test images.
        return {self.root / f"fold{k}": there[k] for k in (there if self.rows.is_partial else self.rows.folds)}

    def digests(self, done: Mapping[Path, Any], *, checked: str) -> dict[str, str]:
        """The digests that each `done.json` records; the files called `checked` are compared with theirs now."""
        digests = {}
        for folder, record in done.items():
            files = record.get("files") if isinstance(record, dict) else None
            if not isinstance(files, dict):
                place = (folder / "done.json").relative_to(self.root)
                raise UserError(f"{self.name}: {place} names no files", hint=self.hint)
            for path, expected in sorted((folder / file, expected) for file, expected in files.items()):
                place = path.relative_to(self.root).as_posix()
                digests[place] = str(expected)
                if not path.is_file():
                    raise UserError(f"{self.name} lacks its file {place}", hint=self.hint)
                if path.name in (checked, "settings.json"):
                    hint = self.hint if path.name == checked else f"remove {folder} and train it again"
                    refuse_changed(path, expected, what=f"{self.name}: {place}", hint=hint)
        return digests

    def predictions(self, path: Path, what: str, *, first: StoredPredictions | None) -> StoredPredictions:
        """A file of predictions. Refuses those made on other folds or for other classes, or unlike the first ones."""
        stored, rows, hint = open_predictions(path, hint=self.hint), self.rows, self.hint
        first = first or stored
        if stored.folds_digest != rows.digest:
            fault = f"was made on other folds ({stored.folds_digest}) than this work folder's ({rows.digest})"
        elif sorted(stored.classes) != sorted(rows.classes):
            odd = sorted(set(stored.classes) ^ set(rows.classes))
            counts = f"{len(stored.classes)} classes where the folds have {len(rows.classes)}"
            fault = f"has {counts}; the difference is {first_few(odd)}"
        elif stored.views != first.views:
            views = f"({', '.join(stored.views)}) than {_as_words(first.path.parent)} ({', '.join(first.views)})"
            fault = f"has other views or view order {views}"
            if not is_added(self.root):
                hint = f"`python run.py predict --run {self.name} --views {','.join(first.views)}`"
        elif stored.classes != first.classes:
            fault = f"has its classes in another order than {_as_words(first.path.parent)}"
        else:
            return stored
        raise UserError(f"{self.name}: {what} {fault}", hint=hint)

    def refuse_mixed_folds(self, folders: Sequence[Path]) -> None:
        """Refuse folds that were not all trained with the settings of the first."""
        for folder in folders[1:]:
            again = replace(self, hint=f"remove {folder}, then `python run.py train --run {self.name}`")
            again.refuse_other_settings(folder, _as_words(folder), folders[0])

    def refuse_other_settings(self, folder: Path, what: str, first: Path) -> None:
        """Refuse a fold, or the refit, that was trained with other settings than the first one, each in its folder."""
        now, before = (flat_settings(read_json(one / "settings.json", hint=self.hint)) for one in (folder, first))
        both = {**dict.fromkeys(before), **now}
        both.pop(CHOSEN, None)  # machines may differ
        if changed := changed_settings(before, both):
            than = f"was trained with other settings than {_as_words(first)}"
            raise UserError(f"{self.name}: {what} {than}: {changed}", hint=self.hint)

    def places_of_views(self, there: tuple[str, ...], views: tuple[str, ...] | None) -> tuple[int, ...]:
        """Where the views in use (all by default) stand among those that are there."""
        lacking = [view for view in views or () if view not in there]
        if lacking:
            more = ",".join(dict.fromkeys([*there, *(views or ())]))
            raise UserError(
                f"{self.name} has no view {first_few(lacking)}; it has {', '.join(there)}",
                hint=f"no network made it: leave out `--member-views`, or {self.name} with `--members`"
                if is_added(self.root)
                else f"`python run.py predict --run {self.name} --views {more}`",
            )
        return tuple(there.index(view) for view in (views or there))

    def joined(self, stored: StoredPredictions, fold: int) -> StoredPredictions:
        """A fold's rows, joined by id. Refuses gaps, ids of other folds, and ids that stand there twice."""
        place = self.rows.of_fold(fold)
        expected, what = self.rows.image_id[place], f"{self.name}: fold {self.rows.folds[fold]}"
        if np.array_equal(stored.image_id, expected):
            return replace(stored, image_id=expected, start=place.start)  # one copy of the ids for all runs
        ids, first, count = np.unique(stored.image_id, return_index=True, return_counts=True)
        for names, fault in (
            (np.setdiff1d(expected, ids), "has no prediction for"),
            (np.setdiff1d(ids, expected), "predicts images that are not in it:"),
            (ids[count > 1], "predicts twice"),
        ):
            if len(names):
                raise UserError(f"{what} {fault} {first_few(list(names))}", hint=self.hint)
        return replace(stored, start=place.start, order=first[np.searchsorted(ids, expected)])
