"""Tests the choice of a blend, what is written of it, and that it is the same again when it is applied."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from ensemble.blend.apply import apply_blend, open_members
from ensemble.blend.blend_json import load_blend
from ensemble.blend.candidates import Fits, fit_data
from ensemble.blend.cross_fit import Scoring, best_or_equal, nested_choice
from ensemble.blend.make_blend import make_blend
from ensemble.blend.member_value import rarest_loss
from ensemble.blend.tables import blend_sentences, blend_summary, member_table
from ensemble.members.members import load_members
from ensemble.weights.metric import Metric
from ensemble.weights.recipe import FLOOR, Recipe, blend_scores
from folds.base.interval import paired_difference, wilson_interval
from folds.base.metrics import top_classes, topk_error
from tests.competition import refusal
from tests.ensemble.small import (
    EQUAL,
    QUICK,
    SMALL,
    change_json,
    flip,
    shown,
    small_oof,
    small_test,
    small_work,
    write_small,
)
from tests.synthetic import World


def of(result, name):
    return next(score for score in result.scores if score.candidate.name == name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A quick blend of three members, to be looked at."""
    return make_blend(small_work(tmp_path_factory.mktemp("made"))[0], QUICK, seed=0)


def test_the_score_the_gain_and_the_value_of_each_member_are_those_by_hand(work, folds):
    result = make_blend(work, EQUAL, seed=0)
    mean = np.mean([np.exp(small_oof(folds, m)) for m in range(3)], axis=0)
    assert result.blend.crossfit == pytest.approx(topk_error(mean, folds.target, k=3))
    assert result.blend.oof_top3_error == result.blend.crossfit
    best = min(result.scores, key=lambda score: score.crossfit).candidate.name
    assert result.blend.why == f"you asked for it; the best cross-fitted is {best}"
    stored, alone = load_blend(work.blend), [topk_error(small_oof(folds, m), folds.target) for m in range(3)]
    assert [one.alone for one in stored.worth] == pytest.approx(alone)
    assert stored.worth == result.blend.worth
    assert stored.gain["over"] == f"m{int(np.argmin(alone)):02d}"
    assert stored.gain["mean"] == pytest.approx(stored.crossfit - min(alone))
    assert stored.gain["low"] < stored.gain["mean"] < stored.gain["high"]


@pytest.mark.parametrize("metric", ["accuracy", "map", "log-loss"])
def test_every_metric_makes_a_blend(work, folds, metric):
    result = make_blend(work, replace(QUICK, metric=metric), seed=0)
    target = folds.target[np.argsort(folds.fold, kind="stable")]
    prior = np.bincount(target) / len(target)  # no member is worse than who knows nothing but how frequent classes are
    worst = Metric(metric, 3).outcomes(np.tile(prior, (len(target), 1)), target).mean()
    for score in result.scores:
        assert 0 < score.crossfit < worst
        assert score.low <= score.crossfit <= score.high
    mean = np.mean([np.exp(small_oof(folds, m)) for m in range(3)], axis=0)
    by_hand = Metric(metric, 3).outcomes(mean, folds.target).mean()
    assert of(result, "equal").crossfit == pytest.approx(by_hand, abs=1e-6)
    assert 0 <= result.blend.oof_top3_error < 0.2


def tied_members(tmp_path):
    """Members whose rows are the same eight probabilities in any order: equal weights make ties, up to rounding."""
    work, folds = small_work(tmp_path, members=0)
    rng, steps = np.random.default_rng(0), np.repeat([1, 2, 3, 4], 2) / 20
    for name in ("m00", "m01", "m02"):
        write_small(work, folds, name, np.log(rng.permuted(np.tile(steps, (600, 1)), axis=1)).astype(np.float32))
    return load_members(work)


def test_scores_of_log_bias_broke_ties_unlike_the_csv(tmp_path):
    """They were blended in float32 and ranked by probabilities, the CSV in float64 and by scores."""
    members, metric = tied_members(tmp_path), Metric("top-k-error", 2)
    objective, target = fit_data(members, metric).objective, members.rows.target
    scoring = Scoring(members, metric, objective)
    for seed in range(20):
        weights = np.full(3, 0.1 + seed / 7)
        recipes = [Recipe("log", weights, np.zeros(8)), Recipe("log", weights, np.eye(8)[seed % 8] * 1e-8)]
        outcomes = scoring.outcomes([Fits(one, (one,) * 3) for one in recipes])
        for recipe, streamed in zip(recipes, outcomes, strict=True):
            blended = recipe.scores(members.stacked(slice(0, 600)))
            csv_misses = ~(top_classes(blended, k=2) == target[:, None]).any(axis=1)
            assert np.array_equal(streamed[0], csv_misses), seed
        known = replace(objective, pool="log").outcomes(weights)
        assert np.array_equal(known, outcomes[0, 1]), seed  # a bias of 0 is none


