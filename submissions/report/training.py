"""Shows how training went: curves of every fold, the rate finder's sweep, the verdict, the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from folds.base.errors import UserError
from folds.base.workspace import read_json
from models.runs import done_folds, read_log_line
from models.watch.events import EpochRow
from submissions.report.charts import Chart
from submissions.report.curves import curves, sweep
from submissions.report.source import Source

MOST_RUNS = 24  # whose curves are drawn: each takes about 60 KB of the page
LOG = "log.jsonl"


@dataclass(frozen=True)
class FoldRow:
    """One fold: its verdict, and the gap between the images that it trained on and those that it did not."""

    fold: int
    is_done: bool
    epochs: int
    top3_error: float | None
    train_loss: float | None
    valid_loss: float | None
    train_top3_error: float | None
    valid_top3_error: float | None
    probe_top3_error: float | None  # of a frozen probe of the same weights, as the verdict compared it
    verdict: str | None
    advice: str | None
    seconds: float | None
    images_per_second: float | None


@dataclass(frozen=True)
class Advice:
    """What is said of some folds."""

    folds: tuple[int, ...]
    verdict: str
    sentence: str


@dataclass(frozen=True)
class RunTraining:
    """A run with all that is known of its training. about: its backbone and the settings that people ask for."""

    name: str
    kind: str  # trained, probe or added
    backbone: str
    about: str
    folds: tuple[FoldRow, ...]
    advice: tuple[Advice, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Training:
    """The third section. left: runs whose curves are not drawn, for the size of the page."""

    runs: tuple[RunTraining, ...]
    left: int


def gather_training(source: Source) -> Training:
    """Every run, begun or done."""
    made = [source.attempt(partial(_run, source, name, i)) for i, name in enumerate(source.runs)]
    return Training(tuple(run for run in made if run is not None), max(0, len(source.runs) - MOST_RUNS))


def _run(source: Source, name: str, number: int) -> RunTraining:
    root = source.workspace.models / name
    done = done_folds(source.workspace, name)
    logs = {fold: _log(path) for fold, path in _fold_folders(root) if (path / LOG).is_file()}
    begun = [fold for fold, _ in _fold_folders(root)]
    stored = _settings(root)
    kind = "added" if not begun else "probe" if stored.get("kind") == "probe" else "trained"
    charts = [*curves(logs, name, number), *sweep(root, number)] if number < MOST_RUNS else []
    rows = [_fold_row(fold, done.get(fold), logs.get(fold, [])) for fold in begun]
    return RunTraining(
        name=name,
        kind=kind,
        backbone=str(stored.get("backbone", "")),
        about=_about(stored),
        folds=tuple(rows),
        advice=tuple(_advice(rows)),
        charts=tuple(charts),
    )


def _fold_folders(root: Path) -> list[tuple[int, Path]]:
    found = [(path.name[4:], path) for path in root.glob("fold[0-9]*")]
    return sorted((int(fold), path) for fold, path in found if fold.isdecimal())


def _log(folder: Path) -> list[EpochRow]:
    """The epochs of a fold; a last line that a kill cut off does not count."""
    rows: list[EpochRow] = []
    for line in (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(read_log_line(line))
        except (ValueError, TypeError):
            break
    return rows


def _settings(root: Path) -> dict[str, Any]:
    for path in sorted(root.glob("fold*/settings.json")):
        try:
            stored = read_json(path, hint="")
        except UserError:
            continue
        return stored if isinstance(stored, dict) else {}
    return {}


def _about(stored: Mapping[str, Any]) -> str:
    """The settings that differ most between runs, in words."""
    settings = stored.get("settings", {})
    named = (("image_size", "{} pixels"), ("epochs", "{} epochs"), ("batch_size", "batches of {}"), ("lr", "rate {}"))
    return ", ".join(words.format(settings[key]) for key, words in named if settings.get(key) is not None)


def _fold_row(fold: int, done: Mapping[str, Any] | None, log: Sequence[EpochRow]) -> FoldRow:
    verdict = (done or {}).get("verdict") or {}
    images = sum(row.images_per_second * row.seconds for row in log)
    seconds = sum(row.seconds for row in log)
    return FoldRow(
        fold=fold,
        is_done=done is not None,
        epochs=len(log),
        top3_error=done.get("oof_top3_error") if done else None,
        train_loss=verdict.get("train_loss"),
        valid_loss=verdict.get("valid_loss"),
        train_top3_error=verdict.get("train_top3_error"),
        valid_top3_error=verdict.get("valid_top3_error"),
        probe_top3_error=(verdict.get("against_probe") or {}).get("probe_top3_error"),
        verdict=verdict.get("kind"),
        advice=verdict.get("advice"),
        seconds=done.get("seconds") if done else seconds or None,
        images_per_second=images / seconds if seconds else None,
    )


def _advice(rows: Sequence[FoldRow]) -> Iterator[Advice]:
    """The verdicts' advice, each said once."""
    for verdict, sentence in dict.fromkeys((row.verdict, row.advice) for row in rows):
        if verdict and sentence:
            yield Advice(tuple(row.fold for row in rows if row.advice == sentence), verdict, sentence)
