"""Makes the curves of a run: losses, errors and rate over epochs, and the sweep of the rate finder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from folds.base.workspace import read_json
from models.watch.events import EpochRow
from submissions.report.charts import Lines, Series

Figure = Callable[[EpochRow], float]


def curves(logs: Mapping[int, Sequence[EpochRow]], name: str, number: int) -> list[Lines]:
    """Loss, errors and rate over epochs, a thin line for each fold."""
    known = {fold: log for fold, log in logs.items() if log}
    if not known:
        return []
    folds = f"{len(known)} fold" + "s" * (len(known) > 1)
    last = [log[-1] for log in known.values()]
    valid = sum(row.valid_loss for row in last) / len(last)
    top3 = sum(row.valid_top3_error for row in last) / len(last)
    loss = _series(known, "training", "train", lambda row: row.train_loss)
    loss += _series(known, "valid", "valid", lambda row: row.valid_loss)
    errors = _series(known, "top-1", "train", lambda row: row.valid_top1_error)
    errors += _series(known, "top-3", "valid", lambda row: row.valid_top3_error)
    return [
        _lines(f"loss-{number}", "Loss, nats", f"Losses of {name}, {folds}; valid {valid:.4f} at the end", loss),
        _lines(f"errors-{number}", "Valid error", f"Errors of {name}, {folds}; top-3 {top3:.4f} at the end", errors),
        _lines(
            f"rate-{number}",
            "Learning rate",
            f"Learning rate of {name}, {min(r.lr for r in last):.1e} at the end",
            _series(dict(list(known.items())[:1]), "rate", "plain", lambda row: row.lr),
        ),
    ]


def _series(logs: Mapping[int, Sequence[EpochRow]], name: str, role: str, figure: Figure) -> tuple[Series, ...]:
    """One line a fold; epochs without the figure (NaN) are left out."""
    made = []
    for log in logs.values():
        rows = [row for row in log if math.isfinite(figure(row))]
        x, y = tuple(float(row.epoch) for row in rows), tuple(figure(row) for row in rows)
        made.append(Series(name, role, x, y, is_faint=len(logs) > 1))
    return tuple(one for one in made if one.x)


def _lines(key: str, title: str, alt: str, series: tuple[Series, ...]) -> Lines:
    return Lines(key, title, alt, series, x_title="epoch", y_title="", is_small=True)


def sweep(root: Path, number: int) -> list[Lines]:
    """What `lr-find` saw, where it was asked."""
    path = root / "lr-find.json"
    if not path.is_file():
        return []
    found = read_json(path, hint=f"remove {path}")
    line = Series("loss", "plain", tuple(found["rates"]), tuple(found["losses"]))
    chart = Lines(
        key=f"sweep-{number}",
        title="Learning-rate finder",
        alt=f"Training loss over rising learning rates; {found['suggested']:.1e} is suggested",
        series=(line,),
        x_title="learning rate",
        y_title="training loss, nats",
        is_small=True,
        is_log_x=True,
        marks=((f"suggested {found['suggested']:.1e}", float(found["suggested"])),),
    )
    return [chart]