def test_recipes_blended_side_by_side_or_alone_are_equal_to_the_last_bit(tmp_path):
    members = tied_members(tmp_path)
    recipes = [Recipe("mean", np.array([0.2, 0.0, 0.8])), Recipe("log", np.array([0.3, 1.1, 0.0]), np.arange(8.0))]
    streamed = [blend_scores(recipes, probs) for _, probs in members.chunks(size=37)]
    for recipe, scores in zip(recipes, zip(*streamed, strict=True), strict=True):
        assert np.array_equal(np.concatenate(scores), recipe.scores(members.stacked(slice(0, 600))))


def test_a_useless_member_gets_a_weight_within_noise_of_zero(tmp_path):
    world = World(n=4000, n_test=40, n_classes=8, n_folds=3, margin=4.0)
    work, folds = small_work(tmp_path, world=world)
    noise = np.random.default_rng(0).dirichlet(np.ones(8), size=4000)
    write_small(work, folds, "zz", np.log(noise).astype(np.float32), world=world)
    result = make_blend(work, QUICK, seed=0)
    # of weighted log-probabilities the standard error is 1 / sqrt(N x the mean variance of log p under the blend): 0.05
    for name, most in (("convex", 0.02), ("log", 0.1), ("greedy", 0.1), ("search", 0.1)):
        weights = of(result, name).fits.whole.weights
        assert weights[3] / weights.sum() <= most, name


def test_a_copy_of_a_member_changes_the_score_by_nothing(work, folds, made):
    write_small(work, folds, "copy0", small_oof(folds, 0))
    after = make_blend(work, QUICK, seed=0)
    for name in ("single", "convex", "log", "log-bias"):
        assert of(after, name).crossfit == pytest.approx(of(made, name).crossfit, abs=1 / 600 + 1e-9), name
    assert of(after, "convex").in_sample == of(made, "convex").in_sample
    both = of(after, "log").fits.whole.weights
    assert both[0] == pytest.approx(both[1], rel=1e-2)  # shrinkage shares the weight between the two
    assert both[:2].sum() == pytest.approx(of(made, "log").fits.whole.weights[0], abs=0.01)


def test_equal_weights_are_kept_where_the_gain_is_noise(tmp_path):
    work, folds = small_work(tmp_path, members=0)
    rng = np.random.default_rng(0)
    common = rng.normal(size=(600, 8)) + 3.0 * np.eye(8)[folds.target]
    for name in ("a1", "b2", "c3"):  # equally good: the same signal and as much noise of their own
        logits = common + rng.normal(size=(600, 8))
        write_small(work, folds, name, (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32))
    result = make_blend(work, QUICK, seed=0)
    assert result.blend.candidate == "equal"
    assert result.blend.why.startswith(("within one standard error", "nothing does better"))


@pytest.mark.parametrize("keep", [None, "log"])  # which was said to be kept as asked for: there are equal weights alone
def test_one_member_is_blended_with_nothing(work, folds, keep):
    result = make_blend(work, replace(QUICK, members=("m00",), keep=keep), seed=0)
    assert (result.blend.weights, result.blend.why) == ({"m00": 1.0}, "there is one member")
    assert result.blend.crossfit == pytest.approx(topk_error(np.exp(small_oof(folds, 0)), folds.target, k=3))


@pytest.mark.parametrize("keep", ["equal", "geometric", "geometric-bias", "log", "log-bias", "search"])
def test_a_stored_blend_is_applied_as_by_hand(work, keep):
    made = make_blend(work, replace(QUICK, keep=keep), seed=0).blend
    stored = load_blend(work.blend)
    assert stored == made
    blended = apply_blend(work, stored)
    tests = [np.exp(small_test(m)).astype(np.float64) for m in range(3)]
    if stored.pool == "log":
        tests = [np.log(probs + FLOOR) for probs in tests]
    by_hand = sum(stored.weights[f"m0{m}"] * tests[m] for m in range(3))
    by_hand = by_hand + (0 if stored.bias is None else np.array([stored.bias[label] for label in stored.classes]))
    assert blended.scores == pytest.approx(by_hand, abs=1e-5)
    assert blended.image_id.tolist() == SMALL.test_id.tolist()


def test_classes_that_all_members_give_next_to_nothing_are_ranked_as_in_the_submission(tmp_path):
    """log(p + 1e-6) makes them equal, and the announced score took the one that had a little more for the better."""
    work, folds = small_work(tmp_path, members=0)
    for member in range(2):
        sharp = 60.0 * small_oof(folds, member)
        sharp -= np.logaddexp.reduce(sharp, axis=1, keepdims=True)
        write_small(work, folds, f"m0{member}", sharp.astype(np.float32))
    made, members = make_blend(work, replace(QUICK, keep="geometric"), seed=0), load_members(work)
    probs = [member.probs(0, SMALL.n).astype(np.float64) for member in members.members]
    blended = np.mean(np.log(np.array(probs) + FLOOR), axis=0)
    assert of(made, "geometric").crossfit == topk_error(blended, members.rows.target)
    assert topk_error(np.mean(probs, axis=0), members.rows.target) == of(made, "equal").crossfit


