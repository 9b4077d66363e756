"""Checks the optimiser, its schedule, and one step: micro-batches and short memory change nothing of it."""

import dataclasses

import pytest
import timm
import torch

from models.train.stepper import LOWEST_SHARE, make_optimiser, make_schedule
from tests.competition import refusal
from tests.models.small import STEPS, batch, full, moved, stepper

SCHEDULE = full(epochs=10, warmup_epochs=1, head_lr_scale=10, weight_decay=0.05, ema_share=0.1)


def groups(**changes):
    """Each parameter's name, itself, and its group in the optimiser."""
    model = timm.create_model("test_resnet", num_classes=4)
    optimiser = make_optimiser(model, dataclasses.replace(SCHEDULE, **changes), lr=1e-3)
    group_of = {id(one): group for group in optimiser.param_groups for one in group["params"]}
    return [(name, parameter, group_of[id(parameter)]) for name, parameter in model.named_parameters()]


def rates(settings):
    """The body's rate at each of 10 steps an epoch."""
    optimiser = make_optimiser(timm.create_model("test_resnet", num_classes=4), settings, lr=1.0)
    schedule = make_schedule(optimiser, settings, epoch_steps=10)
    body = next(group for group in optimiser.param_groups if group["lr_scale"] == 1.0)
    found = []
    for step in range(settings.epochs * 10):
        schedule.step_update(step)
        found.append(body["lr"])
    return found


def test_every_parameter_moves_and_only_the_head_is_faster():
    scales = {name: group["lr_scale"] for name, _, group in groups()}
    assert {name for name, scale in scales.items() if scale == 10} == {"fc.weight", "fc.bias"}
    assert {scale for name, scale in scales.items() if not name.startswith("fc.")} == {1.0}


def test_layer_decay_slows_each_earlier_layer_and_leaves_the_head():
    scales = {name: group["lr_scale"] for name, _, group in groups(layer_decay=0.5)}
    assert scales["fc.weight"] == 10
    assert scales["conv1.0.weight"] < scales["layer1.0.conv1.weight"] < scales["layer4.0.conv1.weight"] < 1
    assert scales["layer1.0.conv1.weight"] * 2 == pytest.approx(scales["layer2.0.conv1.weight"])


def test_biases_and_norms_do_not_decay():
    for name, parameter, group in groups():
        assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name


def test_one_cycle_rises_and_then_only_falls():
    found = rates(SCHEDULE)
    assert found[0] == pytest.approx(LOWEST_SHARE)
    assert found[:11] == sorted(found[:11])
    assert found[10] == pytest.approx(1.0)
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] < 0.02


@pytest.mark.parametrize(
    ("cycles", "cycle_mult", "restarts"),
    [(3, 1, [40, 70]), (2, 2, [40])],  # after 10 steps of warm-up 30 + 30 + 30, or 30 and twice as many
)
def test_cycles_of_equal_or_doubled_length_restart_from_the_peak(cycles, cycle_mult, restarts):
    found = rates(dataclasses.replace(SCHEDULE, cycles=cycles, cycle_mult=cycle_mult))
    assert [step for step in range(11, 100) if found[step] > found[step - 1]] == restarts
    assert [found[step] for step in restarts] == pytest.approx([1.0] * len(restarts))


def test_the_average_is_off_where_its_window_is_one_step_or_less():
    off, one_step, ten_steps = (dataclasses.replace(SCHEDULE, ema_share=share) for share in (0, 0.02, 0.2))  # of 50
    assert stepper(off).average is stepper(one_step).average is None
    assert stepper(ten_steps).average.decay == pytest.approx(0.9)


def gradients(one):
    return torch.cat([parameter.grad.flatten() for parameter in one.network.parameters()])


def lets_pass(one, most):
    """The network answers as a device does whose memory holds so many images and no more."""

    def refuse(module, inputs):
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    one.network.register_forward_pre_hook(refuse)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("micro_batch", "n"), [(5, 12), (4, 12), (1, 12), (5, 11), (9, 11)])
def test_a_micro_batch_gives_the_gradient_and_loss_of_the_whole_batch(micro_batch, n, soft):
    """11 images do not fall into equal parts: 4 + 4 + 3, 6 + 5."""
    images, target = (one[:n] for one in batch())
    if soft:
        target = torch.nn.functional.one_hot(target, 4) * 0.7 + 0.075
    whole, parts = stepper(), stepper(dataclasses.replace(STEPS, micro_batch=micro_batch))
    torch.testing.assert_close(parts.accumulate(images, target), whole.accumulate(images, target))
    torch.testing.assert_close(gradients(parts), gradients(whole), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("batch_norm", "at_once"), [("frozen", 16), ("train", 64)])
