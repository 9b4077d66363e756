"""Runs the small pieces of the speed benchmarks on tiny sizes: what they measure is there and adds up."""

import dataclasses

import numpy as np
import pytest
import torch

from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from models.backbones import resolve_backbone
from models.settings import TrainSettings
from tests.benchmarks import predict, scale, training
from tests.benchmarks import prepare as prepare_benchmark
from tests.benchmarks.measure import by_turns, make_pictures, synthetic_folds, synthetic_store

CPU = torch.device("cpu")
TINY = TrainSettings(
    backbone=("test_resnet",), pretrained=False, image_size=32, batch_size=8, epochs=6, head="random", device="cpu"
)


def test_costs_are_taken_by_turns_after_a_round_that_does_not_count():
    order = []
    costs = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert "".join(order) == "ababab"
    assert [len(one) for one in costs.values()] == [2, 2]


def test_a_sparse_store_takes_no_room_and_its_folds_hold_every_class_and_row(tmp_path):
    store = synthetic_store(tmp_path, 100_000, 16, sparse=True)
    assert store.pixels.shape == (100_000, 16, 16, 3)
    assert next(tmp_path.iterdir()).stat().st_blocks < 100
    folds = synthetic_folds(store, n_classes=7, n_folds=3)
    assert set(folds.target.tolist()) == set(range(7))
    assert np.bincount(folds.fold).tolist() == [33_334, 33_333, 33_333]


def test_prepare_and_decoding_alone_count_the_same_files(tmp_path):
    make_pictures(tmp_path, 8, width=40, height=30)
    for form in ("raw", "jpeg"):
        made = prepare_benchmark.whole(tmp_path, 32, form)
        assert made["files"] == prepare_benchmark.alone(tmp_path, 32)["files"] == 8
        assert made["read_per_second"] > 0


def test_augmentation_steps_and_the_pause_between_epochs_are_measured():
    augmentation = training.measure_augmentation("test_resnet", 32, 4, repeats=1, device=CPU)
    assert augmentation["share_of_step"].keys() == {"usual", "everything"}
    steps = training.measure_steps("test_resnet", TINY, steps=2, repeats=1, device=CPU)
    assert steps["images_per_second"].keys() == {"real", "kept"}
    assert training.measure_pause(100, dataclasses.replace(TINY, epochs=4), CPU)["training_images"] == 80


def test_compiling_pays_once_what_it_saves_exceeds_what_it_took():
    plain = {"seconds_per_image": {"real": {"median": 0.02}}, "batch": 10, "first_step_seconds": 1.0}
    compiled = {"seconds_per_image": {"real": {"median": 0.01}}, "batch": 10, "first_step_seconds": 21.0}
    training.add_payback(plain, compiled)
    assert compiled["times_plain"] == pytest.approx(2.0)
    assert compiled["pays_after_steps"] == 200


def test_every_number_of_views_is_measured(tmp_path):
    store = synthetic_store(tmp_path, 8, 48)
    figures = predict.measure(store, resolve_backbone("test_resnet"), size=32, batch=4, repeats=1, device=CPU)
    assert figures["times_one_view"].keys() == {"1", "2", "5", "8"}
    assert all(len(set(views)) == count for count, views in predict.VIEW_SETS.items())


def test_the_exponent_is_that_of_a_power_law():
    assert scale.exponent([10, 100, 1000], [0.5, 5, 50]) == pytest.approx(1)
    assert scale.exponent([10, 1000], [1, 10_000]) == pytest.approx(2)


def test_every_step_of_a_made_up_work_folder_is_measured(tmp_path):
    made = {step: scale.one(step, str(tmp_path), 400, 60, 7, 3) for step in scale.STEPS}
    assert made["submit"]["rows"] == 60
    assert all(one["seconds"] > 0 and one["peak_mb"] > 0 for one in made.values())
    folds = load_folds(Workspace(tmp_path))
    assert len(folds.group) - len(set(folds.group)) == 400 // 50
