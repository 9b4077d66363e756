"""Makes pictures and small competitions for the tests of the `folds` room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from folds.base.locks import alone
from folds.base.workspace import Workspace
from folds.manifest.prepare import prepare
from folds.settings import PrepareSettings, SplitSettings
from folds.split.assign import split


def make_picture(seed: int, *, width: int = 64, height: int = 48) -> Image.Image:
    """Smooth coloured noise: no two seeds look alike, and it survives saving as JPEG."""
    cells = np.random.default_rng(seed).integers(0, 256, size=(5, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def make_competition(data: Path, *, classes: dict[str, int], test: int = 0) -> Path:
    """TrainVal/<label>/<label>_<n>.png and Public/t<n>.png, all pictures different."""
    names = [f"TrainVal/{label}/{label}_{n}.png" for label, count in classes.items() for n in range(count)]
    for seed, name in enumerate([*names, *(f"Public/t{n}.png" for n in range(test))], start=1):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        make_picture(seed).save(data / name)
    return data


@pytest.fixture
def picture():
    return make_picture


@pytest.fixture
def data(tmp_path):
    """Two classes with four images each, and two test images."""
    return make_competition(tmp_path / "data", classes={"cat": 4, "dog": 4}, test=2)


@pytest.fixture
def competition(tmp_path):
    """A function that makes a competition of the classes and counts that it is given."""
    return lambda classes, test=0: make_competition(tmp_path / "data", classes=classes, test=test)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "work")


@pytest.fixture
def run_prepare(workspace):
    """`prepare` under its lock, with a small store and one process; keyword arguments are settings."""

    def run(data: Path, **settings):
        lock = alone(workspace, "folds", say=print)
        return prepare(workspace, data, PrepareSettings(**{"store_size": 32, "workers": 1} | settings), lock=lock)

    return run


@pytest.fixture
def run_split(workspace):
    """`split` of the work folder; keyword arguments are settings. Returns the folds and the notes."""
    return lambda *, seed=0, **settings: split(workspace, SplitSettings(**settings), seed=seed)
