"""Makes features of tiny networks once, damages what lies on disk, and looks at what is made anew."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.backbones import build_network, resolve_backbone
from models.input.resample import network_input
from models.input.views import view_boxes
from models.predict.again import test_rows as rows_of_test_images
from models.probe.features import FrozenBody, image_features
from models.probe.heads import set_head, start_head
from tests.models.test_trainer import prepared

CPU = torch.device("cpu")
BACKBONE = resolve_backbone("test_resnet")


def write_weights(path, *, seed=0):
    torch.manual_seed(seed)
    save_file(build_network(BACKBONE, 4, size=32).state_dict(), path)
    return path


@pytest.fixture
def workspace(tmp_path):
    return prepared(tmp_path)


@pytest.fixture
def body(tmp_path):
    return FrozenBody(BACKBONE, write_weights(tmp_path / "body.safetensors"), 32, CPU, torch.float32)


def ask(workspace, body, *, views=("centre", "mirror"), **options):
    store = open_store(workspace)
    return list(image_features(workspace, store, rows_of_test_images(store), body, views=views, **options).values())


def written(files):
    return {file.path: file.path.stat().st_mtime_ns for file in files}


def test_features_are_what_the_head_of_the_network_would_get(workspace, body):
    store = open_store(workspace)
    rows = rows_of_test_images(store)
    network = build_network(BACKBONE, 4, size=32, weights=body.weights).eval()
    for file, view in zip(ask(workspace, body), ("centre", "mirror"), strict=True):
        boxes = view_boxes(view, width=store.width[rows], height=store.height[rows], crop_share=BACKBONE.crop_share)
        pixels = torch.from_numpy(np.array(store.pixels[rows]))
        with torch.inference_mode():
            logits = network(network_input(pixels, boxes, size=32, backbone=BACKBONE))
            ours = network.get_classifier()(torch.from_numpy(file.load().astype(np.float32)))
        torch.testing.assert_close(ours, logits, atol=2e-3, rtol=0)


def test_a_second_call_reads_what_the_first_one_wrote(workspace, body):
    before = written(ask(workspace, body))
    assert written(ask(workspace, body)) == before


def test_another_view_asks_for_that_view_alone(workspace, body):
    before = written(ask(workspace, body))
    after = written(ask(workspace, body, views=("centre", "whole", "mirror")))
    assert len(after) == 3
    assert before.items() <= after.items()


def test_other_weights_under_the_same_name_make_other_features(workspace, body):
    before = ask(workspace, body)[0]
    write_weights(body.weights, seed=1)
    after = ask(workspace, body)[0]
    assert after.path != before.path
    assert not np.array_equal(after.load(), before.load())


@pytest.mark.parametrize("change", [{"size": 48}, {"precision": torch.bfloat16}, {"weights": None}])
def test_another_size_precision_or_start_makes_other_features(workspace, body, change):
    other = dataclasses.replace(body, **change)
    assert ask(workspace, other)[0].key != ask(workspace, body)[0].key


def test_a_damaged_or_foreign_file_is_made_anew(workspace, body):
    file = ask(workspace, body)[0]
    whole, head = file.path.read_bytes(), file.path.with_suffix(".json")
    foreign = json.loads(head.read_text())
    foreign["facts"]["images"] = "others"
    for path, damage in (
        (file.path, whole[:-1] + b"\x7f"),
        (file.path, whole[:-9]),
        (file.path, b""),
        (head, json.dumps(foreign).encode()),
        (head, b"[]"),
    ):
        path.write_bytes(damage)
        assert not file.is_whole()
        ask(workspace, body)
        assert file.path.read_bytes() == whole


def test_the_size_of_batches_leaves_the_features_as_they_are(workspace, body):
    before = ask(workspace, body)[0].load().astype(np.float32)
    for file in workspace.features.iterdir():
        file.unlink()
    after = ask(workspace, body, batch_size=4)[0].load().astype(np.float32)
    np.testing.assert_allclose(after, before, rtol=2e-3, atol=1e-3)


def test_no_images_have_no_features_but_know_their_width(workspace, body):
    none = image_features(workspace, open_store(workspace), np.array([], dtype=np.int64), body, views=("centre",))
    assert none["centre"].load().shape == (0, 96)
    assert none["centre"].is_whole()


def test_features_do_not_disturb_what_is_drawn_at_random(workspace, body):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ask(workspace, body)
    assert torch.equal(torch.rand(2), expected)


def test_every_fold_starts_from_its_own_head_and_only_the_first_costs_a_pass(workspace, body):
    folds, store = load_folds(workspace), open_store(workspace)

    def start(fold):
        head = start_head(workspace, folds, store, body, fold=fold)
        return head.weight, head.bias

    first = start(0)
    files = {path: path.stat().st_mtime_ns for path in workspace.features.iterdir()}
    heads = [start(fold) for fold in (0, 1)]
    assert {path: path.stat().st_mtime_ns for path in workspace.features.iterdir()} == files
    assert torch.equal(heads[0][0], first[0])
    assert not torch.equal(heads[0][0], heads[1][0])
    weight, bias = start(None)
    assert (weight.shape, bias.shape, weight.dtype) == ((4, 96), (4,), torch.float32)
    assert not any(torch.equal(weight, head[0]) for head in heads)
    assert torch.equal(start(None)[0], weight)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_head_that_is_set_makes_the_network_answer_as_the_head_does(name):
    network = build_network(resolve_backbone(name), 4, size=160).eval()
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        weight, bias = torch.rand(4, features.shape[1]), torch.rand(4)
        assert set_head(network, weight, bias)
        torch.testing.assert_close(network(images), features @ weight.T + bias)


@pytest.mark.parametrize("name", ["resnetv2_50", "levit_128s"])  # a convolution; two heads behind batch norm
def test_a_classifier_that_is_not_one_linear_layer_is_left_alone(name):
    network = build_network(resolve_backbone(name), 4, size=224)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert not set_head(network, torch.zeros(4, network.num_features), torch.zeros(4))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_head_of_another_width_is_not_set():
    assert not set_head(build_network(BACKBONE, 4, size=32), torch.zeros(4, 7), torch.zeros(4))
