"""Prepares pixel stores of both forms, damages them, and copies them to another folder."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from folds.base.errors import UserError
from folds.base.workspace import this_host
from folds.pixels.fill import RowTask, write_row
from folds.pixels.forms import encode, slot_bytes
from folds.pixels.store import MARK, cached, damaged_rows, open_store
from tests.competition import refusal
from tests.ensemble.small import flip


@pytest.fixture
def raw(prepared, workspace):
    """A store of the pixels of ten pictures."""
    return workspace.folds / "pixels-32.u8"


@pytest.fixture
def jpegs(data, run_prepare, workspace):
    run_prepare(data, store="jpeg")
    return workspace.folds / "pixels-32.jpegs"


def test_both_forms_have_one_manifest_and_nearly_the_same_pictures(dirty, run_prepare, workspace):
    run_prepare(dirty)
    raw, manifest = np.array(open_store(workspace).pixels), workspace.manifest.read_bytes()
    made = run_prepare(dirty, store="jpeg")
    store = open_store(workspace)
    assert workspace.manifest.read_bytes() == manifest
    assert (made.store, store.pixels.shape, store.identity) == ("jpeg", raw.shape, [*raw.shape, "jpeg"])
    assert np.abs(np.stack([*store.pixels]).astype(int) - raw).mean() < 3
    assert [path.name for path in sorted(workspace.folds.glob("pixels-*"))] == ["pixels-32.jpegs", "pixels-32.json"]


def test_the_form_that_is_there_stays_unless_another_one_is_asked_for(data, run_prepare, jpegs):
    assert run_prepare(data).unchanged
    made = run_prepare(data, store="raw")
    assert (made.store, made.decoded, jpegs.exists()) == ("raw", 10, False)


@pytest.mark.parametrize(
    ("form", "place"), [("raw", lambda pixels: 3 * 32 * 32 * 3 + 77), ("jpegs", lambda pixels: pixels.place(3) + 300)]
)
def test_a_flipped_byte_is_found_by_its_sum(workspace, request, form, place):
    path = request.getfixturevalue(form)
    assert damaged_rows(workspace).tolist() == []
    flip(path, place(open_store(workspace).pixels))
    assert damaged_rows(workspace).tolist() == ["cat/cat_3.png"]


@pytest.mark.parametrize(
    ("form", "damage"),
    [
        ("raw", lambda path: os.truncate(path, 1000)),
        ("jpegs", lambda path: os.truncate(path, 5000)),
        ("jpegs", lambda path: flip(path, -20)),
    ],
    ids=["raw cut", "jpegs cut", "index changed"],
)
def test_a_cut_file_or_a_changed_index_is_no_store(data, run_prepare, workspace, request, form, damage):
    damage(request.getfixturevalue(form))
    assert "no pixel store that fits" in refusal(open_store, workspace)[0]
    assert run_prepare(data).decoded == 10


def test_a_killed_prepare_leaves_no_store_and_its_rest_is_swept(data, run_prepare, workspace, raw):
    raw.with_suffix(".json").unlink()  # killed between the store and its description
    torn = workspace.folds / f".pixels-32.u8.{this_host()}.999999999.tmp"
    torn.write_bytes(b"x")
    assert refusal(open_store, workspace) == (
        f"{workspace.folds} has no pixel store that fits its manifest",
        "`python run.py prepare DATA`",
    )
    assert run_prepare(data).decoded == 10
    assert open_store(workspace).size == 32
    assert not torn.exists()


def test_rows_are_found_by_id_and_split(workspace, raw):
    store = open_store(workspace)
    assert store.rows(np.array(["dog/dog_0.png", "cat/cat_1.png"]), split="train").tolist() == [4, 1]
    assert store.rows(np.array(["t1"]), split="test").tolist() == [9]
    with pytest.raises(UserError, match=r"^the pixel store has no test image cat/cat_1.png, zzz$"):
        store.rows(np.array(["cat/cat_1.png", "t0", "zzz"]), split="test")


@pytest.mark.parametrize("size", [16, 17, 32, 288])
def test_a_slot_has_room_for_the_worst_picture(size):
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (size, size, 3))
    assert len(encode(noise)) < slot_bytes(size)


@pytest.mark.parametrize("is_jpeg", [False, True])
def test_a_full_disk_is_told_and_not_raised_in_the_process_that_writes(data, is_jpeg):
    row = write_row(RowTask(str(data / "TrainVal/cat/cat_0.png"), "/dev/full", 0, 32, is_jpeg))
    assert row.errno == errno.ENOSPC


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_are_read_in_any_order_and_by_any_number_of_threads(run_prepare, workspace, data, monkeypatch, threads):
    (data / "TrainVal/dog/empty.png").write_bytes(b"")
    run_prepare(data, store="jpeg")
    store, rows = open_store(workspace), np.array([8, 0, 3, 3, 9])
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    out = np.full((5, 32, 32, 3), 7, np.uint8)
    store.pixels.read(rows, out)
    assert (out == np.stack([store.pixels[row] for row in rows.tolist()])).all()
    assert store.image_id[8] == "dog/empty.png"
    assert not out[0].any()


def inodes(folder):
    return {path.name: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def test_a_copy_holds_the_same_pixels_and_is_made_once(workspace, raw, tmp_path):
    copy = cached(workspace, tmp_path / "disk")
    here, there = open_store(workspace), open_store(copy)
    assert (np.array(here.pixels) == np.array(there.pixels)).all()
    assert here.image_id.tolist() == there.image_id.tolist()
    before = inodes(tmp_path / "disk")
    assert cached(workspace, tmp_path / "disk").root == copy.root
    assert inodes(tmp_path / "disk") == before
    assert cached(workspace, None) is workspace


def test_a_copy_that_was_touched_or_is_not_whole_is_made_anew(workspace, raw, tmp_path):
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


def test_damaged_pixels_are_found_while_they_are_copied_and_nothing_is_left(workspace, raw, tmp_path):
    flip(raw, 0)
    sentence = r"^checksum mismatch: the pixels of cat/cat_0\.png in .* changed after they were written$"
    with pytest.raises(UserError, match=sentence):
        cached(workspace, tmp_path / "disk")
    assert [found for found in (tmp_path / "disk").rglob("*") if found.is_file()] == []


def test_another_size_replaces_the_store_and_its_copy(data, run_prepare, workspace, raw, tmp_path):
    old = cached(workspace, tmp_path / "disk")
    assert run_prepare(data, store_size=48).decoded == 10
    assert [path.name for path in sorted(workspace.folds.glob("pixels-*"))] == ["pixels-48.json", "pixels-48.u8"]
    new = cached(workspace, tmp_path / "disk")
    assert open_store(workspace).size == open_store(new).size == 48
    assert not old.root.exists()


def test_a_folder_that_cannot_be_written_is_named(workspace, raw, tmp_path):
    (tmp_path / "disk").write_text("a file in its place")
    assert refusal(cached, workspace, tmp_path / "disk")[0].startswith("the pixels cannot be copied: cannot write")


def test_of_processes_that_come_at_once_one_copies(workspace, raw, tmp_path):
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
