"""Makes the small work folders that the tests of the blender work in."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from ensemble.members.oof_file import file_digest
from ensemble.settings import BlendSettings
from folds.base.workspace import Workspace, read_json, write_json
from folds.manifest.manifest import COLUMNS, write_manifest
from folds.split.assign import Folds
from tests.synthetic import World, make_folds, member_log_probs, write_member

SMALL = World(n=600, n_test=40, n_classes=8, n_folds=3, margin=4.0)
QUICK = BlendSettings(trials=32, half_samples=2)
EQUAL = BlendSettings(trials=16, half_samples=1, keep="equal")


def small_work(folder: Path, *, members: int = 3, world: World = SMALL) -> tuple[Workspace, Folds]:
    """A work folder with members m00, m01, .. in it."""
    workspace = Workspace(folder / "work")
    folds = make_folds(workspace, world)
    for member in range(members):
        write_small(workspace, folds, f"m{member:02d}", small_oof(folds, member, world=world), world=world)
    return workspace, folds


def small_oof(folds: Folds, member: int, *, world: World = SMALL) -> np.ndarray:
    """(N, C) log-probabilities, rows as in folds.csv."""
    return member_log_probs(world, folds.target, part=0, member=member)


def small_test(member: int, *, world: World = SMALL) -> np.ndarray:
    """(T, C) log-probabilities."""
    return member_log_probs(world, world.targets(1), part=1, member=member)


def write_small(
    workspace: Workspace, folds: Folds, name: str, oof: np.ndarray, *, world: World = SMALL, seed: int = 0
) -> None:
    """Store a run whose test predictions are those of the member with the last digit of its name."""
    test = small_test(int(name[-1]) if name[-1].isdigit() else 0, world=world)
    write_member(workspace, world, folds, name, oof, test, seed=seed)


def with_manifest(
    workspace: Workspace,
    folds: Folds,
    *,
    tests: Sequence[str] = tuple(SMALL.test_id),
    unreadable: Sequence[str] = ("x1", "x2"),
) -> None:
    """A manifest with the 40 predicted test images and some that could not be read."""
    rows = [(name, name, "train", label, "usable") for name, label in zip(folds.image_id, folds.label, strict=True)]
    rows += [(name, name, "test", "", "usable") for name in tests]
    rows += [(name, name, "test", "", "unreadable") for name in unreadable]
    data = pd.DataFrame(rows, columns=["image_id", "path", "split", "label", "status"])
    text = dict.fromkeys(("reasons", "format", "mode", "digest"), "")
    numbers = dict.fromkeys(("width", "height", "bytes", "group"), 0)
    write_manifest(workspace, data.assign(**text, **numbers)[list(COLUMNS)])


def shown(renderable: object, *, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def change_json(path: Path, **values) -> None:
    write_json(path, {**read_json(path, hint=""), **values})


def as_probes(workspace: Workspace, *names: str) -> None:
    for name in names:
        for path in (workspace.models / name).glob("fold*/settings.json"):
            change_json(path, kind="probe")


def flip(path: Path, place: int | None = None) -> None:
    """Damage a file by one bit, in its middle if no place is given."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def change_oof(fold: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Change arrays in the oof.npz of a fold, and its done.json, as if the writer had meant it."""
    with np.load(fold / "oof.npz") as arrays:
        stored = dict(arrays)
    np.savez(fold / "oof.npz", **{**stored, **change(stored)})
    done = read_json(fold / "done.json", hint="")
    change_json(fold / "done.json", files={**done["files"], "oof.npz": file_digest(fold / "oof.npz")})
