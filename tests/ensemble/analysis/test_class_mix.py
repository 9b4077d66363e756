"""Tests the class mix of made-up test sets: estimated where it is shifted, and no shift called where there is none."""

import numpy as np
import pytest

from ensemble.analysis.class_mix import Predicted, calibrate, estimate_class_mix, likely_mixes, shrunk
from folds.base.metrics import topk_error

TAIL = np.arange(1, 9) ** -0.7 / (np.arange(1, 9) ** -0.7).sum()  # shares of 8 classes


def posteriors(target, share, *, seed, width=6, spread=0.6, sharpness=1.0):
    """Class probabilities of images that are points around their class's centre, under these shares. (n, C)"""
    centres = np.random.default_rng(0).normal(0, spread, (len(share), width))
    points = centres[target] + np.random.default_rng(seed).normal(size=(len(target), width))
    log_odds = sharpness * (points @ centres.T - (centres**2).sum(axis=1) / 2 + np.log(share))
    odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def world(seed, *, share=TAIL, test_share=None, n=600, n_test=150, **options):
    """(out-of-fold predictions, their classes, test predictions, their classes)"""
    rng = np.random.default_rng([seed, 9])
    target = rng.choice(len(share), n, p=share)
    truth = rng.choice(len(share), n_test, p=share if test_share is None else test_share)
    oof, test = (posteriors(own, share, seed=[seed, part], **options) for part, own in enumerate((target, truth)))
    return Predicted(oof, np.arange(n)), target, Predicted(test, np.arange(n_test)), truth


def distance(one, other):
    return np.abs(one - other).sum() / 2


def counted(truth, n_classes=8):
    return np.bincount(truth, minlength=n_classes) / len(truth)


def test_of_forty_worlds_without_a_shift_at_most_two_are_called_shifted():
    """One in a hundred is what the level asks for."""
    called = [estimate_class_mix(*world(seed, n=300, n_test=100)[:3]).is_shift for seed in range(40)]
    assert sum(called) <= 2


@pytest.mark.parametrize("sharpness", [1.0, 0.6, 2.0])
def test_a_turned_tail_is_found_and_weighing_by_it_gains_whatever_the_confidence(sharpness):
    gains, simulated, off, pays = [], [], [], []
    for seed in range(10):
        oof, target, test, truth = world(seed, test_share=TAIL[::-1], n_test=300, sharpness=sharpness)
        mix = estimate_class_mix(oof, target, test)
        assert mix.is_shift
        off.append((distance(mix.test, counted(truth)), distance(mix.train, counted(truth))))
        gains.append(topk_error(mix.matched(test.probs), truth) - topk_error(test.probs, truth))
        simulated.append(mix.gain.mean)
        pays.append(mix.pays)
    estimated, unchanged = np.mean(off, axis=0)
    assert estimated < 0.5 * unchanged
    assert np.mean(gains) < -0.03  # from about 0.26
    assert np.mean(simulated) == pytest.approx(np.mean(gains), abs=0.03)
    assert sum(pays) >= 8


def test_an_estimate_is_drawn_to_the_training_mix_as_far_as_it_is_noise():
    train = np.full(4, 0.25)
    mix = np.array([0.35, 0.25, 0.25, 0.15])  # a squared distance of 0.02
    assert shrunk(mix, train, noise=0.005) == pytest.approx(train + 0.75 * (mix - train))
    assert shrunk(np.stack([mix, train]), train, noise=0.1) == pytest.approx(np.stack([train, train]))
    assert shrunk(mix, train, noise=0.0) == pytest.approx(mix)


def test_weighing_by_a_mild_shift_of_doubtful_predictions_no_longer_costs_much():
    """The plain estimates are off by as much as the training mix, and cost 0.02 of 0.21."""
    share, costs = 0.6 * TAIL + 0.4 * TAIL[::-1], []
    for seed in range(3):
        oof, target, test, truth = world(seed, test_share=share, n_test=600)
        mix = estimate_class_mix(oof, target, test)
        scores = mix.calibration.log_probs(test.probs) + np.log(mix.test / mix.train), mix.matched(test.probs)
        costs.append([topk_error(one, truth) - topk_error(test.probs, truth) for one in scores])
    plain, drawn = np.mean(costs, axis=0)
    assert drawn < min(plain, 0.005)


