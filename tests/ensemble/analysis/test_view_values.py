"""Tests what is said of views, against the plain way: average the views' probabilities, count the misses."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ensemble.analysis.views import report_views, view_sentences, view_summary
from ensemble.members.training_rows import rows_of
from folds.base.interval import Difference
from folds.base.metrics import topk_error, true_rank
from tests.competition import refusal
from tests.ensemble.small import SMALL, shown, small_oof, small_work
from tests.synthetic import write_fold

VIEWS = ("centre", "mirror", "wide")


def seen(folds, seed, *, margin=1.2):
    """A view whose errors are its own. (N, C) log-probabilities, rows as in folds.csv."""
    logits = np.random.default_rng(seed).normal(size=(SMALL.n, SMALL.n_classes))
    logits[np.arange(SMALL.n), folds.target] += margin
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def write_views(work, folds, name, oof, *, views=VIEWS):
    """Store a run of several views. oof (N, V, C) log-probabilities, rows as in folds.csv."""
    for fold in range(folds.n_folds):
        rows = folds.fold == fold
        own = folds.image_id[rows], oof[rows], SMALL.test_id[:5], oof[:5]
        write_fold(work, folds, name, fold, *own, settings={"image_size": 224}, views=views)


def mean_error(folds, oof, views):
    return topk_error(np.exp(oof[:, [VIEWS.index(view) for view in views]]).mean(axis=1), folds.target)


@pytest.fixture
def empty(tmp_path):
    """(work folder without a run, folds)"""
    return small_work(tmp_path, members=0)


@pytest.fixture(scope="module")
def three_views(tmp_path_factory):
    """A run with two good views and one of noise: (work folder, folds, log-probabilities)."""
    work, folds = small_work(tmp_path_factory.mktemp("views"), members=0)
    oof = np.stack([seen(folds, 0), seen(folds, 1), seen(folds, 2, margin=0)], axis=1)
    write_views(work, folds, "a", oof)
    return work, folds, oof


@pytest.fixture(scope="module")
def report(three_views):
    (report,) = report_views(three_views[0])
    return report


def test_every_number_is_that_of_the_plain_mean_of_probabilities(three_views, report):
    _, folds, oof = three_views
    whole = mean_error(folds, oof, VIEWS)
    assert report.views == VIEWS
    for one in report.worth:
        others = [view for view in VIEWS if view != one.view]
        assert one.alone == pytest.approx(mean_error(folds, oof, [one.view]))
        assert one.adds.mean == pytest.approx(mean_error(folds, oof, others) - whole)
    for before, step in itertools.pairwise(report.path):
        assert step.error == pytest.approx(mean_error(folds, oof, step.views))
        assert step.gain.mean == pytest.approx(before.error - step.error)
    first, second, third = (step.views for step in report.path)
    assert mean_error(folds, oof, first) == min(mean_error(folds, oof, [view]) for view in VIEWS)
    wider = [(*first, view) for view in VIEWS if view not in first]
    assert mean_error(folds, oof, second) == min(mean_error(folds, oof, views) for views in wider)
    assert (third[:2], set(third)) == (second, set(VIEWS))
    assert set(report.proposed.views) == {"centre", "mirror"}  # "wide" is noise
    assert next(one for one in report.worth if one.view == "wide").adds.high < 0


def test_the_cross_fitted_error_scores_each_fold_under_the_set_that_was_chosen_without_it(three_views, report):
    _, folds, oof = three_views
    misses = 0
    for fold, views in enumerate(report.proposed_without):
        rows = folds.fold == fold
        probs = np.exp(oof[:, [VIEWS.index(view) for view in views]]).mean(axis=1)
        misses += (true_rank(probs[rows], folds.target[rows]) >= 3).sum()
    assert report.crossfit == pytest.approx(misses / len(rows_of(folds)))
    assert report.crossfit_against_all.mean == pytest.approx(report.crossfit - mean_error(folds, oof, VIEWS))


def test_a_set_is_chosen_for_a_fold_without_a_look_at_it(three_views, empty):
    (work, folds), spoilt = empty, three_views[2].copy()
    spoilt[folds.fold == 0] = spoilt[folds.fold == 0][:, ::-1]  # in fold 0 alone the good view is the last
    write_views(work, folds, "a", spoilt)
    (report,) = report_views(work)
    assert set(report.proposed_without[0]) == {"centre", "mirror"}


def test_views_that_say_the_same_are_not_paid_for_twice(empty):
    work, folds = empty
    write_views(work, folds, "a", np.stack([small_oof(folds, 0)] * 3, axis=1))
    (report,) = report_views(work)
    assert report.proposed.views == ("centre",)
    assert report.behind.mean == 0


def test_a_single_view_is_proposed_as_there_is_nothing_else(work, folds):
    (report,) = report_views(work, ["m00"])
    assert (report.proposed.views, report.worth[0].adds) == (("centre",), None)
    assert report.crossfit == pytest.approx(topk_error(small_oof(folds, 0), folds.target))


def test_several_runs_end_in_their_mean(three_views, empty):
    (work, folds), oof = empty, three_views[2]
    other = np.stack([seen(folds, 3), seen(folds, 4, margin=0), seen(folds, 5)], axis=1)
    write_views(work, folds, "a", oof)
    write_views(work, folds, "b", other)
    *_, pooled = report_views(work, ["a", "b"])
    for one in pooled.worth:
        alone = [mean_error(folds, values, [one.view]) for values in (oof, other)]
        assert one.alone == pytest.approx(np.mean(alone))
    assert tuple(pooled.kinds) == ("a", "b")
    assert pooled.is_for_all


def test_without_a_run_the_next_command_is_train(empty):
    message, hint = refusal(lambda: list(report_views(empty[0])))
    assert "there is no finished run" in message
    assert hint == "`python run.py train`"


def test_the_tables_mark_the_proposed_set_and_name_the_views_that_are_not_there(report):
    lines = shown(view_summary(report), width=300).splitlines()
    marked = [line.split()[:3] for line in lines if line.strip().startswith("*")]
    assert marked == [["*", "+", report.proposed.views[-1]]]
    said = "\n".join(view_sentences(report))
    assert "not predicted: whole, zoom, top-left" in said
    assert f"`python run.py blend --member-views {','.join(report.proposed.views)}`" in said


def test_views_that_another_run_lacks_are_used_by_predicting_nothing_else(three_views, empty):
    """`blend --member-views` names views of all runs, and would refuse the other one."""
    (work, folds), views = empty, ("centre@288", "mirror", "wide")
    write_views(work, folds, "a", three_views[2], views=views)
    write_views(work, folds, "b", three_views[2])
    (report,) = report_views(work, ["a"])
    assert (report.is_worth_it, report.is_for_all) == (True, False)
    asked = f"`python run.py predict --run a --views {','.join(report.proposed.views)}`, then `python run.py blend`"
    assert f"to use them: {asked}" in view_sentences(report)


def test_the_views_of_neighbours_are_looked_up_anew(report):
    looked_up = replace(report, kinds={"a-probe-knn": "knn"}, is_for_all=False)
    assert "`python run.py knn --run a-probe --views " in "\n".join(view_sentences(looked_up))


def test_a_view_at_another_size_costs_its_area_in_forward_passes(empty):
    work, folds = empty
    write_views(work, folds, "a", np.stack([seen(folds, 0), seen(folds, 1)], axis=1), views=("centre", "centre@288"))
    (report,) = report_views(work)
    assert report.passes == {"centre": 1.0, "centre@288": pytest.approx(1.653, abs=1e-3)}
    assert "2.65" in shown(view_summary(report), width=300)
    assert "`python run.py predict --run a --views centre,centre@288,whole," in view_sentences(report)[-1]


def test_all_views_are_to_be_kept_where_choosing_costs_more_than_it_saves(report):
    assert report.is_worth_it
    costly = replace(report, crossfit_against_all=Difference(0.008, 0.002, images=7000))
    assert not costly.is_worth_it
    (said,) = [one for one in view_sentences(costly) if "keep all" in one]
    assert said.startswith("a set chosen like this errs more than all 3 views on images that it was not chosen by")


def test_the_command_ends_with_the_blend_that_uses_the_proposed_views(three_views, report, typed):
    out = typed("views", "--work", three_views[0].root).out
    assert f"next: python run.py blend --member-views {','.join(report.proposed.views)} --work" in out
