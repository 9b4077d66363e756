"""Tests the names of runs: what a name would overwrite is refused wherever a run can be named."""

from __future__ import annotations

import pytest

from folds.base.errors import UserError
from folds.base.workspace import Workspace
from models.runs import plan_runs, refuse_other_settings
from models.settings import TrainSettings

ONE = TrainSettings(backbone=("test_resnet",))


@pytest.mark.parametrize("name", ["blend", "BLEND"])
@pytest.mark.parametrize("is_table", [False, True])
def test_a_run_could_be_called_blend_and_its_csv_replaced_the_blends(name, is_table):
    with pytest.raises(UserError) as caught:
        plan_runs(ONE, {name: ONE} if is_table else {}, names=() if is_table else (name,))
    assert caught.value.message == f"`{name}` is no name for a run: its CSV would replace the blend's"
    assert caught.value.hint == "`--run NAME`, or `[run.NAME]` in kit.toml"


@pytest.mark.parametrize("name", ["s0+s1", "m:mirror", "_features", "../x", ".hidden", "a b", "", "a" * 101])
def test_a_name_that_leads_elsewhere_or_means_something_else_is_refused(name):
    with pytest.raises(UserError, match="is no name for a run: up to 100 letters, digits"):
        plan_runs(ONE, {name: ONE})


def test_a_run_with_the_name_of_an_added_member_was_trained_and_never_blended(tmp_path):
    workspace = Workspace(tmp_path)
    (workspace.members / "other").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        refuse_other_settings(workspace, {"run": "other"})
    assert caught.value.message == "other is a member that was added, which would be blended instead of the run"
