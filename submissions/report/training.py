"""Section 3, training: curves of every fold, the learning-rate finder, the verdict, the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from folds.base.workspace import read_json
from models.runs import begun_settings, done_folds, read_log_line
from models.watch.events import EpochRow
from submissions.report.plots import Chart, lines
from submissions.report.workfolder import WorkFolder

MOST_RUNS = 24  # whose curves are drawn: each takes some 30 KB of the page
LOG = "log.jsonl"
Logs = Mapping[int, Sequence[EpochRow]]  # by fold


def training_section(work: WorkFolder) -> dict[str, Any]:
    """Every run, begun or done. not_drawn: runs whose curves are left out for the size of the page."""
    made = [work.attempt(partial(_run, work, name, i)) for i, name in enumerate(work.runs)]
    return {"runs": [run for run in made if run is not None], "not_drawn": max(0, len(work.runs) - MOST_RUNS)}


def _run(work: WorkFolder, name: str, number: int) -> dict[str, Any]:
    """A run with the settings that people ask for (about), its folds, its advice and its charts."""
    root = work.workspace.models / name
    done = done_folds(work.workspace, name)
    folders = {int(path.name[4:]): path for path in root.glob("fold[0-9]*") if path.name[4:].isdecimal()}
    logs = {fold: _log(folders[fold] / LOG) for fold in sorted(folders) if (folders[fold] / LOG).is_file()}
    stored = work.attempt(lambda: next(begun_settings(work.workspace, name), {})) or {}
    rows = [_fold(fold, done.get(fold), logs.get(fold, [])) for fold in sorted(folders)]
    drawn = {fold: log for fold, log in logs.items() if log} if number < MOST_RUNS else {}
    sweep = [_sweep(root, number)] if number < MOST_RUNS and (root / "lr-find.json").is_file() else []
    return {
        "name": name,
        "kind": "added" if not folders else stored.get("kind", "trained"),
        "backbone": str(stored.get("backbone", "")),
        "about": _about(stored),
        "folds": rows,
        "advice": list(_advice(rows)),
        "charts": [*_curves(drawn, number), *sweep],
    }


def _log(path: Path) -> list[EpochRow]:
    """The epochs of a fold; a last line that a kill cut off does not count."""
    rows: list[EpochRow] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(read_log_line(line))
        except (ValueError, TypeError):
            break
    return rows


def _about(stored: Mapping[str, Any]) -> str:
    """The settings that differ most between runs, in words."""
    settings = stored.get("settings", {})
    named = (("image_size", "{} pixels"), ("epochs", "{} epochs"), ("batch_size", "batches of {}"), ("lr", "rate {}"))
    return ", ".join(words.format(settings[key]) for key, words in named if settings.get(key) is not None)


def _fold(fold: int, done: Mapping[str, Any] | None, log: Sequence[EpochRow]) -> dict[str, Any]:
    """A fold. verdict: that of `done.json`, `models.watch.events.Verdict` without what is None."""
    record = done or {}
    seconds = sum(row.seconds for row in log)
    images = sum(row.images_per_second * row.seconds for row in log)
    return {
        "fold": fold,
        "is_done": done is not None,
        "epochs": len(log),
        "top3_error": record.get("oof_top3_error"),
        "verdict": record.get("verdict", {}),
        "seconds": record.get("seconds") if done else seconds or None,
        "images_per_second": images / seconds if seconds else None,
    }


def _advice(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The verdicts' advice, each with all folds that it is given for."""
    said = [(row["verdict"].get("kind"), row["verdict"].get("advice")) for row in rows]
    for verdict, sentence in dict.fromkeys(said):
        if verdict and sentence:
            folds = [row["fold"] for row, (_, advice) in zip(rows, said, strict=True) if advice == sentence]
            yield {"folds": folds, "verdict": verdict, "sentence": sentence}


def _curves(logs: Logs, number: int) -> Iterator[Chart]:
    """Loss, errors and learning rate over epochs, a thin line for each fold."""
    loss = _series(logs, "training", "train", lambda row: row.train_loss)
    loss += _series(logs, "valid", "valid", lambda row: row.valid_loss)
    errors = _series(logs, "top-1", "train", lambda row: row.valid_top1_error)
    errors += _series(logs, "top-3", "valid", lambda row: row.valid_top3_error)
    rate = _series(dict(list(logs.items())[:1]), "rate", "valid", lambda row: row.lr)
    for key, title, series in (
        ("loss", "Loss, nats", loss),
        ("errors", "Valid error", errors),
        ("rate", "Learning rate", rate),
    ):
        if series:
            yield lines(f"{key}-{number}", title, series=series, x_title="epoch", is_small=True)


def _series(logs: Logs, name: str, role: str, figure: Callable[[EpochRow], float]) -> list[dict[str, Any]]:
    """One line a fold; epochs without the figure (NaN) are left out."""
    made = []
    for log in logs.values():
        rows = [row for row in log if math.isfinite(figure(row))]
        made.append({"name": name, "role": role, "x": [float(row.epoch) for row in rows], "y": list(map(figure, rows))})
    return [one for one in made if one["x"]]


def _sweep(root: Path, number: int) -> Chart:
    """What `lr-find` measured."""
    path = root / "lr-find.json"
    found = read_json(path, hint=f"remove {path}")
    suggested = float(found["suggested"])
    return lines(
        f"sweep-{number}",
        "Learning-rate finder",
        series=[{"name": "loss", "role": "valid", "x": list(found["rates"]), "y": list(found["losses"])}],
        x_title="learning rate",
        y_title="training loss, nats",
        is_log_x=True,
        mark=(f"suggested {suggested:.1e}", suggested),
        is_small=True,
    )
