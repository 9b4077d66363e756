"""Makes a member out of columns: for each fold trees that are fitted to the other folds, as networks are trained."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from ensemble.columns.boosting import fit_table_model
from ensemble.columns.read_cells import TABLE_HINT
from ensemble.columns.table import Table, read_table
from ensemble.members.add_member import as_predictions, refuse_taken, store_member
from ensemble.members.oof_file import file_digest
from ensemble.settings import TableSettings
from folds.base.errors import UserError
from folds.base.metrics import log_loss, topk_error
from folds.base.progress import Track, silently
from folds.base.terminal import duration, figures
from folds.base.workspace import Workspace, digest, read_json
from folds.split.assign import Folds, load_folds
from models.predict.predictions import load_predictions, save_predictions


@dataclass(frozen=True)
class TableResult:
    """A member that was made of columns. seconds: of all fits; None where it was there and nothing was to be done.

    scores  out-of-fold `top3_error` and `log_loss` of the member, and of the shares of the classes alone (`prior_..`)
    """

    name: str
    folder: Path
    table: Table
    scores: dict[str, float]
    images: int
    seconds: float | None


def add_table(
    workspace: Workspace, csvs: Sequence[Path], settings: TableSettings, *, seed: int, track: Track = silently
) -> TableResult:
    """Fit the trees of every fold and store their predictions as member `settings.name`; what is done is kept.

    Raises UserError as `read_table` does, or where the name is that of a trained run.
    """
    refuse_taken(workspace, settings.name, hint=TABLE_HINT)
    folds = load_folds(workspace)
    table = read_table(workspace, folds, csvs, settings, seed=seed)
    folder, made_of = workspace.members / settings.name, _digest(table, folds, settings, seed=seed)
    done = _done(folder, made_of)
    if done is not None:
        return TableResult(settings.name, folder, table, done["scores"], len(folds.image_id), None)
    start = time.perf_counter()
    kept = folder / ".folds" / made_of  # other columns or settings: another folder, and those of this one are of no use
    oof = np.empty((len(folds.image_id), len(folds.classes)))
    test = np.zeros((len(table.test_id), len(folds.classes)))
    each = -(-len(oof) // folds.n_folds)
    for fold in track(range(folds.n_folds), what=settings.name, total=len(oof), each=each):
        oof[folds.fold == fold], tested = _fold_probs(kept / f"fold{fold}", fold, table, folds, settings, seed=seed)
        test += tested / folds.n_folds  # networks are averaged as probabilities too
    scores = _scores(oof, folds)
    kinds = {one.name: one.kind for one in table.columns}
    record = {"made_of": made_of, "columns": kinds, "scores": scores}
    store_member(folder, folds, oof, table.test_id, test, record, warnings=table.warnings)
    shutil.rmtree(kept.parent, ignore_errors=True)
    return TableResult(settings.name, folder, table, scores, len(oof), time.perf_counter() - start)


def table_summary(result: TableResult) -> Group:
    """One row per column, then the scores and what is to be said."""
    numbers = ("values", "missing, train", "test", "train/test AUC")
    grid = figures(None, texts=("column", "taken for"), numbers=numbers)
    for column in result.table.columns:
        auc = result.table.aucs.get(column.name)
        missing = ("", "") if column.is_left_out else (f"{count:,}" for count in column.missing)
        grid.add_row(
            Text(column.name), Text(column.kind), f"{column.n_values:,}", *missing, f"{auc[0]:.2f}" if auc else ""
        )
    counts = f"{result.images:,} out-of-fold and {len(result.table.test_id):,} test images"
    how = "unchanged, nothing to do" if result.seconds is None else f"in {duration(result.seconds)}"
    return Group(
        grid,
        *(Text(f"note: {note}") for note in result.table.notes),
        *(Text(f"warning: {warning}") for warning in result.table.warnings),
        Text(f"{result.name}: {counts}, {how}; in {result.folder}"),
        Text(score_sentence(result)),
    )


def score_sentence(result: TableResult) -> str:
    """The errors out of fold, beside those of the classes' shares alone."""
    scores = result.scores
    useless = "" if scores["log_loss"] < scores["prior_log_loss"] else ": these columns teach nothing"
    return (
        f"{result.name}: OOF top-3 error {scores['top3_error']:.4f}, log loss {scores['log_loss']:.4f}"
        f" ({scores['prior_top3_error']:.4f} and {scores['prior_log_loss']:.4f} by the shares of the classes){useless}"
    )


def _fold_probs(
    kept: Path, fold: int, table: Table, folds: Folds, settings: TableSettings, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the fold's images and of the test images, by trees that have not seen them; kept in a folder."""
    own, files = folds.fold == fold, (kept / "oof.npz", kept / "test.npz")
    if not all(file.is_file() for file in files):
        model = fit_table_model(
            table.train[~own],
            folds.target[~own],
            folds.group[~own],
            settings,
            is_category=table.is_category,
            n_classes=len(folds.classes),
            seed=seed,
        )
        for file, image_id, values in zip(
            files, (folds.image_id[own], table.test_id), (table.train[own], table.test), strict=True
        ):
            save_predictions(file, as_predictions(image_id, model.probs(values), folds))
    oof, test = (load_predictions(file, hint=f"remove {kept}") for file in files)
    return oof.probs(), test.probs()


def _scores(oof: np.ndarray, folds: Folds) -> dict[str, float]:
    target = folds.target
    prior = np.tile(np.bincount(target) / len(target), (len(target), 1))
    return {
        "top3_error": float(topk_error(oof, target)),
        "log_loss": log_loss(oof, target),
        "prior_top3_error": float(topk_error(prior, target)),
        "prior_log_loss": log_loss(prior, target),
    }


def _digest(table: Table, folds: Folds, settings: TableSettings, *, seed: int) -> str:
    """Of all that the predictions depend on."""
    numbers = settings.rounds, settings.learning_rate, settings.leaves, settings.l2
    facts = [seed, folds.digest, version("scikit-learn"), *numbers, table.is_category.tolist(), table.test_id.tolist()]
    return digest(repr(facts).encode() + table.train.tobytes() + table.test.tobytes())


def _done(folder: Path, made_of: str) -> dict[str, Any] | None:
    """The record of the member that is there, if it is the same and whole."""
    try:
        record: dict[str, Any] = read_json(folder / "done.json", hint="")
    except UserError:
        return None
    is_same = record.get("made_of") == made_of
    whole = is_same and all(
        (folder / file).is_file() and file_digest(folder / file) == expected
        for file, expected in record["files"].items()
    )
    return record if whole else None
