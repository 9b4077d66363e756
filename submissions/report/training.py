"""Section 3, training: curves of every fold, the learning-rate finder, the verdict, the time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from folds.base.workspace import read_json, read_json_if_whole
from models.runs import begun_folds, begun_settings, done_folds, read_log
from models.watch.events import EpochRow
from submissions.report.plots import Chart, lines
from submissions.report.workfolder import WorkFolder

MOST_RUNS = 24  # whose curves are drawn: each takes some 30 KB of the page
ABOUT = (("image_size", "{} pixels"), ("epochs", "{} epochs"), ("batch_size", "batches of {}"), ("lr", "rate {}"))
CURVES = (  # of each chart its key, its title, and its lines: name, role, and the figure of an epoch
    ("loss", "Loss, nats", (("training", "train", "train_loss"), ("valid", "valid", "valid_loss"))),
    ("errors", "Valid error", (("top-1", "train", "valid_top1_error"), ("top-3", "valid", "valid_top3_error"))),
    ("rate", "Learning rate", (("rate", "valid", "lr"),)),
)


def training_section(work: WorkFolder) -> dict[str, Any]:
    """Every run, begun or done. not_drawn: runs whose curves are left out for the size of the page."""
    made = [work.attempt(partial(_run, work, name, i)) for i, name in enumerate(work.runs)]
    return {"runs": [run for run in made if run is not None], "not_drawn": max(0, len(work.runs) - MOST_RUNS)}


def _run(work: WorkFolder, name: str, number: int) -> dict[str, Any]:
    """A run with the settings that people ask for (about), its folds, its advice and its charts."""
    root = work.workspace.models / name
    done = done_folds(work.workspace, name)
    logs = {fold: read_log(root / f"fold{fold}" / "log.jsonl") for fold in begun_folds(work.workspace, name)}
    stored = work.attempt(lambda: next(begun_settings(work.workspace, name), {})) or {}
    added = read_json_if_whole(work.workspace.members / name / "done.json")
    settings, rows = stored.get("settings", {}), []
    advice: dict[tuple[str, str], list[int]] = {}  # the folds of each verdict and what it advises
    for fold, log in logs.items():
        record, seconds = done.get(fold, {}), sum(row.seconds for row in log)
        images = sum(row.images_per_second * row.seconds for row in log)
        verdict = record.get("verdict")  # `models.watch.events.Verdict` without what is None
        if verdict:
            advice.setdefault((verdict["kind"], verdict["advice"]), []).append(fold)
        rows.append(
            {
                "fold": fold,
                "is_done": fold in done,
                "epochs": len(log),
                "top3_error": record.get("oof_top3_error"),
                "verdict": verdict or {},
                "seconds": record.get("seconds") if fold in done else seconds or None,
                "images_per_second": images / seconds if seconds else None,
            }
        )
    charts = list(_charts(root, [log for log in logs.values() if log], number)) if number < MOST_RUNS else []
    return {
        "name": name,
        "kind": stored.get("kind", "trained") if logs else "columns" if "columns" in added else "added",
        "backbone": str(stored.get("backbone", "")),
        "about": ", ".join(words.format(settings[key]) for key, words in ABOUT if settings.get(key) is not None),
        "folds": rows,
        "advice": [{"folds": own, "verdict": kind, "sentence": words} for (kind, words), own in advice.items()],
        "charts": charts,
    }


def _charts(root: Path, logs: Sequence[Sequence[EpochRow]], number: int) -> Iterator[Chart]:
    """Figures over epochs, a thin line for each fold, where they are numbers; and what `lr-find` measured."""
    for key, title, kinds in CURVES:
        series = []
        for name, role, figure in kinds:
            for log in logs[:1] if key == "rate" else logs:
                known = [row for row in log if math.isfinite(getattr(row, figure))]
                x, y = [float(row.epoch) for row in known], [getattr(row, figure) for row in known]
                series.append({"name": name, "role": role, "x": x, "y": y})
        series = [one for one in series if one["x"]]
        if series:
            yield lines(f"{key}-{number}", title, series=series, x_title="epoch", is_small=True)
    path = root / "lr-find.json"
    if not path.is_file():
        return
    found = read_json(path, hint=f"remove {path}")
    suggested = float(found["suggested"])
    yield lines(
        f"sweep-{number}",
        "Learning-rate finder",
        series=[{"name": "loss", "role": "valid", "x": list(found["rates"]), "y": list(found["losses"])}],
        x_title="learning rate",
        y_title="training loss, nats",
        is_log_x=True,
        mark=(f"suggested {suggested:.1e}", suggested),
        is_small=True,
    )
