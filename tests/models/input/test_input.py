"""Checks sampling, views, crops, the batch resampling against Pillow, and what chance does to a batch."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from folds.base.errors import UserError
from models.backbones import resolve_backbone
from models.input.augment import (
    Mixer,
    batch_size_for,
    draw,
    jitter,
    random_boxes,
    seed_everything,
    training_input,
    training_loss,
    turn,
)
from models.input.resample import resample
from models.input.sampling import draw_epoch, expected_repeats, prior_correction, sampling_shift
from models.input.views import VIEWS, check_views, view_boxes, view_size
from models.settings import TrainSettings
from tests.models.small import full

COUNTS = np.array([900, 90, 10])
TARGET = np.repeat([0, 1, 2], COUNTS)


@pytest.mark.parametrize(
    ("power", "most", "shown"),
    [
        pytest.param(0.0, 4, COUNTS, id="natural: every image once"),
        pytest.param(1.0, 1000, np.full(3, 1000 / 3), id="every class equally often"),
        pytest.param(0.5, 100, 1000 * COUNTS**0.5 / (COUNTS**0.5).sum(), id="tempered by the square root"),
        # class 2: 10 x 5 = 50; 950 are left for two classes of equal share: 475 > 90 x 5 = 450: class 1 is capped too
        pytest.param(1.0, 5, np.array([500, 450, 50]), id="capped: the surplus goes to the others"),
    ],
)
def test_the_images_of_a_class_share_how_often_it_is_shown(power, most, shown):
    np.testing.assert_allclose(expected_repeats(TARGET, power=power, most=most), (shown / COUNTS)[TARGET])


def test_an_epoch_draws_each_image_floor_or_ceil_of_its_repeats_and_on_average_its_repeats():
    repeats = expected_repeats(TARGET, power=0.5)
    epochs = [np.bincount(draw_epoch(repeats, np.random.default_rng(i)), minlength=1000) for i in range(300)]
    assert all(times.sum() == 1000 and np.abs(times - repeats).max() <= 1 for times in epochs)
    np.testing.assert_allclose(np.mean(epochs, axis=0), repeats, atol=0.15)
    one, two = (draw_epoch(repeats, np.random.default_rng([0, 1, 2])) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_the_shift_turns_the_sampled_prior_back_into_the_natural_one():
    settings = TrainSettings(sampling_power=0.7)
    sampled = np.bincount(TARGET, weights=expected_repeats(TARGET, power=0.7)) / 1000
    restored = sampled * np.exp(sampling_shift(TARGET, settings, n_classes=3))
    np.testing.assert_allclose(restored / restored.sum(), [0.9, 0.09, 0.01])


def test_absent_classes_natural_sampling_and_a_prior_that_is_to_stay_get_no_correction():
    sparse = np.array([0, 0, 2])
    np.testing.assert_allclose(prior_correction(sparse, TrainSettings(sampling_power=0.7), n_classes=4)[[1, 3]], 0)
    np.testing.assert_allclose(prior_correction(TARGET, TrainSettings(sampling_power=0.0), n_classes=3), 0)
    shifted = TrainSettings(sampling_power=0.7, restore_prior=False)
    np.testing.assert_array_equal(prior_correction(TARGET, shifted, n_classes=3), np.zeros(3))


WIDTH, HEIGHT = np.array([200, 100]), np.array([100, 100])


def test_the_centre_view_is_a_square_in_true_pixels():
    boxes = view_boxes("centre", width=WIDTH, height=HEIGHT, crop_share=0.8)
    # 200 x 100: a square of 80 pixels, from 60 to 140 across and from 10 to 90 down
    np.testing.assert_allclose(boxes[0], [0.3, 0.1, 0.7, 0.9], atol=1e-6)
    np.testing.assert_allclose(boxes[1], [0.1, 0.1, 0.9, 0.9], atol=1e-6)


@pytest.mark.parametrize(
    ("mirror", "plain"), [("mirror", "centre"), ("whole-mirror", "whole"), ("zoom-mirror", "zoom")]
)
def test_a_mirrored_view_exchanges_left_and_right(mirror, plain):
    boxes = [view_boxes(view, width=WIDTH, height=HEIGHT, crop_share=0.9) for view in (mirror, plain)]
    np.testing.assert_array_equal(boxes[0], boxes[1][:, [2, 1, 0, 3]])


def test_the_side_of_the_input_changes_nothing_about_what_is_seen():
    one, other = (view_boxes(view, width=WIDTH, height=HEIGHT, crop_share=0.9) for view in ("mirror", "mirror@288"))
    np.testing.assert_array_equal(one, other)
    assert (view_size("mirror", 224), view_size("mirror@288", 224)) == (224, 288)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_lies_inside_the_picture_even_of_extreme_shapes(view):
    boxes = view_boxes(view, width=np.array([1, 1200]), height=np.array([1, 6]), crop_share=1.0)
    assert (boxes >= -1e-6).all()
    assert (boxes <= 1 + 1e-6).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()


@pytest.mark.parametrize(
    ("views", "sentence"),
    [
        (("centre", "center"), "there is no view `center`; there are centre, whole"),
        (("centre", "centre"), "`--views centre,centre` names a view twice"),
        (("centre@288", "center@288"), "there is no view `center@288`; there are centre, whole"),
        (("centre@8",), "`centre@8` names no side in pixels: 16 to 1024 are possible"),
        (("centre@",), "`centre@` names no side in pixels"),
        (("centre@0288",), "`centre@0288` names no side in pixels"),
    ],
)
def test_an_unknown_or_repeated_view_is_refused(views, sentence):
    with pytest.raises(UserError, match=sentence):
        check_views(views)


def drawn_boxes(*, mirror):
    size = {"width": np.full(4000, 300), "height": np.full(4000, 200)}
    return random_boxes(np.random.default_rng(0), **size, crop_scale=0.35, mirror=mirror)


def test_random_crops_lie_inside_and_half_of_them_are_mirrored():
    boxes = drawn_boxes(mirror=True)
    assert 0.45 < (boxes[:, 2] < boxes[:, 0]).mean() < 0.55
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6


def test_random_crops_keep_to_the_limits_of_aspect_and_area_in_true_pixels():
    boxes = drawn_boxes(mirror=False)
    width, height = (boxes[:, 2] - boxes[:, 0]) * 300, (boxes[:, 3] - boxes[:, 1]) * 200
    whole_height = height > 200 - 1e-3  # cut at the picture's edge, where the aspect may be any
    aspect = (width / height)[~whole_height]
    assert aspect.min() > 3 / 4 - 1e-3
    assert aspect.max() < 4 / 3 + 1e-3
    assert (width * height).max() <= 300 * 200 * (1 + 1e-6)
    assert (width * height).min() > 0.35 * 0.7 * 300 * 200


def smooth_pictures(n):
    """Pictures with soft edges, as photographs have; (n, 96, 96, 3) uint8."""
    coarse = [np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8) for i in range(n)]
    return np.stack([Image.fromarray(one).resize((96, 96), Image.Resampling.BICUBIC) for one in coarse])


BOXES = [(0.0, 0.0, 96.0, 96.0), (10.3, 5.7, 60.1, 80.9), (40.0, 40.0, 52.5, 47.5), (0.0, 30.2, 95.9, 96.0)]


def shares(boxes):
    return np.array(boxes, dtype=np.float32) / np.float32(96)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [24, 64, 128])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_a_batch_of_boxes_equals_pillow_within_two_grey_levels(size, kernel, dtype):
    pixels = smooth_pictures(len(BOXES))
    got = resample(torch.from_numpy(pixels), shares(BOXES), size=size, kernel=kernel, dtype=dtype)
    for picture, box, ours in zip(pixels, BOXES, got, strict=True):
        pillow = Image.fromarray(picture).resize((size, size), Image.Resampling[kernel.upper()], box=box)
        difference = np.abs(ours.permute(1, 2, 0).numpy().clip(0, 255) - np.asarray(pillow, dtype=float))
        assert difference.max() <= 2


def test_a_box_with_its_sides_exchanged_is_the_mirror_image():
    pixels = torch.from_numpy(smooth_pictures(1))
    plain = resample(pixels, shares([[10.0, 5.0, 70.0, 90.0]]), size=32)
    mirrored = resample(pixels, shares([[70.0, 5.0, 10.0, 90.0]]), size=32)
    torch.testing.assert_close(mirrored, plain.flip(3), atol=1e-3, rtol=0)


def test_the_whole_square_at_its_own_size_is_the_picture_itself_channels_last_in_memory():
    pixels = smooth_pictures(2)
    same = resample(torch.from_numpy(pixels), shares([[0.0, 0.0, 96.0, 96.0]] * 2), size=96)
    np.testing.assert_allclose(same.permute(0, 2, 3, 1).numpy(), pixels, atol=1e-3)
    assert same.is_contiguous(memory_format=torch.channels_last)


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


@pytest.mark.parametrize(("epochs", "last"), [(10, 7), (3, 1), (4, 2)])  # of three or four all were mixed
def test_mixing_stops_before_the_last_epochs(epochs, last):
    settings = dataclasses.replace(PLAIN, mixup=1.0, epochs=epochs)
    assert mixed(GREYS, settings, epoch=last)[1].shape == (8, 4)
    images, target = mixed(GREYS, settings, epoch=last + 1)
    assert target.tolist() == [0, 1, 2, 3] * 2
    assert images[:, 0, 0, 0].tolist() == list(range(8))


@pytest.mark.parametrize(("how", "is_cut"), [({"mixup": 1.0}, False), ({"cutmix": 1.0}, True)])
def test_targets_are_the_shares_of_the_two_images_that_were_blended_or_cut_into_each_other(how, is_cut):
    images, target = mixed(GREYS, dataclasses.replace(PLAIN, label_smoothing=0.0, **how))
    torch.testing.assert_close(target.sum(dim=1), torch.ones(8))
    share = target[0, 0]  # image 0 (grey 0, class 0) is mixed with image 7 (grey 7, class 3)
    assert images[0].mean() == pytest.approx(float(7 * (1 - share)), abs=1e-5)
    assert (set(images[0].unique().tolist()) == {0.0, 7.0}) == is_cut


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
