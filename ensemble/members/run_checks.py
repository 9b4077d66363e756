"""Checks what lies in a run's folders: that nothing is missing, damaged, or made for something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.members.oof_file import StoredPredictions, file_digest
from ensemble.members.training_rows import Rows
from folds.base.errors import UserError, first_few
from folds.base.workspace import read_json
from models.runs import PROBE

MEMBERS = "members"  # the folder below work/ensemble for what other tools made


def refuse_gaps(name: str, folders: Sequence[Path], *, known: str, hint: str) -> None:
    """Refuse a run that lacks a fold. known: what to type instead, where it has none at all."""
    lacking = [k for k, folder in enumerate(folders) if not (folder / "done.json").is_file()]
    if len(lacking) == len(folders):
        raise UserError(f"there is no finished fold of a run {name}", hint=known)
    if lacking:
        raise UserError(f"{name} lacks fold {', '.join(map(str, lacking))} of {len(folders)}", hint=hint)


def again(root: Path) -> str:
    """What makes a run's predictions anew: its networks; for a probe one more pass; of an added member, its files."""
    if is_added(root):
        return f"`python run.py add {root.name} --oof FILE --test FILE`, or remove {root}"
    paths = sorted(root.glob("fold*/settings.json"))
    if any(read_json(path, hint=f"remove {path.parent} and train it again").get("kind") == PROBE for path in paths):
        return f"remove {root}, then `python run.py probe` with its backbone"
    return f"`python run.py predict --run {root.name}`"


def is_added(root: Path) -> bool:
    """Whether other tools made these predictions: no network here can predict them again."""
    return root.parent.name == MEMBERS


def checked_digests(
    name: str, root: Path, done: dict[Path, Any], *, hint: str, held: str = "oof.npz"
) -> dict[str, str]:
    """The digests that each `done.json` records; the files called `held` are held against theirs now."""
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
            if path.name in (held, "settings.json") and file_digest(path) != expected:
                mend = hint if path.name == held else f"remove {folder} and train it again"
                raise UserError(f"{name}: {place} is damaged, its bytes are not those that were written", hint=mend)
    return digests


def check_belonging(name: str, stored: StoredPredictions, *, rows: Rows, what: str, hint: str) -> None:
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


def check_layout(name: str, stored: StoredPredictions, first: StoredPredictions, *, what: str) -> None:
    """Refuse predictions whose views or classes stand in another order than fold 0's."""
    root = stored.path.parents[1]
    if stored.views != first.views:
        remake = f"`python run.py predict --run {name} --views {','.join(first.views)}`"
        raise UserError(
            f"{name}: {what} has other views or view order ({', '.join(stored.views)}) than fold 0"
            f" ({', '.join(first.views)})",
            hint=again(root) if is_added(root) else remake,
        )
    if stored.classes != first.classes:
        raise UserError(f"{name}: {what} has its classes in another order than fold 0", hint=again(root))


def places_of_views(root: Path, there: tuple[str, ...], views: tuple[str, ...] | None) -> tuple[int, ...]:
    """Where the views in use (all by default) stand among those that are there."""
    lacking = [view for view in views or () if view not in there]
    if lacking:
        more = ",".join(dict.fromkeys([*there, *(views or ())]))
        raise UserError(
            f"{root.name} has no view {first_few(lacking)}; it has {', '.join(there)}",
            hint=f"other tools made it: leave out `--member-views`, or {root.name} with `--members`"
            if is_added(root)
            else f"`python run.py predict --run {root.name} --views {more}`",
        )
    return tuple(there.index(view) for view in (views or there))


def check_prior(name: str, done: Mapping[Path, Any], *, hint: str) -> None:
    """Refuse networks of which some have their sampling's prior undone and others have not: a choice was cut off."""
    restored = {folder.name: record["prior_restored"] for folder, record in done.items() if "prior_restored" in record}
    kept = [place for place, is_restored in restored.items() if not is_restored]
    if kept and len(kept) < len(restored):
        raise UserError(
            f"{name}: {first_few(kept)} keeps the prior that sampling shifted, unlike the others", hint=hint
        )


def check_refit(name: str, folder: Path, fold: Path, *, hint: str) -> None:
    """Refuse a refit on all images that was trained with other settings than a fold of the run."""
    now, before = (_flat(read_json(one / "settings.json", hint=hint)) for one in (folder, fold))
    keys = dict.fromkeys([*before, *now])
    changed = [f"{key} {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    if changed:
        raise UserError(
            f"{name}: its refit on all images was trained with other settings than its folds:"
            f" {first_few(changed, most=4)}",
            hint=hint,
        )


def settings_without_seed(folder: Path) -> dict[str, Any]:
    """The settings that siblings share; none where the file is absent, and then there are no siblings."""
    path = folder / "settings.json"
    settings = read_json(path, hint="`python run.py train`") if path.is_file() else {}
    return {key: value for key, value in settings.items() if key not in ("seed", "run", "fold")}


def _flat(stored: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run or a refit as one dict, without the number of the fold."""
    return {
        **{key: value for key, value in stored.items() if key not in ("settings", "fold")},
        **stored.get("settings", {}),
    }