def test_the_members_of_a_stored_blend_are_opened_as_they_were_or_refused(work, folds):
    made = make_blend(work, EQUAL, seed=0)
    members = open_members(work, load_blend(made.path))
    assert members.names == ("m00", "m01", "m02")
    order = np.argsort(folds.fold, kind="stable")
    assert np.allclose(members.members[1].probs(0, 50), np.exp(small_oof(folds, 1))[order][:50], atol=1e-6)
    write_small(work, folds, "m01", small_oof(folds, 9))
    for use in (open_members, apply_blend):
        message, hint = refusal(use, work, made.blend)
        assert message.startswith("m01 has changed since the blend was made: fold0/oof.npz")
        assert hint == "`python run.py blend`"


def test_a_submission_reads_no_out_of_fold_file_and_names_a_damaged_test_file(work):
    made = make_blend(work, EQUAL, seed=0).blend
    before = apply_blend(work, made).scores
    for path in work.models.glob("*/*/oof.npz"):
        path.write_bytes(b"")
    assert np.array_equal(apply_blend(work, made).scores, before)
    flip(work.fold("m02", 1) / "test.npz", -2000)
    assert "fold1/test.npz is damaged" in refusal(apply_blend, work, made)[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 7}, "has version 7, and this kit reads version 3"),
        ({"weights": {"m00": -1.0, "m01": 1.0, "m02": 1.0}}, "its pool, members or weights are not usable"),
        ({"weights": {"m00": 0.0, "m01": 0.0, "m02": 0.0}}, "no member has weight"),
        ({"pool": "median"}, "its pool, members or weights are not usable"),
        ({"weights": None}, "is damaged"),
        ({"expected": {"mean": 0.1}}, "is damaged"),
        ({"expected_top3": None}, "is damaged"),
    ],
)
def test_a_damaged_blend_json_is_refused(made, tmp_path, change, sentence):
    path = shutil.copy(made.path, tmp_path / "blend.json")
    change_json(path, **change)
    assert sentence in refusal(load_blend, path)[0]


def test_a_blend_or_candidate_that_is_not_there_is_answered_with_the_next_command(work):
    assert refusal(load_blend, work.blend)[1] == "`python run.py blend`"
    names = "equal, geometric, single, convex, geometric-bias, log, log-bias, greedy, search"
    fault = f"there is no candidate loog; there are {names}"
    assert refusal(make_blend, work, replace(QUICK, keep="loog"), seed=0) == (fault, "`python run.py blend`")


@pytest.mark.parametrize("name", ["top-k-error", "map", "log-loss"])
def test_intervals_and_paired_errors_are_those_of_resampled_groups_without_resampling(name):
    rng, metric = np.random.default_rng(0), Metric(name)
    target = np.repeat(rng.integers(0, 4, 500), 2)  # every picture twice
    group = np.repeat(np.arange(500), 2)
    logits = np.repeat(rng.normal(size=(2, 500, 4)), 2, axis=1) + rng.normal(size=(2, 1000, 4)) / 2
    logits[:, np.arange(1000), target] += 1
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    one, other = (metric.outcomes(own, target) for own in probs)
    drawn = []
    for _ in range(400):
        rows = (2 * rng.integers(0, 500, 500)[:, None] + [0, 1]).ravel()
        drawn.append([outcomes[rows].mean() for outcomes in (one, other)])
    first, second = np.array(drawn).T
    low, high = metric.interval(one, group)
    assert (high - low) / (2 * 1.96) == pytest.approx(first.std(), rel=0.12)
    assert paired_difference(one, other, group).standard_error == pytest.approx((first - second).std(), rel=0.12)


def test_fresh_images_show_the_crossfitted_score_and_not_the_in_sample_one(tmp_path):
    """Mean over three made-up competitions; 6,000 fresh images have a standard error of 0.005."""
    optimism, off = [], []
    for seed in range(3):
        world = World(n=200, n_test=2000, n_classes=8, n_folds=5, seed=seed, margin=2.5)
        work, _ = small_work(tmp_path / str(seed), members=4, world=world)
        made = make_blend(work, replace(QUICK, keep="greedy"), seed=0)
        fresh = topk_error(apply_blend(work, made.blend).scores, world.targets(1))
        optimism.append(fresh - made.kept.in_sample)
        off.append(fresh - made.kept.crossfit)
    assert np.mean(optimism) > 0.01
    assert abs(np.mean(off)) < np.mean(optimism) / 2


