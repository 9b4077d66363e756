"""Work folders that are made once for all tests of this folder; whoever changes one takes a copy."""

import json
import shutil

import pandas as pd
import pytest

from ensemble.blend.make_blend import make_blend
from ensemble.settings import BlendSettings
from folds.base.workspace import Workspace
from folds.manifest.manifest import COLUMNS, write_manifest
from submissions.report.make import make_report
from submissions.settings import ReportSettings
from tests.ensemble.small import small_work
from tests.submissions.whole import make_whole

QUICK = BlendSettings(trials=16, half_samples=1, keep="equal")


def with_manifest(work, folds, *, unreadable=("x1", "x2")):
    """A manifest with the 40 predicted test images and some that could not be read."""
    tests = [(f"{number:07d}", "usable") for number in range(40)] + [(name, "unreadable") for name in unreadable]
    rows = [(name, name, "train", label, "usable") for name, label in zip(folds.image_id, folds.label, strict=True)]
    rows += [(name, name, "test", "", status) for name, status in tests]
    data = pd.DataFrame(rows, columns=["image_id", "path", "split", "label", "status"])
    text = dict.fromkeys(("reasons", "format", "mode", "digest"), "")
    numbers = dict.fromkeys(("width", "height", "bytes", "group"), 0)
    write_manifest(work, data.assign(**text, **numbers)[list(COLUMNS)])


@pytest.fixture(scope="session")
def blended(tmp_path_factory):
    """(work folder, folds, blend): three members of made-up predictions, blended with equal weights."""
    work, folds = small_work(tmp_path_factory.mktemp("blended"))
    with_manifest(work, folds)
    return work, folds, make_blend(work, QUICK, seed=0).blend


@pytest.fixture
def blended_copy(blended, tmp_path):
    """A copy of the blended work folder, to submit from."""
    shutil.copytree(blended[0].root, tmp_path / "work")
    return Workspace(tmp_path / "work")


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A work folder gone the whole way: a leak, a copy, a picture under two labels, two runs, a blend, a submission."""
    return make_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def reported(whole, tmp_path_factory):
    """(work folder, what `report` returned, the numbers in report.json) of a copy of the whole one."""
    work = Workspace(tmp_path_factory.mktemp("reported") / "work")
    shutil.copytree(whole, work.root)
    made = make_report(work, ReportSettings(), [])
    return work, made, json.loads((work.report / "report.json").read_text())
