"""Tests the table of runs x folds."""

import io

from rich.console import Console

from folds.base.workspace import Workspace, write_json
from models.watch.tables import status_table


def shown(workspace) -> list[str]:
    screen = io.StringIO()
    Console(width=120, file=screen).print(status_table(workspace, [], n_folds=2))
    return [line for line in screen.getvalue().splitlines() if line.strip()]


def test_the_column_of_refits_is_there_where_a_run_has_one(tmp_path):
    workspace = Workspace(tmp_path)
    for run, fold, error in (("a", 0, 0.25), ("a", 1, 0.75), ("b", 1, 0.5)):
        write_json(workspace.fold(run, fold) / "done.json", {"oof_top3_error": error})
    assert [line.split() for line in shown(workspace)[-2:]] == [
        ["a", "0.2500", "0.7500", "0.5000", "+-", "0.3536"],
        ["b", ".", "0.5000", "0.5000"],
    ]
    write_json(workspace.refit("a") / "done.json", {"fold": "all"})
    assert shown(workspace)[1].split()[-2:] == ["sd", "all"]
    assert [line.split()[-1] for line in shown(workspace)[-2:]] == ["x", "."]
