"""Makes pictures and small competitions for the tests of the `folds` room."""

from pathlib import Path

import pytest

from folds.base.locks import alone
from folds.base.workspace import Workspace
from folds.manifest.prepare import prepare
from folds.settings import PrepareSettings, SplitSettings
from folds.split.assign import split
from tests.competition import make_picture


@pytest.fixture
def picture():
    return make_picture


@pytest.fixture
def competition(tmp_path):
    """Makes TrainVal/<label>/<label>_<n>.png and Public/t<n>.png, all pictures different; returns their folder."""

    def make(classes: dict[str, int], *, test: int = 0) -> Path:
        names = [f"TrainVal/{label}/{label}_{n}.png" for label, count in classes.items() for n in range(count)]
        for seed, name in enumerate([*names, *(f"Public/t{n}.png" for n in range(test))], start=1):
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            make_picture(seed).save(path)
        return tmp_path / "data"

    return make


@pytest.fixture
def data(competition):
    """Two classes with four images each, and two test images."""
    return competition({"cat": 4, "dog": 4}, test=2)


@pytest.fixture
def dirty(data):
    """The two classes with one file of each defect in cat, the same picture under two labels, and a cut test image."""
    cat = data / "TrainVal/cat"
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "page.jpg").write_bytes(b"<html></html>")
    make_picture(50).save(cat / "png.jpg", format="PNG")
    make_picture(51, width=300, height=300).save(cat / "cut.jpg")
    for name in ("TrainVal/cat/cut.jpg", "Public/t_cut.jpg"):
        (data / name).write_bytes((cat / "cut.jpg").read_bytes()[:4000])
    make_picture(52).convert("CMYK").save(cat / "cmyk.jpg", quality=95)
    for seed, name in ((53, "cat/twice"), (53, "dog/twice"), (54, "cat/leak"), (54, "../Public/leaked")):
        make_picture(seed).save(data / "TrainVal" / f"{name}.png")
    (data / ".DS_Store").write_bytes(b"x")
    return data


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
def prepared(data, run_prepare):
    """What `prepare` found in the two classes, whose work folder is there."""
    return run_prepare(data)


@pytest.fixture
def run_split(workspace):
    """`split` of the work folder; keyword arguments are settings. Returns the folds and the notes."""
    return lambda *, seed=0, **settings: split(workspace, SplitSettings(**settings), seed=seed)
