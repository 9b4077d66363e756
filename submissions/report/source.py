"""Opens all that a report may show; what is absent or damaged is named, and the rest is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from ensemble.blend.blend_json import Blend, load_blend
from ensemble.members.open_run import list_runs
from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from folds.manifest.manifest import UNREADABLE, USABLE, read_manifest, usable_rows
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import SPLIT_HINT, Folds, load_folds
from models.runs import runs

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """An image of the competition as the report names it; path: below DATA."""

    image_id: str
    split: str
    label: str
    path: str


@dataclass(frozen=True)
class Source:
    """A work folder, opened: None for what is not there yet. runs: begun, done or added, by name.

    problems  a sentence for each thing that is there and cannot be used; sections add theirs
    """

    workspace: Workspace
    manifest: pd.DataFrame
    folds: Folds | None
    store: PixelStore | None
    blend: Blend | None
    runs: tuple[str, ...]
    problems: list[str]

    def attempt(self, make: Callable[[], T]) -> T | None:
        """What `make` makes, or None with its reason among the problems."""
        return _attempt(make, self.problems)

    def picture(self, image_id: str, *, split: str = "train") -> Picture:
        row = self._place[split].get(image_id)
        if row is None:  # predicted once, and no longer in the data
            return Picture(image_id, split, "", image_id)
        return self.picture_at(row)

    def picture_at(self, row: int) -> Picture:
        """The image in one row of the manifest."""
        return Picture(*(str(self.manifest[name].iat[row]) for name in ("image_id", "split", "label", "path")))

    def store_row(self, picture: Picture) -> int | None:
        """Its row in the pixel store, which is its row in the manifest; None where the store has no picture of it."""
        row = self._place[picture.split].get(picture.image_id)
        return None if row is None or self.manifest["status"].iat[row] == UNREADABLE else row

    @cached_property
    def class_counts(self) -> Mapping[str, int]:
        """Usable training images by label, as the folds have them, or as the manifest has them before that."""
        if self.folds is not None:
            counts = np.bincount(self.folds.target, minlength=len(self.folds.classes))
            return dict(zip(self.folds.classes, counts.tolist(), strict=True))
        train = self.manifest[(self.manifest["split"] == "train") & (self.manifest["status"] == USABLE)]
        return {str(label): int(count) for label, count in train["label"].value_counts().items()}

    @cached_property
    def _place(self) -> Mapping[str, Mapping[str, int]]:
        place: dict[str, dict[str, int]] = {"train": {}, "test": {}}
        for row, (split, image_id) in enumerate(zip(self.manifest["split"], self.manifest["image_id"], strict=True)):
            place[split][image_id] = row
        return place


def open_source(workspace: Workspace) -> Source:
    """What a work folder holds by now. Raises UserError where not even a manifest is there."""
    manifest = read_manifest(workspace)
    problems: list[str] = []
    folds = _if_there(workspace.folds_json, lambda: load_folds(workspace), problems)
    problems += _stale(manifest, folds)
    return Source(
        workspace=workspace,
        manifest=manifest,
        folds=folds,
        store=_attempt(lambda: open_store(workspace), problems),
        blend=_if_there(workspace.blend, lambda: load_blend(workspace.blend), problems),
        runs=tuple(sorted({*runs(workspace), *list_runs(workspace)})),
        problems=problems,
    )


def _stale(manifest: pd.DataFrame, folds: Folds | None) -> list[str]:
    """A sentence where the folds, and with them all runs, know other images or labels than the manifest has by now."""
    if folds is None:
        return []
    now = usable_rows(manifest, split="train")
    known = set(zip(folds.image_id.tolist(), folds.label.tolist(), strict=True))
    changed = {image_id for image_id, _ in known ^ set(zip(now["image_id"], now["label"], strict=True))}
    if not changed:
        return []
    what = f"{len(changed):,} images otherwise: {first_few(sorted(changed))}"
    return [f"folds and runs are older than the manifest, which has {what}; {SPLIT_HINT}"]


def _if_there(path: Path, make: Callable[[], T], problems: list[str]) -> T | None:
    return _attempt(make, problems) if path.exists() else None


def _attempt(make: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return make()
    except UserError as err:
        said = f"{err.message}; {err.hint}" if err.hint else err.message
        if said not in problems:
            problems.append(said)
        return None
