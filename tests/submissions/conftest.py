"""Work folders that are made once for all tests of this folder; whoever changes one takes a copy."""

import json
import shutil

import numpy as np
import pytest

import run
from ensemble.blend.make_blend import make_blend
from folds.base.workspace import Workspace
from submissions.report.make import make_report
from submissions.settings import ReportSettings, Wanted
from tests.competition import COLOURS, TRAIN, jpeg, make_competition
from tests.ensemble.small import EQUAL, small_work, with_manifest


@pytest.fixture(scope="session")
def blended(tmp_path_factory):
    """(work folder, folds, blend): three members of made-up predictions, blended with equal weights."""
    work, folds = small_work(tmp_path_factory.mktemp("blended"))
    with_manifest(work, folds)
    return work, folds, make_blend(work, EQUAL, seed=0).blend


@pytest.fixture
def work(blended, tmp_path):
    """A copy of the blended work folder, to submit from."""
    return Workspace(shutil.copytree(blended[0].root, tmp_path / "work"))


def make_dirty(data):
    """A copy inside a class, a picture under two labels, a leak, and an empty file."""
    rng = np.random.default_rng(7)
    copied, shared, leaked = (jpeg(COLOURS[label], rng) for label in ("0", "1", "2"))
    dirt = {"0/copied.jpg": copied, "0/copied-again.jpg": copied, "1/same.jpg": shared, "2/same.jpg": shared}
    for path, content in (dirt | {"2/leak.jpg": leaked, "../Public/001.jpg": leaked, "0/empty.jpg": b""}).items():
        (data / "TrainVal" / path).write_bytes(content)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A work folder gone the whole way: a leak, a copy, a picture under two labels, two runs, a blend, a submission."""
    folder = tmp_path_factory.mktemp("whole")
    data, work = make_competition(folder / "data", per_class=12), folder / "work"
    make_dirty(data)
    steps = [
        ["prepare", str(data), "--store-size", "32", "--workers", "1"],
        ["split", "--n-folds", "2"],
        ["train", "--run", "one", *TRAIN, "--epochs", "2"],
        ["train", "--run", "two", *TRAIN, "--epochs", "2", "--lr", "3e-3"],
        ["blend", "--trials", "16", "--half-samples", "1"],
        ["submit"],
    ]
    for step in steps:
        assert run.main([*step, "--work", str(work)]) == 0
    return work


@pytest.fixture(scope="session")
def reported(whole, tmp_path_factory):
    """(work folder, what `report` returned, the numbers in report.json) of a copy of the whole one."""
    work = Workspace(shutil.copytree(whole, tmp_path_factory.mktemp("reported") / "work"))
    made = make_report(work, ReportSettings(), Wanted([]))
    return work, made, json.loads((work.report / "report.json").read_text())
