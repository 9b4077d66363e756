"""Tests the comparison of two ways of predicting on the same images."""

import numpy as np
import pytest

from folds.base.interval import paired_difference

ONE = np.array([1, 1, 1, 0, 0, 0, 0, 0, 1, 0])
OTHER = np.array([0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
ALONE = np.arange(10)


def test_the_standard_error_of_images_that_are_no_copies_is_the_plain_one():
    found = paired_difference(ONE, OTHER, ALONE)
    apart = ONE - OTHER
    assert found.mean == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(apart.std(ddof=1) / np.sqrt(10))
    assert (found.low, found.high) == pytest.approx(
        (0.2 - 1.96 * found.standard_error, 0.2 + 1.96 * found.standard_error)
    )


def test_three_copies_of_every_image_tell_no_more_than_one():
    once = paired_difference(ONE, OTHER, ALONE)
    thrice = paired_difference(np.repeat(ONE, 3), np.repeat(OTHER, 3), np.repeat(ALONE, 3))
    assert (thrice.mean, thrice.standard_error) == pytest.approx((once.mean, once.standard_error))


def test_no_difference_has_no_error():
    found = paired_difference(ONE, ONE, ALONE)
    assert (found.mean, found.low, found.high, found.is_above_error) == (0, 0, 0, False)


def test_a_lead_of_one_image_does_not_count():
    one = np.zeros(1000)
    one[0] = 1
    assert not paired_difference(one, np.zeros(1000), np.arange(1000)).is_above_error
    one[:5] = 1
    assert paired_difference(one, np.zeros(1000), np.arange(1000)).is_above_error


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        one, other = rng.random(500) < 0.3, rng.random(500) < 0.2
        found = paired_difference(one, other, np.arange(500))
        covered += found.low <= 0.1 <= found.high
    assert 0.92 < covered / 400 < 0.98
