"""Makes a member out of columns: for each fold trees that are fitted to the other folds, as networks are trained.

They are gradient-boosted, and made to give calibrated probabilities of all classes.

Settings measured on 5,500 images of made-up columns (place, camera, hour, month, size; of 103 classes the largest is 65
times the smallest) and on folds 0 to 2 of Caltech-101 with the manifest's columns; seed 0, scikit-learn 1.9.1:

    rate, leaves, L2             0.2,7,10   0.2,5,10   0.2,4,3   0.2,4,10   0.2,4,30   0.2,3,10
    made-up, log loss             1.924      1.895      1.885     1.874      1.876      1.847
    processor seconds of the fit   4.7        4.9        2.9       5.2        9.5        6.2
    Caltech-101, log loss         2.745      2.730      2.732     2.724        -        2.717

On another 6,000 made-up images scikit-learn's defaults (0.1, 31 leaves, L2 0) ended in a loss of 5.4, and with L2 1 in
2.0: single leaves of rare classes diverge. Three leaves are as good and take a third more rounds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.text import Text

from ensemble.columns.table import TABLE_HINT, Table, read_table
from ensemble.members.add_member import as_predictions, oof_scores, refuse_taken, score_sentence, store_member
from ensemble.members.oof_file import file_digest
from ensemble.settings import TableSettings
from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.terminal import duration, figures
from folds.base.workspace import Workspace, digest, read_json
from folds.split.assign import Folds, load_folds, stratified_group_folds
from models.predict.predictions import load_predictions, save_predictions

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

HELD_FOLDS = 10  # one of so many parts of the training part stops the trees and calibrates them
PATIENCE = 5  # rounds without a lower loss on that part, and no more trees are added
LEAST_PROB = 1e-12  # of the trees, before a logarithm
PRIOR_SHARE = 1e-3  # of every prediction: no class gets a probability of 0, not even one that the trees have never seen
TEMPERATURES = (0.25, 8.0)  # between which the one of the least loss is looked for


@dataclass(frozen=True)
class TableResult:
    """A member that was made of columns. seconds: of all fits; None where it was there and nothing was to be done.

    scores  as `oof_scores` says
    """

    folder: Path
    table: Table
    scores: dict[str, float]
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
        return TableResult(folder, table, done["scores"], None)
    start = time.perf_counter()
    kept = folder / ".folds" / made_of  # other columns or settings: another folder, and those of this one are of no use
    oof = np.empty((len(folds.image_id), len(folds.classes)))
    test = np.zeros((len(table.test_id), len(folds.classes)))
    each = -(-len(oof) // folds.n_folds)
    for fold in track(range(folds.n_folds), what=settings.name, total=len(oof), each=each):
        oof[folds.fold == fold], tested = _fold_probs(kept / f"fold{fold}", fold, table, folds, settings, seed=seed)
        test += tested / folds.n_folds  # networks are averaged as probabilities too
    scores = oof_scores(oof, folds)
    kinds = {one.name: one.kind for one in table.columns}
    record = {"made_of": made_of, "columns": kinds, "scores": scores, "warnings": list(table.warnings)}
    store_member(folder, folds, oof, table.test_id, test, record)
    shutil.rmtree(kept.parent, ignore_errors=True)
    return TableResult(folder, table, scores, time.perf_counter() - start)


def table_summary(result: TableResult) -> Group:
    """One row per column, then the scores and what is to be said."""
    table, numbers = result.table, ("values", "missing, train", "test", "train/test AUC")
    grid = figures(None, texts=("column", "taken for"), numbers=numbers)
    for one in table.columns:
        auc = table.aucs.get(one.name)
        missing = ("", "") if one.is_left_out else (f"{count:,}" for count in one.missing)
        grid.add_row(Text(one.name), Text(one.kind), f"{one.n_values:,}", *missing, f"{auc[0]:.2f}" if auc else "")
    counts = f"{len(table.train):,} out-of-fold and {len(table.test):,} test images"
    how = "unchanged, nothing to do" if result.seconds is None else f"in {duration(result.seconds)}"
    return Group(
        grid,
        *(Text(f"note: {note}") for note in table.notes),
        *(Text(f"warning: {warning}") for warning in table.warnings),
        Text(f"{result.folder.name}: {counts}, {how}; in {result.folder}"),
        Text(score_sentence(result.folder.name, result.scores, if_useless="these columns teach nothing")),
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
        parts = (folds.image_id[own], table.train[own]), (table.test_id, table.test)
        for file, (image_id, values) in zip(files, parts, strict=True):
            save_predictions(file, as_predictions(image_id, model.probs(values), folds))
    oof, test = (load_predictions(file, hint=f"remove {kept}") for file in files)
    return oof.probs(), test.probs()


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
    if record.get("made_of") != made_of:
        return None
    files = {folder / file: known for file, known in record["files"].items()}
    return record if all(path.is_file() and file_digest(path) == known for path, known in files.items()) else None


@dataclass(frozen=True)
class TableModel:
    """The trees of one fold, and what calibrates them. trees: None where there are too few images, and the prior is all

    targets (c,) int64: the classes that the trees know    prior (C,) float64: shares of the classes, none of them 0
    """

    trees: HistGradientBoostingClassifier | None
    targets: np.ndarray
    prior: np.ndarray
    temperature: float = 1.0

    def probs(self, values: np.ndarray) -> np.ndarray:
        """Probabilities of all classes, none of them 0. (n, D) float64 -> (n, C) float64"""
        if self.trees is None or not len(values):
            return np.tile(self.prior, (len(values), 1))
        return self._calibrated(_log_probs(self.trees, values))

    def _calibrated(self, log_probs: np.ndarray) -> np.ndarray:
        """(n, c) of the trees' classes -> (n, C)"""
        odds = np.exp(log_probs / self.temperature)
        probs = np.tile(PRIOR_SHARE * self.prior, (len(log_probs), 1))
        probs[:, self.targets] += (1 - PRIOR_SHARE) * odds / odds.sum(axis=1, keepdims=True)
        return probs


