"""Tests what is read of runs: the table of runs x folds, and logs of epochs."""

import pytest

from folds.base.workspace import Workspace, write_bytes, write_json
from models.runs import log_line, own_size, read_log
from models.watch.events import EpochRow
from models.watch.tables import status_table
from tests.ensemble.small import shown


def test_the_column_of_refits_is_there_where_a_run_has_one(tmp_path):
    workspace = Workspace(tmp_path)

    def words():
        lines = shown(status_table(workspace, [], n_folds=2), width=120).splitlines()
        return [line.split() for line in lines if line.strip()]

    for run, fold, error in (("a", 0, 0.25), ("a", 1, 0.75), ("b", 1, 0.5)):
        write_json(workspace.fold(run, fold) / "done.json", {"oof_top3_error": error})
    assert words()[-2:] == [
        ["a", "0.2500", "0.7500", "0.5000", "+-", "0.3536"],
        ["b", ".", "0.5000", "0.5000"],
    ]
    write_json(workspace.refit("a") / "done.json", {"fold": "all"})
    assert words()[1][-2:] == ["sd", "all"]
    assert [line[-1] for line in words()[-2:]] == ["x", "."]


@pytest.mark.parametrize("damage", [b"[]", b"3", b"{", b'{"epoch": 2}', b"\xff\xfe", b""])
def test_damage_to_a_log_ended_report_or_views_in_a_traceback(tmp_path, damage):
    workspace, row = Workspace(tmp_path), EpochRow(1, 1e-3, 32, 1.0, 0.75, 0.5, 0.25, 100.0, 10.0)
    line, paths = log_line(row).encode(), [workspace.fold("a", fold) / "log.jsonl" for fold in range(2)]
    write_bytes(paths[0], damage + b"\n" + line)
    write_bytes(paths[1], line + line + damage)
    assert list(map(read_log, [*paths, tmp_path])) == [[], [row, row], []]
    write_json(workspace.fold("a", 0) / "settings.json", {"settings": {"image_size": None}})
    assert own_size(workspace, "a") == 32