def test_probabilities_that_were_flattened_made_the_mix_run_away_and_calibration_stops_it():
    oof, target, test, truth = world(0, test_share=TAIL[::-1], n_test=2000, n=4000, spread=1.0)
    flat = [Predicted(own.probs**0.4 / (own.probs**0.4).sum(axis=1, keepdims=True), own.group) for own in (oof, test)]
    ratios = (flat[1].probs / counted(target)).astype(np.float32)
    wild = likely_mixes(ratios, np.ones((1, 2000), np.float32), counted(target))
    mix = estimate_class_mix(flat[0], target, flat[1])
    assert mix.calibration.sharpness == pytest.approx(1 / 0.4, rel=0.1)
    assert distance(mix.test, counted(truth)) < 0.05
    assert distance(wild[0], counted(truth)) > 0.1


def test_after_calibration_the_training_images_have_the_training_mix():
    oof, target, _, _ = world(3, sharpness=0.5)
    calibration = calibrate(oof.probs, target)
    means = (calibration.ratios(oof.probs) * calibration.train).mean(axis=0)
    assert means == pytest.approx(counted(target), abs=1e-4)
    found = likely_mixes(calibration.ratios(oof.probs), np.ones((1, 600), np.float32), calibration.train)
    assert found[0] == pytest.approx(counted(target), abs=1e-3)


def test_the_mixes_are_those_of_the_em_algorithm_image_by_image():
    _, target, test, _ = world(4, n_test=40)
    train = counted(target)
    ratios = (test.probs / train).astype(np.float32)
    mix = train
    for _ in range(300):
        own = ratios * mix
        own /= own.sum(axis=1, keepdims=True)
        mix = own.sum(axis=0) + 8 * train  # one image per class, spread like the training images
        mix /= mix.sum()
    assert likely_mixes(ratios, np.ones((2, 40), np.float32), train) == pytest.approx(np.stack([mix, mix]), abs=1e-4)


def test_a_hundred_and_three_classes_of_five_test_images_some_of_them_lacking():
    share = np.arange(1, 104) ** -0.7 / (np.arange(1, 104) ** -0.7).sum()
    even = np.full(103, 1 / 103)
    even[[0, 50, 102]] = 0
    options = {"share": share, "n": 3000, "n_test": 515, "width": 20, "spread": 1.0}
    oof, target, test, truth = world(0, test_share=even / even.sum(), **options)
    mix = estimate_class_mix(oof, target, test)
    assert mix.is_shift
    assert mix.test[0] < mix.null_low[0]
    assert mix.null_low[102] <= mix.test[102] <= mix.null_high[102]  # 12 training images
    assert mix.test.min() > 0
    assert mix.test.sum() == pytest.approx(1)
    assert distance(mix.test, counted(truth, 103)) < 0.5 * distance(mix.train, counted(truth, 103))
    assert np.isfinite(mix.matched(test.probs)).all()
    assert not estimate_class_mix(*world(0, **options)[:3]).is_shift


def test_a_class_without_training_images_and_sure_predictions_end_in_numbers():
    target = np.arange(30) % 3
    sure = np.eye(4)[target]
    mix = estimate_class_mix(Predicted(sure, np.arange(30)), target, Predicted(sure[:7], np.arange(7)))
    for values in (mix.test, mix.low, mix.high, mix.null_low, mix.null_high, mix.matched(sure)):
        assert np.isfinite(values).all()
    assert not mix.is_shift


def test_a_test_image_that_is_there_forty_times_is_no_shift():
    oof, target, test, truth = world(6, spread=1.0)
    rows = np.append(np.arange(150), np.full(40, np.flatnonzero(truth == 7)[0]))
    alone = estimate_class_mix(oof, target, Predicted(test.probs[rows], np.arange(len(rows))))
    assert alone.is_shift
    assert not estimate_class_mix(oof, target, Predicted(test.probs[rows], rows)).is_shift


def test_the_interval_holds_the_share_that_test_images_were_drawn_with():
    inside = []
    for seed in range(6):
        mix = estimate_class_mix(*world(seed, test_share=TAIL[::-1], n=1500, n_test=400, spread=1.0)[:3])
        inside.append((mix.low <= TAIL[::-1]) & (TAIL[::-1] <= mix.high))
    assert np.mean(inside) > 0.85


def test_the_same_seed_gives_the_same_mix():
    one, other = (estimate_class_mix(*world(7, test_share=TAIL[::-1])[:3], seed=3) for _ in range(2))
    assert one.test.tobytes() == other.test.tobytes()
    assert (one.low.tobytes(), one.gain, one.before) == (other.low.tobytes(), other.gain, other.before)


def test_without_a_shift_in_the_estimate_the_order_of_the_classes_stays():
    oof, target, test, _ = world(5)
    mix = estimate_class_mix(oof, target, test)
    as_trained = mix.calibration.log_probs(test.probs)
    assert (np.argsort(as_trained, axis=1) == np.argsort(test.probs, axis=1)).all()
