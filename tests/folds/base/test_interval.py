"""Tests the intervals of a measured loss and of a difference of losses: many errors, few and none, and copies."""

import numpy as np
import pytest
from scipy.stats import binomtest

from folds.base.interval import (
    agreeing_images,
    effective_images,
    mean_interval,
    paired_difference,
    rate_interval,
    wilson_interval,
)

ONE = np.array([1, 1, 1, 0, 0, 0, 0, 0, 1, 0])
OTHER = np.array([0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
ALONE = np.arange(10)


def misses(n: int, errors: int) -> np.ndarray:
    return (np.arange(n) < errors).astype(np.float64)


@pytest.mark.parametrize(("errors", "n"), [(0, 10), (1, 712), (7, 50), (50, 50), (1300, 88_220)])
def test_the_interval_of_single_images_is_scipys(errors, n):
    expected = binomtest(errors, n).proportion_ci(0.95, method="wilson")
    assert rate_interval(misses(n, errors), np.arange(n)) == pytest.approx((expected.low, expected.high), rel=1e-4)


@pytest.mark.parametrize("errors", [0, 3, 40, 100])
def test_images_that_are_all_there_thrice_tell_no_more_than_a_third_of_them(errors):
    once = rate_interval(misses(100, errors), np.arange(100))
    thrice = rate_interval(np.repeat(misses(100, errors), 3), np.repeat(np.arange(100), 3))
    assert thrice == pytest.approx(once, rel=0.01, abs=1e-12)


def test_where_nothing_was_missed_images_were_counted_and_not_groups():
    group = np.repeat(np.arange(100), 3)
    assert effective_images(np.zeros(300), group) == agreeing_images(group) == 100
    assert rate_interval(np.zeros(300), group) == wilson_interval(0.0, 100)
    assert agreeing_images(np.array([0, 0, 0, 1, 2, 3])) == pytest.approx(36 / 12)


def test_copies_that_disagree_make_nothing_surer_than_single_images():
    apart = np.tile([0.0, 1.0], 50)
    assert effective_images(apart, np.repeat(np.arange(50), 2)) == pytest.approx(100)


def test_a_loss_of_ranks_has_the_interval_of_its_own_spread():
    outcomes = np.tile([0.0, 0.5, 1 / 3, 0.0], 1000)
    mean, error = outcomes.mean(), outcomes.std() / np.sqrt(4000)
    expected = pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=2e-4)
    assert rate_interval(outcomes, np.arange(4000)) == expected


def test_a_loss_without_limit_has_a_normal_interval_that_ends_at_0():
    assert mean_interval(np.array([3.0, 0.0, 0.0, 0.0]), np.arange(4))[0] == 0.0
    low, high = mean_interval(np.arange(100.0), np.arange(100))
    assert (low + high) / 2 == pytest.approx(49.5)
    assert (high - low) / 2 == pytest.approx(1.96 * np.arange(100.0).std(ddof=1) / 10)


@pytest.mark.parametrize("error", [0.004, 0.03, 0.2])
def test_the_interval_covers_the_truth_about_as_often_as_it_says_with_and_without_copies(error):
    rng = np.random.default_rng(0)
    for sizes in (np.ones(712, int), np.repeat([1, 2, 5], [500, 50, 20])):
        group, covered = np.repeat(np.arange(len(sizes)), sizes), []
        for _ in range(500):
            missed = np.repeat((rng.random(len(sizes)) < error).astype(float), sizes)
            low, high = rate_interval(missed, group)
            covered.append(low <= error <= high)
        assert np.mean(covered) > 0.91


def test_the_standard_error_of_images_that_are_no_copies_is_the_plain_one():
    found = paired_difference(ONE, OTHER, ALONE)
    error = (ONE - OTHER).std(ddof=1) / np.sqrt(10)
    assert (found.mean, found.standard_error) == pytest.approx((0.2, error))
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * error, 0.2 + 1.96 * error))


def test_no_difference_has_no_error():
    found = paired_difference(ONE, ONE, ALONE)
    assert (found.mean, found.low, found.high, found.is_above_error) == (0, 0, 0, False)


def test_a_lead_of_one_image_does_not_count():
    one = np.zeros(1000)
    one[0] = 1
    assert not paired_difference(one, np.zeros(1000), np.arange(1000)).is_above_error
    one[:5] = 1
    assert paired_difference(one, np.zeros(1000), np.arange(1000)).is_above_error


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        one, other = rng.random(500) < 0.3, rng.random(500) < 0.2
        found = paired_difference(one, other, np.arange(500))
        covered += found.low <= 0.1 <= found.high
    assert 0.92 < covered / 400 < 0.98
