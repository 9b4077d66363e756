"""A tiny competition that has gone the whole way; every test here works in a folder of its own."""

import pytest

import run
from tests.competition import QUICK, fingerprint, make_competition


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A tiny competition that has gone the whole way: (data folder, work folder, fingerprint of the data before).

    Whoever adds a run or changes one puts it back as it was.
    """
    folder = tmp_path_factory.mktemp("tiny")
    data = make_competition(folder / "data")
    (data / "TrainVal" / "1" / "1-0.jpg").write_bytes(b"")
    (data / "Public" / "002.jpg").write_bytes(b"no image")
    before = fingerprint(data)
    assert run.main(["all", str(data), "--work", str(folder / "work"), *QUICK]) == 0
    return data, folder / "work", before


@pytest.fixture
def work(finished):
    return finished[1]