def fit_table_model(
    values: np.ndarray,
    target: np.ndarray,
    group: np.ndarray,
    settings: TableSettings,
    *,
    is_category: np.ndarray,
    n_classes: int,
    seed: int,
) -> TableModel:
    """Fit trees to the training part of a fold. One thread: threads add up in any order, and the last digits differ.

    values (n, D) float64, NaN where missing; codes of 0 to 254 where is_category (D,)    target (n,) int64 in [0, C)
    group  (n,) int64: images of one number are held out together
    A tenth of the images is held out: it says when to stop, and which temperature has the least loss.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    prior = (np.bincount(target, minlength=n_classes) + 1.0) / (len(target) + n_classes)
    held = held_part(target, group, seed=seed)
    targets = np.unique(target[~held])
    if not held.any() or len(targets) < 2:
        return TableModel(None, targets, prior)
    trees = HistGradientBoostingClassifier(
        max_iter=settings.rounds,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.leaves,
        l2_regularization=settings.l2,
        categorical_features=is_category,
        early_stopping=True,
        n_iter_no_change=PATIENCE,
        random_state=seed,
    )
    with threadpool_limits(1):
        trees.fit(values[~held], target[~held], X_val=values[held], y_val=target[held])
        log_probs = _log_probs(trees, values[held])

    def loss(log_temperature: float) -> float:
        model = TableModel(trees, targets, prior, float(np.exp(log_temperature)))
        return -float(np.log(model._calibrated(log_probs)[np.arange(held.sum()), target[held]]).mean())

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return TableModel(trees, targets, prior, float(np.exp(best.x)))


def held_part(target: np.ndarray, group: np.ndarray, *, seed: int) -> np.ndarray:
    """Which images stop the trees: a tenth of each class, copies together, and no class that is then gone. (n,) bool"""
    n_folds = min(HELD_FOLDS, len(np.unique(group)))
    held = stratified_group_folds(target, group, n_folds=n_folds, seed=seed) == 0
    return held & np.isin(target, target[~held])


def _log_probs(trees: HistGradientBoostingClassifier, values: np.ndarray) -> np.ndarray:
    """(n, D) -> (n, c) float64"""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return np.log(np.maximum(trees.predict_proba(values), LEAST_PROB))
