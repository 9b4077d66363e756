"""What `prepare` and `split` do; each returns what is to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from folds.base.errors import first_few
from folds.base.locks import alone
from folds.base.terminal import Screen
from folds.base.workspace import Workspace
from folds.manifest import prepare as manifest
from folds.manifest.tables import plain_table, prepare_tables
from folds.settings import PrepareSettings, SplitSettings
from folds.split import assign
from folds.split.assign import Folds


def prepare(
    workspace: Workspace,
    data: Path,
    settings: PrepareSettings,
    *,
    needed_size: int,
    screen: Screen,
) -> RenderableType:
    """Make the manifest and the pixel store. needed_size: pixels of the store where its size is not set."""
    lock = alone(workspace, "folds", say=screen.complain)
    return prepare_tables(
        manifest.prepare(workspace, data, settings, needed_size=needed_size, track=screen.track, lock=lock)
    )


def split(workspace: Workspace, settings: SplitSettings, *, seed: int, screen: Screen) -> RenderableType:
    """Assign the folds."""
    with alone(workspace, "folds", say=screen.complain, is_to_write=workspace.manifest.is_file()):
        folds, notes = assign.split(workspace, settings, seed=seed)
    return split_tables(folds, notes)


def split_tables(folds: Folds, notes: Sequence[str] = ()) -> RenderableType:
    """Images, classes and the rarest class of each fold, and the classes that cannot be in all of them.

    notes  about the user's groups and folds; how even they leave the folds is said where there are any
    """
    table = plain_table("fold", "images", "classes", "rarest class")
    for k in range(folds.n_folds):
        counts = np.bincount(folds.target[folds.fold == k], minlength=len(folds.classes))
        present = np.flatnonzero(counts)
        rarest = int(present[np.argmin(counts[present])])
        table.add_row(str(k), f"{counts.sum():,}", f"{len(present):,}", Text(_sized(folds, rarest, counts[rarest])))
    parts: list[RenderableType] = [table]
    counts = np.bincount(folds.target, minlength=len(folds.classes))
    small = [_sized(folds, int(c), counts[c]) for c in np.flatnonzero(counts < folds.n_folds)]
    if small:
        what = "1 class has" if len(small) == 1 else f"{len(small):,} classes have"
        parts.append(Text(f"{what} fewer images than the {folds.n_folds} folds: {first_few(small, most=10)}"))
    parts += [Text(note) for note in [*notes, *(_evenness(folds) if notes else [])]]
    return Group(*parts)


def _evenness(folds: Folds) -> list[str]:
    """How far the classes' shares of a fold are from their shares of all, and which classes no other fold has."""
    held = np.zeros((folds.n_folds, len(folds.classes)))
    np.add.at(held, (folds.fold, folds.target), 1)
    share, of_all = held / held.sum(axis=1, keepdims=True), held.sum(axis=0) / held.sum()  # (K, C) and (C,)
    fold, c = np.unravel_index(np.abs(share - of_all).argmax(), share.shape)
    lines = [
        f"the classes' shares differ most in fold {fold}: {share[fold, c]:.1%} of it are {folds.classes[c]}, "
        f"of all images {of_all[c]:.1%}"
    ]
    lonely = np.flatnonzero(((held > 0).sum(axis=0) == 1) & (held.sum(axis=0) > 1))
    if len(lonely):
        what = "1 class has" if len(lonely) == 1 else f"{len(lonely):,} classes have"
        named = [_sized(folds, int(c), int(held[:, c].sum())) for c in lonely]
        lines.append(
            f"warning: {what} all images in one fold, which is predicted without having seen any: "
            f"{first_few(named, most=10)}"
        )
    return lines


def _sized(folds: Folds, target: int, count: int) -> str:
    return f"{folds.classes[target]}: {count:,} {'image' if count == 1 else 'images'}"
