"""Prepares stores of JPEGs and damages them: what holds for raw pixels holds for them too."""

import errno
import os
import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from folds.base.errors import UserError
from folds.pixels.jpeg import encode, slot_bytes
from folds.pixels.store import damaged_rows, open_store
from folds.pixels.worker import RowTask, write_row
from tests.folds.test_prepare import make_dirty

needs_decoder = pytest.mark.skipif(find_spec("torchcodec") is None, reason="torchcodec is not installed")
pytestmark = needs_decoder


def contents(workspace):
    return {path.name: path.read_bytes() for path in workspace.folds.iterdir()}


@pytest.fixture
def jpegs(data, run_prepare, workspace):
    """A store of JPEGs of ten pictures."""
    run_prepare(data, store="jpeg")
    return workspace.folds / "pixels-32.jpegs"


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_both_forms_have_one_manifest_and_nearly_the_same_pictures(data, run_prepare, workspace, picture):
    make_dirty(data, picture)
    run_prepare(data)
    raw, manifest = np.array(open_store(workspace).pixels), workspace.manifest.read_bytes()
    made = run_prepare(data, store="jpeg")
    store = open_store(workspace)
    assert workspace.manifest.read_bytes() == manifest
    assert (made.store, store.pixels.shape, store.identity) == ("jpeg", raw.shape, [*raw.shape, "jpeg"])
    assert np.abs(np.stack([*store.pixels]).astype(int) - raw).mean() < 3
    assert [path.name for path in sorted(workspace.folds.glob("pixels-*"))] == ["pixels-32.jpegs", "pixels-32.json"]


def test_the_form_that_is_there_stays_unless_another_one_is_asked_for(data, run_prepare, jpegs):
    assert run_prepare(data).unchanged
    made = run_prepare(data, store="raw")
    assert (made.store, made.decoded, jpegs.exists()) == ("raw", 10, False)


def test_after_a_change_few_files_are_decoded_and_the_rest_is_as_from_scratch(
    data, run_prepare, workspace, picture, jpegs
):
    (data / "TrainVal" / "cat" / "cat_1.png").unlink()
    picture(70).save(data / "TrainVal" / "cat" / "cat_2.png")
    picture(71).save(data / "TrainVal" / "dog" / "aaa.png")
    assert run_prepare(data).decoded == 2
    changed = contents(workspace)
    shutil.rmtree(workspace.root)
    run_prepare(data, store="jpeg", workers=3)
    assert contents(workspace) == changed


def test_a_flipped_byte_of_a_jpeg_is_found_by_its_sum(workspace, jpegs):
    assert damaged_rows(workspace).tolist() == []
    flip(jpegs, int(open_store(workspace).pixels.index["start"][3]) + 300)
    assert damaged_rows(workspace).tolist() == ["cat/cat_3.png"]


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 5000), lambda path: flip(path, -20)])
def test_a_cut_file_or_a_changed_index_is_no_store(data, run_prepare, workspace, jpegs, damage):
    damage(jpegs)
    with pytest.raises(UserError, match="no pixel store that fits"):
        open_store(workspace)
    assert run_prepare(data).decoded == 10


@pytest.mark.parametrize("size", [16, 17, 32, 288])
def test_a_slot_has_room_for_the_worst_picture(size):
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (size, size, 3))
    assert len(encode(noise)) < slot_bytes(size)


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_a_full_disk_is_told_and_not_raised_in_the_process_that_writes(data, form):
    row = write_row(RowTask(str(data / "TrainVal" / "cat" / "cat_0.png"), "/dev/full", 0, 32, form))
    assert row.errno == errno.ENOSPC


def test_without_the_decoder_a_store_of_jpegs_is_refused(data, run_prepare, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(UserError) as caught:
        run_prepare(data, store="jpeg")
    assert str(caught.value) == "a pixel store of JPEGs is decoded by torchcodec, which is not installed"
    assert caught.value.hint == "`pip install -e '.[jpeg]'`"
