"""Checks sizes in pixels: they grow, end where they should, and the store serves them."""

import dataclasses

import pytest

from folds.base.errors import UserError
from models.backbones import resolve_backbone
from models.runs import plan_runs
from models.settings import TrainSettings
from models.sizes import epoch_sizes, needed_store_size, predict_size, refuse_odd_sizes, store_size_for, train_size
from tests.full import full

RESNET = resolve_backbone("resnet50")


def test_sizes_grow_and_the_last_quarter_is_final():
    sizes = epoch_sizes(full(epochs=9, start_size=128), size=224)
    assert sizes == [128, 144, 160, 176, 192, 208, 224, 224, 224]


def test_without_a_start_size_all_epochs_are_alike():
    assert epoch_sizes(full(epochs=3), size=225) == [225, 225, 225]


def test_a_single_epoch_has_the_final_size():
    assert epoch_sizes(full(epochs=1, start_size=64), size=100) == [100]


def test_sizes_come_from_the_settings_or_from_the_weights():
    plain = TrainSettings()
    assert (train_size(plain, RESNET), predict_size(plain, RESNET)) == (RESNET.size, RESNET.size)
    larger = TrainSettings(image_size=160, test_size=224)
    assert (train_size(larger, RESNET), predict_size(larger, RESNET)) == (160, 224)


@pytest.mark.parametrize(("size", "store"), [(64, 96), (224, 288), (256, 320), (299, 352)])
def test_the_store_is_a_sixth_larger_than_the_input(size, store):
    assert store_size_for(size) == store


def test_one_store_serves_the_largest_input_of_all_runs():
    plans = plan_runs(TrainSettings(backbone=("resnet50", "inception")), {})
    assert needed_store_size(plans) == 352
    assert needed_store_size(plan_runs(TrainSettings(backbone=("resnet18",), image_size=64, test_size=96), {})) == 128


def test_a_start_above_the_end_is_refused():
    with pytest.raises(UserError, match="`--start-size 256` is larger than the final size, 160"):
        refuse_odd_sizes(TrainSettings(image_size=160, start_size=256), RESNET)


def test_a_network_of_one_size_knows_no_other():
    vit = resolve_backbone("test_vit")
    assert vit.fixed_size
    refuse_odd_sizes(TrainSettings(image_size=96), vit)
    for other in ({"start_size": 64}, {"test_size": 128}):
        with pytest.raises(UserError, match="works on one size only, 96 pixels"):
            refuse_odd_sizes(dataclasses.replace(TrainSettings(image_size=96), **other), vit)
