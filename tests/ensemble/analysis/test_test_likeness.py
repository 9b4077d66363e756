"""Tests whether test images are told from training images where they differ, and only there."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from ensemble.analysis.test_likeness import (
    Likeness,
    crossfit_auc,
    crossfit_odds,
    deal_groups,
    fit_noise,
    measure_likeness,
    principal_parts,
)
from folds.base.workspace import digest, write_json
from folds.manifest.manifest import read_manifest, read_manifest_bytes, write_manifest
from folds.split.assign import load_folds
from tests.ensemble.small import SMALL, flip, with_manifest


def measured(features, is_test, group=None, *, seed=0):
    """(odds, auc, low, high)"""
    group = np.arange(len(features)) if group is None else group
    fold = deal_groups(group, is_test, np.random.default_rng(seed))
    parts = principal_parts(features)
    odds = crossfit_odds(parts, is_test, fold)
    return odds, *crossfit_auc(odds, is_test, fold, group, noise=fit_noise(parts, is_test, fold))


def likeness(features, is_test, *, seed=0):
    odds, *interval = measured(features, is_test, seed=seed)
    return Likeness(*interval, np.empty(0), odds[~is_test], np.empty(0), odds[is_test], "")


def sets(n, n_test, *, width=30, moved=0.0, seed=0):
    """Features of two sets, of which the test images are moved along the first one, and which rows are test images."""
    features = np.random.default_rng(seed).normal(size=(n + n_test, width))
    features[n:, 0] += moved
    return features, np.arange(n + n_test) >= n


def test_sets_that_are_alike_are_not_called_far_apart():
    found = [likeness(*sets(600, 200, seed=seed), seed=seed) for seed in range(30)]
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.02)
    assert sum(one.is_far for one in found) <= 1
    assert np.mean([one.low <= 0.5 <= one.high for one in found]) > 0.85  # 92% of 120


def test_half_of_the_variance_is_the_fits_noise_where_sets_are_alike_and_none_where_they_are_far_apart():
    def noise(moved):
        features, is_test = sets(900, 300, moved=moved)
        fold = deal_groups(np.arange(1200), is_test, np.random.default_rng(0))
        return fit_noise(principal_parts(features), is_test, fold)

    assert noise(0.0) > 0.7
    assert noise(3.0) < 0.1


def test_sets_that_differ_have_the_auc_that_the_distance_gives():
    found = [likeness(*sets(2000, 700, moved=1.0, seed=seed), seed=seed) for seed in range(10)]
    assert np.mean([one.auc for one in found]) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.015)
    assert all(one.is_far for one in found)


def test_the_auc_is_the_share_of_pairs_in_order_inside_the_folds():
    rng = np.random.default_rng(1)
    odds, is_test, fold = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4, np.arange(60) % 3
    by_fold, counts = [], []
    for k in range(3):
        ones, others = odds[is_test & (fold == k)], odds[~is_test & (fold == k)]
        by_fold.append(np.mean((ones[:, None] > others) + 0.5 * (ones[:, None] == others)))
        counts.append(len(ones))
    auc, low, high = crossfit_auc(odds, is_test, fold, np.arange(60), noise=0.0)
    assert auc == pytest.approx(np.average(by_fold, weights=counts))
    assert low < auc < high


def test_the_interval_of_one_fold_is_as_wide_as_delongs():
    rng = np.random.default_rng(2)
    ones, others = rng.normal(1, 1, 80), rng.normal(0, 1, 200)
    order = (ones[:, None] > others).astype(float)
    delong = np.sqrt(order.mean(axis=1).var() / 80 + order.mean(axis=0).var() / 200)
    is_test = np.arange(280) < 80
    one_fold = np.append(ones, others), is_test, np.zeros(280, int), np.arange(280)
    _, low, high = crossfit_auc(*one_fold, noise=0.0)
    assert high - low == pytest.approx(2 * 1.96 * delong, rel=0.05)
    _, low, high = crossfit_auc(*one_fold, noise=1.0)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(2) * delong, rel=0.05)


def test_copies_count_as_one_draw_and_never_stand_in_two_folds():
    features, is_test = sets(300, 100, moved=0.7)
    rows = np.repeat(np.arange(400), 4)
    fold = deal_groups(rows, is_test[rows], np.random.default_rng(0))
    assert all(len(set(fold[rows == row])) == 1 for row in range(400))
    _, _, low, high = measured(features[rows], is_test[rows], rows)
    _, _, once_low, once_high = measured(features, is_test)
    assert high - low == pytest.approx(once_high - once_low, rel=0.25)
    _, _, few_low, few_high = measured(features[rows], is_test[rows])
    assert few_high - few_low < 0.7 * (high - low)


def test_sets_without_an_image_in_common_have_an_auc_of_one_that_is_not_quite_sure():
    odds, auc, low, high = measured(*sets(200, 60, moved=40.0))
    assert auc == 1
    assert (0.9 < low < 1, high) == (True, 1.0)
    assert np.isfinite(odds).all()


def test_features_that_never_vary_are_no_obstacle():
    features, is_test = sets(100, 40)
    features[:, 3:] = 1.0
    assert np.isfinite(measured(features, is_test)[0]).all()


def test_too_few_groups_are_no_folds():
    assert deal_groups(np.zeros(40, int), np.arange(40) > 20, np.random.default_rng(0)) is None
    assert deal_groups(np.arange(40), np.arange(40) > 37, np.random.default_rng(0)) is None


def test_an_error_that_depends_on_the_difference_is_weighted_up_and_another_is_not():
    features, is_test = sets(4000, 1500, moved=1.0)
    found = likeness(features, is_test)
    rng = np.random.default_rng(5)
    truth = 1 / (1 + np.exp(2 - features[:, 0]))
    hard = found.weighted_rate((rng.random(4000) < truth[:4000]).astype(float))
    assert hard.plain == pytest.approx(truth[:4000].mean(), abs=0.02)
    assert hard.low < truth[4000:].mean() < hard.high
    assert hard.weighted > hard.plain + 0.08
    other = found.weighted_rate((features[:4000, 1] > 1).astype(float))
    assert other.low < other.plain < other.high
    assert hard.is_known


def test_where_no_training_image_looks_like_a_test_image_no_error_is_known():
    assert not likeness(*sets(300, 100, moved=6.0)).weighted_rate(np.zeros(300)).is_known


@pytest.fixture
def work(work):
    """A work folder of 600 training and 40 test images, none of them copies."""
    with_manifest(work, load_folds(work), unreadable=())
    write_manifest(work, read_manifest(work).assign(group=np.arange(640)))
    return work


def keep(work, *, moved=0.0, width=12, tag="net", view="centre", manifest=None):
    """Store features of the training and of the test images, as `probe` does; returns their two paths."""
    features = sets(600, 40, moved=moved, width=width)[0].astype(np.float16)
    facts = {"tag": tag, "view": view, "manifest": manifest or digest(read_manifest_bytes(work))}
    work.features.mkdir(parents=True, exist_ok=True)
    paths = []
    parts = ("train", load_folds(work).image_id, features[:600]), ("test", SMALL.test_id, features[600:])
    for split, names, own in parts:
        facts["images"] = digest("\n".join([*[split] * len(names), *names]).encode())
        paths.append(work.features / f"{digest(json.dumps(facts, sort_keys=True).encode())}.npy")
        np.save(paths[-1], own)
        said = {"facts": facts, "shape": list(own.shape), "digest": digest(own.tobytes())}
        write_json(paths[-1].with_suffix(".json"), said)
    return paths


def test_features_of_both_sets_are_found_and_the_widest_are_compared(work):
    assert measure_likeness(work) is None
    keep(work)
    keep(work, tag="wide", moved=3.0, width=16)
    keep(work, tag="wide", width=16, view="mirror")
    found = measure_likeness(work)
    assert (found.features, found.is_far) == ("wide", True)
    assert (len(found.train_id), len(found.test_id)) == (600, 40)
    assert found.test_odds.mean() > found.train_odds.mean() + 0.5


def test_the_likeness_of_the_same_features_is_measured_once(work):
    keep(work)
    first, stored = measure_likeness(work), work.ensemble / "likeness.npz"
    with np.load(stored) as arrays:
        np.savez(stored, **{**arrays, "auc": 0.75})
    again = measure_likeness(work)
    assert (again.auc, again.low, again.features) == (0.75, first.low, "net")
    assert np.array_equal(again.test_id, first.test_id)
    stored.write_bytes(stored.read_bytes()[:-40])
    assert measure_likeness(work).auc == first.auc
    keep(work, moved=3.0)
    assert measure_likeness(work).is_far


def test_features_of_another_manifest_or_of_one_set_or_damaged_ones_are_not_compared(work):
    keep(work, manifest="older")
    assert measure_likeness(work) is None
    train, test = keep(work)
    flip(test, -1)
    assert measure_likeness(work) is None
    test.unlink()
    train.with_suffix(".json").write_text("{")
    assert measure_likeness(work) is None
