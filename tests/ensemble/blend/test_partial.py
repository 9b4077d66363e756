"""Blends runs that lack folds: only if asked, only by folds that all have, and everybody is told."""

import json
import shutil

import numpy as np
import pytest

from ensemble.blend.apply import apply_blend
from ensemble.blend.blend_json import load_blend
from ensemble.blend.make_blend import make_blend
from ensemble.members.members import choose_parts, load_members
from ensemble.settings import BlendSettings
from submissions.settings import SubmitSettings
from submissions.write import write_submission
from tests.competition import refusal
from tests.ensemble.small import as_probes

PARTIAL = BlendSettings(trials=16, half_samples=1, partial=True)


def without(work, **folds):
    """Take the done-markers of some folds away: `m00=(0, 2)`."""
    for run, lacking in folds.items():
        for fold in lacking:
            (work.fold(run, fold) / "done.json").unlink()


def test_rows_are_those_of_the_folds_that_every_member_has(work, folds):
    without(work, m01=(1,))
    members = load_members(work, BlendSettings(partial=True))
    assert members.names == ("m00", "m01", "m02")
    assert members.rows.folds == (0, 2)
    assert sorted(members.rows.image_id.tolist()) == folds.image_id[folds.fold != 1].tolist()
    assert [len(member.runs[0].tests) for member in members.members] == [3, 2, 3]  # every network that is done


def test_a_run_with_one_fold_does_not_take_the_others_from_two_whole_runs_unless_it_is_named(work):
    without(work, m02=(0, 1))
    members = load_members(work, BlendSettings(partial=True))
    assert (members.names, members.rows.folds, members.left_out) == (("m00", "m01"), (0, 1, 2), ("m02",))
    named = load_members(work, BlendSettings(members=("m00", "m02"), partial=True))
    assert (named.names, named.rows.folds) == (("m00", "m02"), (2,))
    without(work, m00=(2,))
    assert (
        refusal(load_members, work, BlendSettings(members=("m00", "m02"), partial=True))[0]
        == "m00, m02 have no fold in common"
    )


def test_a_partial_blend_of_nothing_lacking_is_the_whole_blend(work):
    make_blend(work, BlendSettings(trials=16, half_samples=1), seed=0)
    whole = work.blend.read_bytes()
    assert make_blend(work, PARTIAL, seed=0).blend.partial is None
    assert work.blend.read_bytes() == whole


@pytest.mark.parametrize("lacking", [(1,), (0, 2)])
def test_a_partial_blend_is_applied_and_says_so_everywhere(work, lacking):
    for run in ("m01", "m02"):
        for fold in lacking:
            shutil.rmtree(work.fold(run, fold))
    without(work, m00=lacking)
    result = make_blend(work, PARTIAL, seed=0)
    there = [k for k in range(3) if k not in lacking]
    assert result.blend.partial["folds"] == tuple(there)
    assert result.blend.partial["networks"] == {name: len(there) for name in ("m00", "m01", "m02")}
    assert any(warning.startswith("partial: weights and scores are of fold ") for warning in result.warnings)
    if len(there) == 1:
        assert (result.blend.candidate, set(result.blend.weights.values())) == ("equal", {1 / 3})
    blend = load_blend(work.blend)
    members = load_members(work, BlendSettings(partial=True)).members
    blended = apply_blend(work, blend)
    means = [member.test_probs(blended.image_id) for member in members]
    np.testing.assert_array_equal(blend.recipe().scores(iter(means)), blended.scores)
    lineage = json.loads(write_submission(work, SubmitSettings()).path.with_suffix(".json").read_text())
    assert lineage["partial"]["folds"] == there


def test_a_partial_blend_is_not_applied_once_another_fold_is_done(work):
    hidden = work.fold("m01", 1) / "done.json"
    hidden.rename(hidden.with_suffix(".away"))
    make_blend(work, PARTIAL, seed=0)
    hidden.with_suffix(".away").rename(hidden)
    message, _ = refusal(apply_blend, work, load_blend(work.blend))
    assert message.startswith("m01 has changed since the blend was made: fold1/oof")


def test_probes_do_not_keep_a_network_out_that_lacks_folds(work):
    as_probes(work, "m00", "m01")  # two probes with all folds, one network with two
    without(work, m02=(0,))
    names = ["m00", "m01", "m02"]
    assert choose_parts(work, names, n_folds=3, is_named=False) == (names, [1, 2])
    without(work, m02=(1, 2))
    assert choose_parts(work, names, n_folds=3, is_named=False) == (["m00", "m01"], [0, 1, 2])
