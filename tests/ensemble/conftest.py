"""The work folder that most tests of the blender begin with."""

import shutil

import pytest

from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from tests.ensemble.small import small_work


@pytest.fixture(scope="session")
def _three(tmp_path_factory):
    return small_work(tmp_path_factory.mktemp("three"))[0]


@pytest.fixture
def work(_three, tmp_path):
    """A work folder with the members m00, m01 and m02, the test's own to change."""
    return Workspace(shutil.copytree(_three.root, tmp_path / "work"))


@pytest.fixture
def folds(work):
    return load_folds(work)
