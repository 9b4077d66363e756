"""Checks what moves the parameters: the rates of layers, the shape of the schedule."""

import dataclasses

import pytest
import timm

from models.train.optimiser import LOWEST_SHARE, make_average, make_optimiser, make_schedule
from tests.full import full

SETTINGS = full(epochs=10, warmup_epochs=1, head_lr_scale=10, weight_decay=0.05, ema_share=0.1)


def network():
    return timm.create_model("test_resnet", num_classes=4)


def scales(layer_decay):
    """lr_scale of each parameter, by name."""
    model = network()
    optimiser = make_optimiser(model, dataclasses.replace(SETTINGS, layer_decay=layer_decay), lr=1e-3)
    scale_of = {id(one): group["lr_scale"] for group in optimiser.param_groups for one in group["params"]}
    return {name: scale_of[id(parameter)] for name, parameter in model.named_parameters()}


def rates(settings, *, epoch_steps=10):
    """The body's rate at each step."""
    optimiser = make_optimiser(network(), settings, lr=1.0)
    schedule = make_schedule(optimiser, settings, epoch_steps=epoch_steps)
    body = next(group for group in optimiser.param_groups if group["lr_scale"] == 1.0)
    found = []
    for step in range(settings.epochs * epoch_steps):
        schedule.step_update(step)
        found.append(body["lr"])
    return found


def test_every_parameter_moves_and_only_the_head_is_faster():
    found = scales(1.0)
    assert set(found) == {name for name, _ in network().named_parameters()}
    assert {name for name, scale in found.items() if scale == 10} == {"fc.weight", "fc.bias"}
    assert {scale for name, scale in found.items() if not name.startswith("fc.")} == {1.0}


def test_layer_decay_slows_each_earlier_layer_and_leaves_the_head():
    found = scales(0.5)
    assert found["fc.weight"] == 10
    assert found["conv1.0.weight"] < found["layer1.0.conv1.weight"] < found["layer4.0.conv1.weight"] < 1
    assert found["layer1.0.conv1.weight"] * 2 == pytest.approx(found["layer2.0.conv1.weight"])


def test_biases_and_norms_do_not_decay():
    model = network()
    optimiser = make_optimiser(model, SETTINGS, lr=1e-3)
    decays = {id(one): group["weight_decay"] for group in optimiser.param_groups for one in group["params"]}
    assert {decays[id(one)] for one in model.parameters() if one.ndim == 1} == {0.0}
    assert {decays[id(one)] for one in model.parameters() if one.ndim > 1} == {0.05}


def test_one_cycle_rises_and_then_only_falls():
    found = rates(SETTINGS)
    assert found[0] == pytest.approx(LOWEST_SHARE)
    assert found[:11] == sorted(found[:11])
    assert found[10] == pytest.approx(1.0)
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] < 0.02


def test_three_equal_cycles_restart_twice_from_the_peak():
    found = rates(dataclasses.replace(SETTINGS, cycles=3, warmup_epochs=1), epoch_steps=10)
    restarts = [step for step in range(11, 100) if found[step] > found[step - 1]]
    assert restarts == [40, 70]
    assert [found[step] for step in restarts] == pytest.approx([1.0, 1.0])


def test_cycles_may_double_in_length():
    found = rates(dataclasses.replace(SETTINGS, cycles=2, cycle_mult=2, warmup_epochs=1))
    assert [step for step in range(11, 100) if found[step] > found[step - 1]] == [40]  # 30 steps, then 60


def test_the_average_is_off_where_its_window_is_one_step_or_less():
    assert make_average(network(), dataclasses.replace(SETTINGS, ema_share=0), epoch_steps=10) is None
    assert make_average(network(), SETTINGS, epoch_steps=1) is None
    assert make_average(network(), SETTINGS, epoch_steps=10).decay == pytest.approx(0.9)
