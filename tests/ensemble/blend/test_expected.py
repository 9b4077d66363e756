"""Tests the expected score of the test images: how often its interval holds, and what each part adds to it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binom

from ensemble.blend.expected import Gain, ScoredImages, averaging_gain, expected_score, expected_sentences
from ensemble.blend.make_blend import make_blend
from ensemble.members.members import load_members
from ensemble.members.training_rows import Rows
from ensemble.settings import BlendSettings
from ensemble.weights.metric import TOP3, Metric
from ensemble.weights.recipe import Recipe
from folds.base.interval import predictive_interval, rate_points
from folds.base.metrics import topk_error
from folds.base.workspace import Workspace
from tests.benchmarks.expected import make_networks, one_world
from tests.ensemble.small import SMALL, as_probes, small_oof, small_work
from tests.synthetic import World, write_member

NO_GAIN = Gain(0.0, 1, 1, "the member is a probe")


def errors(n: int, of: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [n, of - n])


def expected(outcomes: np.ndarray, scored: int | ScoredImages, *, metric: Metric = TOP3, gain: Gain = NO_GAIN):
    """Known from images of ten classes, each in turn, without copies. scored: test images, or their number"""
    one, classes = np.arange(len(outcomes)), tuple(map(str, range(10)))
    rows = Rows(one.astype(str), one % 10, one * 0, one, classes, n_folds=1, digest="", folds=(0,))
    scored = scored if isinstance(scored, ScoredImages) else ScoredImages(np.arange(scored), 0, 1.0)
    return expected_score(metric, outcomes, rows, scored=scored, gain=gain)


@pytest.mark.parametrize(
    ("rate", "n", "n_test"), [(0.1, 500, 500), (0.01, 2000, 1000), (0.004, 700, 400), (0.02, 88_220, 20_000)]
)
def test_the_interval_of_new_images_holds_95_times_of_100(rate, n, n_test):
    """Summed over all numbers of errors on the n images, and on the new ones: no luck in it."""
    seen = np.arange(int(binom.ppf(1e-5, n, rate)), int(binom.ppf(1 - 1e-5, n, rate)) + 1)
    seen = seen[:: max(len(seen) // 30, 1)]
    holds = []
    for count in seen:
        low, high = predictive_interval(rate_points(count / n, n), n_test)
        holds.append(binom.cdf(round(high * n_test), n_test, rate) - binom.cdf(round(low * n_test) - 1, n_test, rate))
    weight = binom.pmf(seen, n, rate)
    assert 0.93 < np.dot(holds, weight) / weight.sum() < 0.97


def test_one_error_of_712_images_is_the_beta_binomial_distribution():
    low, high = predictive_interval(rate_points(1 / 712, 712), 450)
    known = betabinom(450, 1.5, 711.5)
    middle = (known.cdf(np.arange(451)) + known.cdf(np.arange(-1, 450))) / 2
    assert (round(low * 450), round(high * 450)) == (np.argmax(middle > 0.025), np.argmax(middle > 0.975) - 1) == (0, 4)


def test_without_test_images_the_interval_is_that_of_the_rate():
    one = expected(errors(7, 700), 0)
    assert (one.low, one.high) == pytest.approx(beta(7.5, 693.5).ppf([0.025, 0.975]), rel=0.02)
    assert (one.mean, one.test_images, one.test_error) == (0.01, 0, 0.0)
    assert "(there is no test set)" in expected_sentences(TOP3, one)[0]


def test_copies_among_the_test_images_count_once_and_a_private_share_is_fewer_images():
    pairs, half = np.repeat(np.arange(200), 2), ScoredImages(np.arange(400), 0, 0.5)
    once, twice, private = (expected(errors(30, 600), scored) for scored in (200, ScoredImages(pairs, 0, 1.0), half))
    assert (once.low, once.high) == (twice.low, twice.high)
    assert (once.test_images, twice.test_images) == (200, 400)
    assert replace(private, test_images=0) == replace(once, test_images=0)


def test_a_gain_of_no_error_at_all_is_said_too():
    one = expected(errors(0, 100), 50, gain=Gain(0.2, 1, 5))
    assert "-20% +-10% as 5 networks predict each test image" in expected_sentences(TOP3, one)[1]


def test_unreadable_test_images_are_errors_as_often_as_the_frequent_classes_are_wrong():
    one = expected(errors(6, 600), ScoredImages(np.arange(90), 10, 1.0))
    assert one.mean == pytest.approx(0.9 * 0.01 + 0.1 * 0.7)  # three of ten equal classes are wrong 7 times of 10
    assert one.low < one.mean < one.high


def test_of_a_loss_without_limit_both_samples_widen_the_interval():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        seen, fresh = rng.lognormal(-2, 1.5, 500), rng.lognormal(-2, 1.5, 300)
        one = expected(seen, 300, metric=Metric("log-loss"))
        held.append(one.low <= fresh.mean() <= one.high)
    assert 0.90 <= np.mean(held) <= 0.98
    assert one.test_error / one.oof_error == pytest.approx(np.sqrt(500 / 300))


@pytest.mark.parametrize("metric", [TOP3, Metric("log-loss"), Metric("accuracy")])
def test_what_averaging_networks_gains_is_known_without_labels(tmp_path, metric):
    world = World(n=2000, n_test=2000, n_classes=20, n_folds=5, margin=3.5)
    work = Workspace(tmp_path)
    networks, target = make_networks(work, world), world.targets(1)  # (M, K, T, C)
    members, recipe = load_members(work), Recipe("mean", np.full(len(networks), 1 / len(networks)))

    def loss(probs: np.ndarray) -> float:
        return float(metric.outcomes(recipe.scores(probs), target).mean())

    one = float(np.mean([loss(networks[:, fold]) for fold in range(5)]))
    gain = averaging_gain(metric, members, recipe, oof=one)
    assert (gain.one, gain.all) == (6, 30)
    assert gain.share == pytest.approx(1 - loss(networks.mean(axis=1)) / one, abs=0.02)
    assert gain.share > 0.02
    if metric.name == "log-loss":  # averaging takes more off the spread of the losses than off their mean
        spreads = [metric.outcomes(recipe.scores(networks[:, fold]), target).std() for fold in range(5)]
        spread = metric.outcomes(recipe.scores(networks.mean(axis=1)), target).std() / np.mean(spreads)
        assert gain.spread == pytest.approx(spread, abs=0.02)
        assert gain.spread < 1 - gain.share


def test_no_gain_is_expected_of_probes_or_of_networks_that_agree(work):
    """The three networks of a member have the same test predictions here."""
    alone = make_blend(work, BlendSettings(members=("m00",)), seed=0).blend.expected
    assert alone.why_no_gain == "the networks agree on the test images"
    as_probes(work, "m00", "m01", "m02")
    made = make_blend(work, BlendSettings(trials=16), seed=0)
    assert made.blend.expected.gain == 0
    assert "probes" in expected_sentences(made.metric, made.blend.expected)[1]


def test_a_work_folder_without_test_images_has_an_expected_score_and_no_gain(tmp_path):
    world = replace(SMALL, n_test=0)
    work, folds = small_work(tmp_path, members=0, world=world)
    for member in range(2):
        write_member(work, world, folds, f"m{member}", small_oof(folds, member), np.zeros((0, 8), np.float32))
    made = make_blend(work, BlendSettings(trials=16), seed=0)
    found = made.blend.expected
    assert (found.test_images, found.why_no_gain) == (0, "there are no test images")
    assert found.low < found.mean < found.high


def test_the_interval_of_the_whole_procedure_holds_on_fresh_images():
    """Two made-up competitions, eight private parts each; `tests.benchmarks.expected` has hundreds."""
    made = [one_world("top-k-error", 500, seed) for seed in range(2)]
    assert np.mean([one["inside"] for one in made]) > 0.85
    assert np.mean([one["expected"] for one in made]) == pytest.approx(np.mean([one["fresh"] for one in made]), rel=0.1)


def test_the_top3_error_is_expected_whatever_the_metric_is(work, folds):
    blend = make_blend(work, BlendSettings(metric="log-loss", members=("m00",)), seed=0).blend
    error = topk_error(small_oof(folds, 0), folds.target, k=3)
    assert blend.oof_top3_error == blend.expected_top3.mean == pytest.approx(error)
    assert blend.expected.mean != blend.expected_top3.mean
