"""Knows a competition with two runs that takes seconds, which of its files no kill may change, and what was tried."""

import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.competition import make_competition
from tests.faults.nursery import Nursery

KIT = """
[train]
backbone = ["test_resnet"]
pretrained = false
image_size = 32
batch_size = 8
epochs = {epochs}
precision = "fp32"
device = "cpu"
[run.a]
[run.b]
lr = 0.003
{more}
[prepare]
store_size = 32
workers = 1
[split]
n_folds = {n_folds}
[blend]
trials = 16
half_samples = 1
"""


class World(NamedTuple):
    """A folder with `data` and `kit.toml`, the bytes that an undisturbed `all data` makes, and its number of events."""

    folder: Path
    made: dict[str, bytes]
    events: int


def make_world(folder: Path, nursery: Nursery) -> World:
    make_competition(folder / "data")
    (folder / "kit.toml").write_text(KIT.format(epochs=2, n_folds=2, more=""))
    nursery.run("all data", folder=folder, events=str(folder / "events"))
    return World(folder, made_in(folder / "work"), int((folder / "events").read_text()))


def made_in(work):
    """Every file that must be the same after a kill, by its path."""
    patterns = ("folds/*.csv", "folds/*.u8", "models/*/fold*/*.npz", "models/*/fold*/*.safetensors")
    patterns += ("ensemble/blend.json", "submissions/*")
    files = [path for pattern in patterns for path in sorted(work.glob(pattern)) if path.name != "files.csv"]
    return {str(path.relative_to(work)): path.read_bytes() for path in files}


def left_over(work):
    return [
        path for path in work.rglob("*") if path.suffix == ".tmp" or path.match("locks/*") or path.match("checkpoint*")
    ]


def begin_again(folder, world, *, more=()):
    """Data and settings of the undisturbed world, and more of it, in another folder, which is returned."""
    for name in ("data", *more):
        shutil.copytree(world.folder / name, folder / name)
    shutil.copy(world.folder / "kit.toml", folder)
    return folder


def differing(made, expected):
    return [name for name in {*expected, *made} if made.get(name) != expected.get(name)]


TRIED: Counter[str] = Counter()


def count(what: str, n: int = 1) -> None:
    """Add to a sum: `count("kills")`, `count("mutated files", 1000)`."""
    TRIED[what] += n
