"""Reads, trains and predicts from a store of JPEGs: as from raw pixels, but for what JPEG loses."""

import dataclasses

import numpy as np
import pytest
import torch

from folds.base.errors import UserError
from folds.base.workspace import Workspace
from folds.manifest.prepare import prepare
from folds.pixels.store import open_store
from folds.settings import PrepareSettings
from models.backbones import build_network, resolve_backbone
from models.input.batches import gather_batches
from models.input.resample import network_input
from models.input.views import view_boxes, view_size
from models.predict import model as model_module
from models.predict.model import Model
from tests.competition import make_competition
from tests.models.small import SETTINGS, prepared, train

CPU = torch.device("cpu")
BATCHES = [np.array(rows) for rows in ([3, 1, 2], [0, 5, 4], [7, 7, 7], [9, 8], [1])]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A raw store and one of JPEGs, of the same pictures."""
    folder = tmp_path_factory.mktemp("stores")
    data = make_competition(folder / "data")
    for form in ("raw", "jpeg"):
        prepare(Workspace(folder / form), data, PrepareSettings(store_size=64, store=form, workers=1))
    return open_store(Workspace(folder / "raw")), open_store(Workspace(folder / "jpeg"))


def gathered(store, batches=BATCHES):
    return [batch.numpy().copy() for batch in gather_batches(store.pixels, batches, CPU)]


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_and_hold_the_rows_that_were_asked_for(stores, form, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made, none = gathered(stores[form]), gathered(stores[form], [])
    finally:
        torch.set_num_threads(before)
    for rows, batch in zip(BATCHES, made, strict=True):
        np.testing.assert_array_equal(batch, np.stack([stores[form].pixels[row] for row in rows.tolist()]))
    assert none == []


@pytest.fixture(scope="module")
def model():
    backbone = resolve_backbone("test_resnet")
    torch.manual_seed(0)
    network = build_network(backbone, 4, size=32).eval()
    return Model(network, backbone, 32, CPU, torch.float32, shift=np.zeros(4))


def test_predictions_differ_by_what_jpeg_loses(stores, model):
    raw, jpeg = (np.exp(model.log_probs(store, np.arange(20), ("centre",), batch_size=8)) for store in stores)
    assert 0 < np.abs(raw - jpeg).max() < 0.02


def test_every_view_is_its_box_resampled_also_where_it_mirrors_the_one_before(stores, model, monkeypatch):
    views, store, made = ("centre", "mirror", "zoom-mirror", "zoom", "zoom@48", "mirror@48"), stores[0], []

    def resampled(pixels, boxes, *, size, backbone):
        made.append(size)
        return network_input(pixels, boxes, size=size, backbone=backbone)

    monkeypatch.setattr(model_module, "network_input", resampled)
    rows = np.array([7, 2, 5])
    seen = [list(batch) for batch in model.inputs(store, rows, views, batch_size=2)]
    assert made == [32, 32, 48, 48] * 2  # the second and the fourth are mirror images
    pixels = torch.from_numpy(np.stack([store.pixels[row] for row in rows.tolist()]))
    for i, view in enumerate(views):
        boxes = view_boxes(
            view, width=store.width[rows], height=store.height[rows], crop_share=model.backbone.crop_share
        )
        expected = network_input(pixels, boxes, size=view_size(view, 32), backbone=model.backbone)
        torch.testing.assert_close(torch.cat([batch[i] for batch in seen]), expected, rtol=0, atol=1e-3)


def test_a_fold_that_trains_on_jpegs_has_the_same_bytes_every_time_and_others_than_on_raw_pixels(tmp_path):
    made = {}
    for name, form in (("one", "jpeg"), ("two", "jpeg"), ("raw", "raw")):
        workspace = prepared(tmp_path / name)
        prepare(workspace, tmp_path / name / "data", PrepareSettings(store_size=32, store=form, workers=1))
        train(workspace, dataclasses.replace(SETTINGS, epochs=1), only_folds=[0])
        made[name] = (workspace.fold("test_resnet", 0) / "oof.npz").read_bytes()
    assert made["one"] == made["two"] != made["raw"]


def test_a_damaged_jpeg_is_named_with_the_way_out(tmp_path, stores):
    _, jpegs = stores
    broken = tmp_path / "broken.jpegs"
    data = bytearray(jpegs.pixels.path.read_bytes())
    start, n_bytes, _ = jpegs.pixels.index[5].item()
    data[start : start + n_bytes] = bytes(n_bytes)
    broken.write_bytes(data)
    store = dataclasses.replace(jpegs, pixels=dataclasses.replace(jpegs.pixels, path=broken))
    with pytest.raises(UserError, match=r"^the JPEG in row 5 of .*broken.jpegs does not decode: ") as caught:
        gathered(store)
    assert caught.value.hint == f"`rm {broken}`, then `python run.py prepare DATA`"
