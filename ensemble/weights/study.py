"""Keeps the Optuna study: searched in memory, copied to SQLite in batches, so that it resumes.

Optuna's own storage commits every trial (16 ms without waiting for the disk, 60 to 90 ms with it), which is a hundred
times what a trial costs here. So Optuna makes the file and its tables, and finished trials are inserted in one go;
`optuna-dashboard sqlite:///work/ensemble/study.db` and `optuna.load_study` read it as any other.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, distribution_to_json
from optuna.trial import FrozenTrial

from folds.base.errors import CannotWriteError
from folds.base.workspace import digest

UNWRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)  # by somebody who looks at it: no reason to replace it
DIGEST = "foldblend:digest"  # the study's attribute that vouches for its trials


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
            if not _is_whole(base, name):
                return {}
            for number, parameter, value, loss in base.execute(query, (name,)):
                found.setdefault(number, ({}, loss))[0][parameter] = value
    except sqlite3.DatabaseError:
        return {}  # another file of that name, or a damaged one: the search starts anew and replaces it
    complete = {number: trial for number, trial in found.items() if trial[0].keys() == space.keys()}
    return {number: ([params[key] for key in space], loss) for number, (params, loss) in complete.items()}


def append_trials(path: Path, name: str, trials: Sequence[FrozenTrial]) -> None:
    """Add finished trials to the study of that name, those that are new to it, in one transaction."""
    for is_last in (False, True):
        try:
            _append(path, name, trials)
            return
        except (sqlite3.DatabaseError, optuna.exceptions.StorageInternalError) as err:
            if _sqlite_code(err) in HELD:
                hint = "close what reads it, then `python run.py blend`"
                raise CannotWriteError(f"cannot write {path}: another program holds it", hint=hint) from err
            if is_last or _sqlite_code(err) in UNWRITABLE:
                hint = "free some room or choose another folder with `--work DIR`"
                raise CannotWriteError(f"cannot write {path}: {err}", hint=hint) from err
            path.unlink(missing_ok=True)  # damaged: what it knew is computed again


def _sqlite_code(err: BaseException | None) -> int | None:
    """SQLite's own number for what went wrong, which Optuna and SQLAlchemy wrap in errors of theirs."""
    while err is not None:
        for one in (err, getattr(err, "orig", None)):
            if isinstance(one, sqlite3.Error) and hasattr(one, "sqlite_errorcode"):
                return one.sqlite_errorcode & 0xFF
        err = err.__cause__
    return None


def _append(path: Path, name: str, trials: Sequence[FrozenTrial]) -> None:
    study_id = _study_id(path, name)
    with closing(sqlite3.connect(path)) as base, base:
        if not _is_whole(base, name):
            _forget(base, study_id)
        known = {number for (number,) in base.execute("select number from trials where study_id = ?", (study_id,))}
        for trial in trials:
            if trial.number not in known:
                _insert(base, study_id, trial)
        base.execute("delete from study_user_attributes where study_id = ? and key = ?", (study_id, DIGEST))
        base.execute(
            "insert into study_user_attributes (study_id, key, value_json) values (?, ?, ?)",
            (study_id, DIGEST, json.dumps(_digest(base, name))),
        )


def _digest(base: sqlite3.Connection, name: str) -> str:
    """The digest of all numbers, parameters and losses of a study's trials."""
    rows = base.execute(
        "select trials.number, param_name, param_value, value from trials join studies using (study_id)"
        " join trial_params using (trial_id) join trial_values using (trial_id)"
        " where study_name = ? order by trials.number, param_name",
        (name,),
    )
    return digest(repr(rows.fetchall()).encode())


def _is_whole(base: sqlite3.Connection, name: str) -> bool:
    """Whether the trials are those that were written: a loss with a changed byte would be taken for granted."""
    found = base.execute(
        "select value_json from study_user_attributes join studies using (study_id) where study_name = ? and key = ?",
        (name, DIGEST),
    ).fetchall()
    return [json.loads(value) for (value,) in found] == [_digest(base, name)]


def _forget(base: sqlite3.Connection, study_id: int) -> None:
    """Remove the trials of a study: new ones, or none, take their place."""
    for table in ("trial_params", "trial_values"):
        base.execute(
            f"delete from {table} where trial_id in (select trial_id from trials where study_id = ?)", (study_id,)
        )
    base.execute("delete from trials where study_id = ?", (study_id,))


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
    except sqlite3.OperationalError as err:
        if _sqlite_code(err) in HELD:
            raise
        # else there are no tables yet
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
