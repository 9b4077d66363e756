"""What `prepare` and `split` do; each returns what is to be shown."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType

from folds.base.locks import alone
from folds.base.terminal import Screen
from folds.base.workspace import Workspace
from folds.manifest import prepare as manifest
from folds.manifest.tables import prepare_tables
from folds.settings import PrepareSettings, SplitSettings
from folds.split import assign
from folds.split.tables import split_tables


def prepare(
    workspace: Workspace,
    data: Path,
    settings: PrepareSettings,
    *,
    needed_size: int,
    screen: Screen,
) -> RenderableType:
    """Make the manifest and the pixel store. needed_size: pixels of the store where its size is not set."""
    with alone(workspace, "folds", say=screen.complain, is_to_write=manifest.is_apart(workspace, data)):
        made = manifest.prepare(workspace, data, settings, needed_size=needed_size, track=screen.track)
    return prepare_tables(made)


def split(workspace: Workspace, settings: SplitSettings, *, seed: int, screen: Screen) -> RenderableType:
    """Assign the folds."""
    with alone(workspace, "folds", say=screen.complain, is_to_write=workspace.manifest.is_file()):
        folds, notes = assign.split(workspace, settings, seed=seed)
    return split_tables(folds, notes)
