"""Checks what chance does to a batch: colours, turns, mixing, erasing, and that a seed decides all of it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from models.backbones import resolve_backbone
from models.input.augment import (
    Mixer,
    batch_size_for,
    draw,
    jitter,
    seed_everything,
    training_input,
    training_loss,
    turn,
)
from models.input.resample import resample
from models.settings import TrainSettings
from tests.models.small import full

PLAIN = TrainSettings(crop_scale=1.0, mirror=False)


def picture(seed=0, size=32):
    """A smooth picture, (size, size, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(40, 200, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def grey(*pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def test_jitter_does_what_pillow_does_with_factors_of_each_images_own():
    enhancers = (ImageEnhance.Brightness, 1.3), (ImageEnhance.Contrast, 0.6), (ImageEnhance.Color, 1.4)
    factors = torch.tensor([[1.3, 1.0, 1.0], [1.0, 0.6, 1.0], [1.0, 1.0, 1.4], [0.5, 1.0, 1.0]])
    images = grey(*[picture()] * 4)
    *changed, half = jitter(images, factors)
    for (enhance, factor), got in zip(enhancers, changed, strict=True):
        expected = np.asarray(enhance(Image.fromarray(picture())).enhance(factor))
        assert np.abs(got.permute(1, 2, 0).numpy() - expected).max() <= 2  # Pillow rounds in between
    torch.testing.assert_close(half, images[3] * 0.5)


def test_a_turn_by_a_quarter_is_rot90_and_no_turn_is_nothing():
    image = grey(picture(), picture(1))
    turned = turn(image, torch.tensor([math.pi / 2, 0.0]))
    torch.testing.assert_close(turned[0], torch.rot90(image[0], 1, dims=(1, 2)), atol=0.05, rtol=0)
    torch.testing.assert_close(turned[1], image[1], atol=0.05, rtol=0)
    assert turned.is_contiguous(memory_format=torch.channels_last)


def test_draws_stay_in_their_limits_and_a_slice_is_a_part():
    settings = dataclasses.replace(PLAIN, rotate=10, colour_jitter=0.3)
    draws = draw(np.random.default_rng(0), settings, width=np.full(500, 40), height=np.full(500, 30))
    assert np.abs(draws.angle).max() <= math.radians(10)
    assert draws.colour.min() >= 0.7
    assert draws.colour.max() <= 1.3
    np.testing.assert_array_equal(draws[10:20].colour, draws.colour[10:20])
    np.testing.assert_array_equal(draws[10:20].boxes, draws.boxes[10:20])


def test_without_chance_nothing_is_drawn_and_the_input_is_the_resampled_picture_normalised():
    backbone = resolve_backbone("test_resnet")
    pixels = torch.from_numpy(picture()[None].copy())
    draws = draw(np.random.default_rng(0), PLAIN, width=np.array([32]), height=np.array([32]))
    assert draws.angle is draws.colour is None
    got = training_input(pixels, draws, size=16, backbone=backbone)
    mean, std = (torch.tensor(one).view(3, 1, 1) * 255 for one in (backbone.mean, backbone.std))
    torch.testing.assert_close(got, (resample(pixels, draws.boxes, size=16, kernel=backbone.kernel) - mean) / std)


def mixed(images, settings, *, epoch=0, seed=0):
    """What the mixer makes of the images, of classes 0, 1, 2, 3, 0, 1, ..."""
    seed_everything(seed)
    mixer = Mixer(full(settings), n_classes=4, device=torch.device("cpu"))
    return mixer(images.clone(), torch.arange(len(images)) % 4, epoch=epoch)


GREYS = torch.arange(8.0).view(8, 1, 1, 1).repeat(1, 3, 8, 8)  # image i is of grey i


def test_mixing_stops_before_the_last_epochs():
    settings = dataclasses.replace(PLAIN, mixup=1.0, epochs=10)
    assert mixed(GREYS, settings, epoch=7)[1].shape == (8, 4)
    images, target = mixed(GREYS, settings, epoch=8)
    assert target.tolist() == [0, 1, 2, 3] * 2
    assert images[:, 0, 0, 0].tolist() == list(range(8))


def test_mixed_targets_are_shares_of_the_two_images():
    images, target = mixed(GREYS, dataclasses.replace(PLAIN, mixup=1.0, label_smoothing=0.0))
    torch.testing.assert_close(target.sum(dim=1), torch.ones(8))
    share = target[0, 0]  # image 0 (grey 0, class 0) is mixed with image 7 (grey 7, class 3)
    assert images[0, 0, 0, 0] == pytest.approx(float(7 * (1 - share)), abs=1e-5)


def test_cutmix_pastes_a_rectangle_whose_area_is_the_share():
    images, target = mixed(GREYS, dataclasses.replace(PLAIN, cutmix=1.0, label_smoothing=0.0))
    assert set(images[0].unique().tolist()) <= {0.0, 7.0}
    assert (images[0, 0] == 0).float().mean() == pytest.approx(float(target[0, 0]), abs=1e-5)


def test_images_that_are_mixed_in_pairs_need_an_even_batch():
    assert batch_size_for(full(batch_size=7), 100) == 7
    assert batch_size_for(full(batch_size=7, cutmix=1.0), 100) == 6
    assert batch_size_for(full(batch_size=64, mixup=0.1), 33) == 32


def test_the_loss_smooths_classes_and_leaves_shares_as_the_mixer_smoothed_them():
    settings, logits = full(label_smoothing=0.2), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([0, 1])
    shares = torch.nn.functional.one_hot(target, 2) * 0.8 + 0.1
    torch.testing.assert_close(training_loss(logits, target, settings), training_loss(logits, shares, settings))


def test_a_share_of_the_images_is_erased_in_part():
    images, _ = mixed(torch.zeros(400, 3, 16, 16), dataclasses.replace(PLAIN, erase=0.5), seed=1)
    touched = images.ne(0).any(dim=1).flatten(1)
    assert touched.any(dim=1).float().mean() == pytest.approx(0.5, abs=0.08)
    assert touched.float().mean(dim=1).max() < 0.5
