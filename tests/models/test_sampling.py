"""Checks the tempered sampling and how its prior is undone."""

import numpy as np
import pytest

from models.input.sampling import draw_epoch, expected_repeats, prior_correction, sampling_shift
from models.settings import TrainSettings

TARGET = np.repeat([0, 1, 2], [900, 90, 10])


def test_power_zero_shows_every_image_once():
    np.testing.assert_allclose(expected_repeats(TARGET, power=0.0, most=4), 1.0)


def test_power_one_shows_every_class_equally_often():
    shown = np.bincount(TARGET, weights=expected_repeats(TARGET, power=1.0, most=1000))
    np.testing.assert_allclose(shown, 1000 / 3)


def test_the_cap_holds_and_its_surplus_goes_to_the_others():
    repeats = expected_repeats(TARGET, power=1.0, most=5)
    assert repeats.max() == 5
    assert repeats.sum() == pytest.approx(1000)
    # class 2: 10 x 5 = 50; 950 are left for two classes of equal share: 475 > 90 x 5 = 450, so class 1 is capped too
    np.testing.assert_allclose(np.bincount(TARGET, weights=repeats), [500, 450, 50])


def test_the_square_root_tempers():
    repeats = expected_repeats(TARGET, power=0.5, most=100)
    assert repeats[-1] / repeats[0] == pytest.approx((900 / 10) ** 0.5)


def test_an_epoch_draws_each_image_floor_or_ceil_of_its_repeats():
    repeats = expected_repeats(TARGET, power=0.5, most=4)
    times = np.bincount(draw_epoch(repeats, np.random.default_rng(0)), minlength=1000)
    assert times.sum() == 1000
    assert np.abs(times - repeats).max() <= 1


def test_over_many_epochs_the_draws_meet_their_expectation():
    repeats = expected_repeats(TARGET, power=0.5, most=4)
    times = sum(np.bincount(draw_epoch(repeats, np.random.default_rng(i)), minlength=1000) for i in range(300))
    np.testing.assert_allclose(times / 300, repeats, atol=0.15)


def test_an_epoch_is_a_function_of_its_generator():
    repeats = expected_repeats(TARGET, power=0.5, most=4)
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
    np.testing.assert_allclose(prior_correction(TARGET, TrainSettings(), n_classes=3), 0)
    shifted = TrainSettings(sampling_power=0.7, restore_prior=False)
    np.testing.assert_array_equal(prior_correction(TARGET, shifted, n_classes=3), np.zeros(3))