def test_on_a_cpu_a_batch_goes_in_parts_unless_its_statistics_are_trained(batch_norm, at_once):
    settings = dataclasses.replace(STEPS, batch_norm=batch_norm, micro_batch=None)
    assert stepper(settings, batch_size=64).micro_batch == at_once
    assert stepper(dataclasses.replace(settings, micro_batch=32), batch_size=64).micro_batch == 32


def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_the_step():
    images, target = batch()
    whole, short = stepper(), stepper()
    lets_pass(short, 4)
    for one in (whole, short):
        one.accumulate(images, target)
    assert short.micro_batch == 3
    torch.testing.assert_close(gradients(short), gradients(whole), atol=1e-6, rtol=1e-4)


def test_memory_that_holds_nothing_is_refused_in_a_sentence():
    one = stepper()
    lets_pass(one, 0)
    assert "out of memory with 3 images of 32 pixels at a time" in refusal(one.accumulate, *batch())[0]


def test_another_error_of_the_network_is_not_taken_for_lack_of_memory():
    images, target = batch()
    with pytest.raises(RuntimeError, match="channels"):
        stepper().accumulate(images[:, :2], target)


@pytest.mark.parametrize(("batch_norm", "moves"), [("train", True), ("frozen", False)])
def test_frozen_statistics_of_batch_norm_stay_as_the_weights_have_them(batch_norm, moves):
    one = stepper(dataclasses.replace(STEPS, batch_norm=batch_norm), "test_resnet")

    def statistics():
        return torch.cat([value.flatten() for name, value in one.network.state_dict().items() if "running" in name])

    before = statistics()
    moved(one, [3])
    assert (not torch.equal(statistics(), before)) == moves


def test_float16_scales_its_loss_and_leaves_out_a_step_that_overflows():
    one = stepper(precision=torch.float16)
    before = [parameter.detach().clone() for parameter in one.network.parameters()]
    images, target = batch()
    one.step(3, images * float("inf"), target)
    assert all(torch.equal(new, old) for new, old in zip(one.network.parameters(), before, strict=True))
    scale = one.scaler.get_scale()
    one.step(4, images, target)
    assert scale == 2**15  # halved by the step that overflowed
    assert not torch.equal(next(one.network.parameters()), before[0])


def test_the_running_average_is_what_predicts_and_not_the_last_network():
    one = stepper(dataclasses.replace(STEPS, ema_share=0.8))
    passed = []
    for number in range(4):
        one.step(number, *batch())
        passed.append(one.network.head.weight.detach().clone())
    averaged = one.trained.head.weight
    assert not torch.equal(averaged, passed[-1])
    assert (averaged - passed[-1]).abs().max() < (passed[0] - passed[-1]).abs().max()  # it lies among those passed


def test_what_predicts_lies_between_the_weights_before_training_and_those_after():
    one = stepper(dataclasses.replace(STEPS, start_share=0.25), "test_resnet")
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    moved(one, range(2))
    after, mixed = one.network.state_dict(), one.trained.state_dict()
    assert not torch.equal(before["fc.weight"], after["fc.weight"])
    for name in after:
        expected = 0.25 * before[name] + 0.75 * after[name] if after[name].is_floating_point() else after[name]
        torch.testing.assert_close(mixed[name], expected)
    assert not one.trained.training
    assert one.network.training  # as it was: the next step goes on from the trained weights


@pytest.mark.parametrize(
    ("backbone", "last_frozen"),
    [("test_resnet", "layer3.0."), ("test_vit", "blocks.3."), ("caformer_s18", "stages.2.")],
)
def test_a_share_of_the_layers_from_the_input_on_keeps_weights_and_statistics(backbone, last_frozen):
    one = stepper(dataclasses.replace(STEPS, batch_norm="train", frozen_share=2 / 3, micro_batch=4), backbone)
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    moved(one, range(2))
    kept = [name for name, value in one.network.state_dict().items() if torch.equal(value, before[name])]
    assert kept == list(before)[: len(kept)]
    assert kept[-1].startswith(last_frozen)


def test_frozen_layers_take_no_gradient_and_the_head_trains_whatever_the_share():
    one = stepper(dataclasses.replace(STEPS, frozen_share=0.99))
    one.accumulate(*batch())
    trains = [name for name, each in one.network.named_parameters() if each.grad is not None]
    assert trains == ["head.weight", "head.bias"]