def with_outcomes(made, outcomes):
    """The first candidates, each with other cross-fitted losses of the images."""
    return [replace(one, outcomes=own, crossfit=own.mean()) for one, own in zip(made.scores, outcomes, strict=False)]


def test_the_candidate_that_scores_a_fold_is_chosen_without_that_fold(work, made):
    rows = load_members(work).rows
    misses = np.zeros((2, len(rows)))
    misses[0, rows.fold == 0] = 1.0  # the simpler one fails on fold 0 alone
    misses[1, rows.fold != 0] = 0.1
    scores = with_outcomes(made, misses)
    kept = min(scores, key=lambda score: score.crossfit)
    nested = nested_choice(scores, kept, rows, is_chosen=True)
    assert [one.candidate for one in nested.chosen] == [scores[0].candidate, scores[1].candidate, scores[1].candidate]
    by_hand = (misses[0, rows.fold == 0].sum() + misses[1, rows.fold != 0].sum()) / len(rows)
    assert nested.outcomes.mean() == pytest.approx(by_hand)
    assert nested_choice(scores, kept, rows, is_chosen=False).outcomes.mean() == kept.crossfit


@pytest.mark.parametrize(("lost", "kept"), [(1, 0), (2, 0), (3, 2)])
def test_equal_weights_are_kept_within_one_standard_error_and_else_the_best_of_all(made, lost, kept):
    """The best loses none of 600 images. A lead of m has an error of about its root, and one image is not counted."""
    misses = np.zeros((4, 600))
    misses[0, :lost] = 1
    misses[1, :1] = 1  # simpler than the best, and near to it
    scores = with_outcomes(made, misses)
    assert best_or_equal(scores, np.arange(600), np.ones(600, bool)) is scores[kept]


def test_what_is_shown_names_the_kept_candidate_and_the_nested_score(made):
    expected = made.blend.expected
    assert expected.oof == made.blend.oof_top3_error
    assert load_blend(made.path).expected == expected == made.blend.expected_top3
    numbers = f"{expected.mean:.4f} ({expected.low:.4f} to {expected.high:.4f})"
    assert blend_sentences(made)[1] == f"expected top-3 error {numbers} on 40 test images"
    chosen = blend_sentences(replace(made, blend=replace(made.blend, crossfit=0.5)))
    assert any(
        f"{made.blend.candidate} itself has 0.5000, but it was chosen on these images: " in one for one in chosen
    )
    text = shown(blend_summary(made), width=200)
    assert f"kept: {made.blend.candidate}, because {made.blend.why}" in text
    assert all(name in text for name in ("m00", "m01", "m02", "cross-fitted", "optimism", "without it"))


def test_no_error_on_n_images_has_an_interval_of_no_more_than_n_images_can(tmp_path):
    world = World(n=300, n_test=10, n_classes=4, n_folds=3, margin=30.0)
    work, _ = small_work(tmp_path, world=world)
    made = make_blend(work, QUICK, seed=0)
    assert made.kept.crossfit == 0
    assert (made.kept.low, made.kept.high) == wilson_interval(0.0, 300)  # 0 to 0.0126; 3 / 300 before
    assert made.blend.candidate == "equal"


def test_the_rarest_quarter_is_the_mean_over_its_classes():
    target = np.array([0] * 5 + [1] * 4 + [2] * 3 + [3] * 2 + [4])  # five classes: 4 and 3 are the rarest quarter
    missed = np.zeros(15)
    missed[[12, 14]] = 1  # one of the two of class 3, and the one of class 4
    assert rarest_loss(missed, target) == pytest.approx((1 / 2 + 1) / 2)
    assert rarest_loss(missed[:9], target[:9]) == 0.0  # of two classes, the rarer one


def test_members_whose_names_begin_alike_can_be_told_apart_in_a_narrow_table(made):
    long = tuple(replace(one, name=f"tf_efficientnet_lite0-{one.name}") for one in made.blend.worth)
    table = member_table(replace(made, blend=replace(made.blend, worth=long)))
    assert "\u2026" not in shown(table, width=100)  # the sign of a name that was cut


def test_map3_counts_the_rank_of_the_true_class():
    scores = np.array([[0.5, 0.3, 0.2, 0.0]] * 4)
    losses = Metric("map", 3).outcomes(scores, np.array([0, 1, 2, 3]))
    assert losses == pytest.approx([1 - 1, 1 - 1 / 2, 1 - 1 / 3, 1 - 0])


def test_two_runs_of_the_same_predictions_counted_twice_in_silence(tmp_path):
    work, folds = small_work(tmp_path)
    write_small(work, folds, "again0", small_oof(folds, 0))
    said = [one for one in make_blend(work, EQUAL, seed=0).warnings if "exactly the same" in one]
    assert said == ["again0, m00 predict exactly the same: leave out all but one with `--members`"]
