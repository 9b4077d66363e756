"""This file keeps the Optuna study: searched in memory, copied to SQLite in batches, so that it resumes.

Optuna's own storage commits every trial (16 ms without waiting for the disk, 60 to 90 ms with it), which is a hundred
times what a trial costs here. So Optuna makes the file and its tables, and finished trials are inserted in one go;
`optuna-dashboard sqlite:///work/ensemble/study.db` and `optuna.load_study` read it as any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, distribution_to_json
from optuna.trial import FrozenTrial


def stored_losses(
    path: Path, name: str, space: Mapping[str, FloatDistribution]
) -> dict[int, tuple[list[float], float]]:
    """A study's finished trials by number: parameters in the order of the space, and the loss."""
    if not path.is_file():
        return {}
    query = (
        "select trials.number, param_name, param_value, value from trials join studies using (study_id)"
        " join trial_params using (trial_id) join trial_values using (trial_id)"
        " where study_name = ? and state = 'COMPLETE'"
    )
    found: dict[int, tuple[dict[str, float], float]] = {}
    try:
        with closing(sqlite3.connect(path)) as base:
            for number, parameter, value, loss in base.execute(query, (name,)):
                found.setdefault(number, ({}, loss))[0][parameter] = value
    except sqlite3.DatabaseError:
        return {}  # another file of that name, or a damaged one: the search starts anew and replaces it
    complete = {number: trial for number, trial in found.items() if trial[0].keys() == space.keys()}
    return {number: ([params[key] for key in space], loss) for number, (params, loss) in complete.items()}


def append_trials(path: Path, name: str, trials: Sequence[FrozenTrial]) -> None:
    """Add finished trials to the study of that name, those that are new to it, in one transaction."""
    study_id = _study_id(path, name)
    with closing(sqlite3.connect(path)) as base, base:
        known = {number for (number,) in base.execute("select number from trials where study_id = ?", (study_id,))}
        for trial in trials:
            if trial.number not in known:
                _insert(base, study_id, trial)


def _insert(base: sqlite3.Connection, study_id: int, trial: FrozenTrial) -> None:
    times = (_text(trial.datetime_start), _text(trial.datetime_complete))
    row = base.execute(
        "insert into trials (number, study_id, state, datetime_start, datetime_complete)"
        " values (?, ?, 'COMPLETE', ?, ?)",
        (trial.number, study_id, *times),
    )
    base.execute(
        "insert into trial_values (trial_id, objective, value, value_type) values (?, 0, ?, 'FINITE')",
        (row.lastrowid, trial.value),
    )
    base.executemany(
        "insert into trial_params (trial_id, param_name, param_value, distribution_json) values (?, ?, ?, ?)",
        [
            (row.lastrowid, key, value, distribution_to_json(_plain(trial.distributions[key])))
            for key, value in trial.params.items()
        ],
    )


def _study_id(path: Path, name: str) -> int:
    """The number of the study in the file; Optuna makes both if they are not there, or if the file is no database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path)) as base:
            rows = base.execute("select study_id from studies where study_name = ?", (name,)).fetchall()
            if rows:
                return int(rows[0][0])
    except sqlite3.OperationalError:
        pass  # no tables yet
    except sqlite3.DatabaseError:
        path.unlink()
    url = f"sqlite:///{path}"
    optuna.create_study(storage=url, study_name=name, direction="minimize", load_if_exists=True)
    with closing(sqlite3.connect(path)) as base:
        (row,) = base.execute("select study_id from studies where study_name = ?", (name,))
        return int(row[0])


def _plain(distribution: BaseDistribution) -> FloatDistribution:
    """Optuna's own class, which whoever reads the file knows."""
    assert isinstance(distribution, FloatDistribution), f"{distribution} is no float"
    return FloatDistribution(distribution.low, distribution.high)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S.%f")
