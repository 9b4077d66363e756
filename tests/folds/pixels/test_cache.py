"""Copies pixel stores to another folder: once, whole, and only pixels that are what was written."""

import subprocess
import sys

import numpy as np
import pytest

from folds.base.errors import UserError
from folds.pixels.store import MARK, cached, open_store


@pytest.fixture(autouse=True)
def store(prepared, workspace):
    """A raw store of ten pictures."""
    return workspace.folds / "pixels-32.u8"


def inodes(folder):
    return {path.name: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def test_a_copy_holds_the_same_pixels_and_is_made_once(workspace, tmp_path):
    copy = cached(workspace, tmp_path / "disk")
    here, there = open_store(workspace), open_store(copy)
    assert (np.array(here.pixels) == np.array(there.pixels)).all()
    assert here.image_id.tolist() == there.image_id.tolist()
    before = inodes(tmp_path / "disk")
    assert cached(workspace, tmp_path / "disk").root == copy.root
    assert inodes(tmp_path / "disk") == before
    assert cached(workspace, None) is workspace


def test_a_copy_that_was_touched_or_is_not_whole_is_made_anew(workspace, tmp_path):
    copy = cached(workspace, tmp_path / "disk")
    pixels = copy.folds / "pixels-32.u8"
    expected = pixels.read_bytes()
    pixels.write_bytes(expected[:-1] + b"x")
    cached(workspace, tmp_path / "disk")
    assert pixels.read_bytes() == expected
    (copy.root / MARK).unlink()  # as after a kill in the middle
    pixels.unlink()
    cached(workspace, tmp_path / "disk")
    assert pixels.read_bytes() == expected


def test_damaged_pixels_are_found_while_they_are_copied_and_nothing_is_left(workspace, store, tmp_path):
    first, *rest = store.read_bytes()
    store.write_bytes(bytes([first ^ 1, *rest]))
    sentence = r"^checksum mismatch: the pixels of cat/cat_0\.png in .* changed after they were written$"
    with pytest.raises(UserError, match=sentence):
        cached(workspace, tmp_path / "disk")
    assert [found for found in (tmp_path / "disk").rglob("*") if found.is_file()] == []


def test_the_copy_of_an_older_store_is_removed(data, run_prepare, workspace, tmp_path):
    old = cached(workspace, tmp_path / "disk")
    run_prepare(data, store_size=48)
    new = cached(workspace, tmp_path / "disk")
    assert open_store(new).size == 48
    assert not old.root.exists()


def test_a_folder_that_cannot_be_written_is_named(workspace, tmp_path):
    (tmp_path / "disk").write_text("a file in its place")
    with pytest.raises(UserError, match=r"^the pixels cannot be copied: cannot write"):
        cached(workspace, tmp_path / "disk")


def test_of_processes_that_come_at_once_one_copies(workspace, tmp_path):
    code = (
        "import sys; from pathlib import Path; from folds.pixels.store import cached\n"
        "from folds.base.workspace import Workspace\n"
        "copied = []\n"
        "def track(items, *, what, **_):\n"
        "    copied.append(what.startswith('copy'))\n"
        "    yield from items\n"
        "cached(Workspace(Path(sys.argv[1])), Path(sys.argv[2]), track=track); print(sum(copied))\n"
    )
    words = [sys.executable, "-c", code, str(workspace.root), str(tmp_path / "disk")]
    crew = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=60)[0] for process in crew) == ["0\n", "1\n"]
