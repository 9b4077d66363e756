"""Checks views and random crops: boxes as shares of the picture."""

import numpy as np
import pytest

from folds.base.errors import UserError
from models.input.augment import random_boxes
from models.input.views import VIEWS, check_views, view_boxes

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
    ],
)
def test_an_unknown_or_repeated_view_is_refused(views, sentence):
    with pytest.raises(UserError, match=sentence):
        check_views(views)


def draw(seed=0, n=4000, crop_scale=0.35, mirror=True, width=300, height=200):
    size = {"width": np.full(n, width), "height": np.full(n, height)}
    return random_boxes(np.random.default_rng(seed), **size, crop_scale=crop_scale, mirror=mirror)


def test_random_crops_lie_inside_and_half_of_them_are_mirrored():
    boxes = draw()
    mirrored = boxes[:, 2] < boxes[:, 0]
    assert 0.45 < mirrored.mean() < 0.55
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6


def test_random_crops_keep_to_the_aspect_limits_in_true_pixels():
    boxes = draw(mirror=False)
    width, height = (boxes[:, 2] - boxes[:, 0]) * 300, (boxes[:, 3] - boxes[:, 1]) * 200
    whole_height = height > 200 - 1e-3  # cut at the picture's edge, where the aspect may be any
    aspect = (width / height)[~whole_height]
    assert aspect.min() > 3 / 4 - 1e-3
    assert aspect.max() < 4 / 3 + 1e-3
    assert (width * height).max() <= 300 * 200 * (1 + 1e-6)
    assert (width * height).min() > 0.35 * 0.7 * 300 * 200


def test_random_crops_depend_on_the_seed_alone():
    np.testing.assert_array_equal(draw(seed=3), draw(seed=3))
    assert (draw(seed=3) != draw(seed=4)).any()
