"""Tests the estimates of where the next gain is, by hand and against what then happened."""

import json
from dataclasses import asdict, replace

import pytest

from ensemble.analysis.next_gain import gain_table, next_gains
from ensemble.blend.blend_json import save_blend
from ensemble.blend.make_blend import make_blend
from tests.ensemble.small import EQUAL, change_json, shown, small_work
from tests.synthetic import World


def test_members_are_weighed_by_what_they_give_an_hour_and_a_further_one_by_the_power_law(work):
    blend = make_blend(work, EQUAL, seed=0).blend
    for run, hours in (("m00", 1.0), ("m01", 2.0), ("m02", 0.5)):
        for fold in range(3):
            change_json(work.fold(run, fold) / "done.json", seconds=3600 * hours / 3)
    worth = tuple(replace(one, alone=0.05, without=0.03 + 0.01 * i) for i, one in enumerate(blend.worth))
    expected = replace(blend.expected_top3, oof=0.03, gain=0.1, oof_networks=3, test_networks=9)
    blend = replace(blend, worth=worth, crossfit=0.03, expected_top3=expected)
    save_blend(work.blend, blend)
    found = {one.what: (round(one.hours, 6), round(one.gain, 6)) for one in next_gains(work)}
    assert list(found) == [
        "a further seed of every run",
        "a further member like these",
        "m02, already in the blend",
        "m01, already in the blend",
        "m00, already in the blend",
    ]
    assert found["a further seed of every run"] == (3.5, pytest.approx(0.1 * 0.03 / 4))  # b/3 - b/6 of b (1 - 1/3)
    assert found["a further member like these"] == (pytest.approx(3.5 / 3, abs=1e-6), pytest.approx(0.01 * 2 / 4))
    assert found["m00, already in the blend"] == (1.0, 0.0)
    partial = {"folds": (0, 1), "networks": dict.fromkeys(blend.weights, 2), "left_out": ()}
    save_blend(work.blend, replace(blend, expected_top3=replace(expected, test_networks=6), partial=partial))
    fold = next_gains(work)[0]
    assert (fold.what, fold.hours) == ("a further fold of every run", pytest.approx(3.5 / 2))
    assert fold.gain == pytest.approx(0.1 * 0.03 / 3)  # b/2 - b/3 of b (1 - 1/2)
    text = shown(gain_table(next_gains(work)), width=200)
    assert "+0.0000" in text
    assert "-0.0000" not in text


def test_the_hours_of_a_run_were_counted_for_each_of_its_views(work):
    for fold in range(3):
        change_json(work.fold("m00", fold) / "done.json", seconds=3600)
    blend = make_blend(work, replace(EQUAL, members=("m00", "m01")), seed=0).blend
    expected = replace(blend.expected_top3, oof=0.03, gain=0.1, oof_networks=3, test_networks=9)
    runs, weights = {"a": ("m00",), "b": ("m00",), "m01": ("m01",)}, {"a": 0.5, "b": 0.2, "m01": 0.3}
    worth = tuple(replace(blend.worth[0], name=name) for name in runs)
    save_blend(work.blend, replace(blend, runs=runs, weights=weights, worth=worth, expected_top3=expected))
    assert next_gains(work)[0].hours == pytest.approx(3)


def test_nothing_is_said_without_a_blend_by_top_3_error_nor_of_hours_that_are_not_known(work):
    assert next_gains(work) == []
    blend = make_blend(work, EQUAL, seed=0).blend
    assert json.dumps(asdict(blend.expected_top3))
    assert {one.per_hour for one in next_gains(work)} == {None}
    make_blend(work, replace(EQUAL, metric="log-loss"), seed=0)
    assert next_gains(work) == []


def test_what_a_further_member_gives_was_within_a_factor_of_three_of_what_it_then_gave(tmp_path):
    """Three members, then four, in two made-up competitions of 2,000 images each."""
    foreseen = came = 0.0
    for seed in range(2):
        world = World(n=2_000, n_test=40, n_classes=30, n_folds=4, margin=5.0, seed=seed)
        workspace, _ = small_work(tmp_path / str(seed), members=4, world=world)
        three = make_blend(workspace, replace(EQUAL, members=("m00", "m01", "m02")), seed=0).blend
        foreseen += next(one.gain for one in next_gains(workspace) if one.what.startswith("a further member"))
        came += three.crossfit - make_blend(workspace, EQUAL, seed=0).blend.crossfit
    assert 0 < came / 3 < foreseen < 3 * came
