"""Lets a run's out-of-fold predictions decide whether the class prior that sampling shifted is undone.

Theory says undo it (Saerens et al. 2002), so it stays undone unless the shifted prior has the lower top-3 error by more
than one standard error of the paired difference. It needs no torch: the stored log-probabilities hold either variant,
and the other one is a vector away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from folds.base.errors import UserError
from folds.base.metrics import true_rank
from folds.base.paired import paired_difference
from folds.base.workspace import Workspace, digest, read_json, write_bytes, write_json
from folds.split.assign import Folds
from models.input.sampling import expected_repeats, prior_correction
from models.predict.predictions import Predictions, load_predictions, predictions_bytes
from models.runs import done_folds, done_refit
from models.watch.events import PriorChoice

PIECE = 4096  # rows


def choose_prior(workspace: Workspace, run: str, folds: Folds) -> PriorChoice | None:
    """Choose between the restored and the shifted prior, and make every file of the run say what was chosen.

    None where there is nothing to choose: a fold is not done, the settings decide, or sampling shifted nothing. Once
    chosen it stays, until a fold is trained or predicted again. A refit on all images follows its folds.
    Raises UserError where a file is not the one that `done.json` describes.
    """
    done = done_folds(workspace, run)
    if not done.keys() >= set(range(folds.n_folds)):
        return None
    settings = read_json(workspace.fold(run, 0) / "settings.json", hint="`python run.py train`").get("settings", {})
    if settings.get("restore_prior") != "oof" or not settings.get("sampling_power"):
        return None
    parts = [_part(workspace.fold(run, k), done[k], folds, folds.fold != k, settings) for k in range(folds.n_folds)]
    refit = done_refit(workspace, run)
    whole = (
        [] if refit is None else [_part(workspace.refit(run), refit, folds, np.full(len(folds.fold), True), settings)]
    )
    choice = _chosen_before(run, parts) or _choose(run, [_heal(part, folds) for part in parts], folds)
    for part in parts + whole:
        _follow(_heal(part, folds), choice, folds)
    return choice


@dataclass(frozen=True)
class _Part:
    """One network's folder: what its done.json says, and what its sampling added to the logits. correction (C,)"""

    folder: Path
    done: Mapping[str, Any]
    correction: np.ndarray

    @property
    def is_restored(self) -> bool:
        return bool(self.done.get("prior_restored", True))

    @property
    def hint(self) -> str:
        return f"`python run.py predict --run {self.folder.parent.name}`"

    def load(self, file: str, known: str) -> Predictions:
        """The predictions, if the file is the one with the known digest."""
        path = self.folder / file
        if not path.is_file() or digest(path.read_bytes()) != known:
            raise UserError(f"{path} is absent or damaged, it is not the file that was written", hint=self.hint)
        return load_predictions(path, hint=self.hint)


def _part(
    folder: Path, done: Mapping[str, Any], folds: Folds, in_training: np.ndarray, settings: Mapping[str, Any]
) -> _Part:
    target = folds.target[in_training]
    repeats = expected_repeats(target, power=settings["sampling_power"], most=settings["max_repeats"])
    return _Part(folder, done, prior_correction(target, repeats, n_classes=len(folds.classes)))


def _chosen_before(run: str, parts: list[_Part]) -> PriorChoice | None:
    """The choice that all folds record, if they do."""
    recorded = [part.done.get("prior_choice") for part in parts]
    if recorded[0] is None or any(one != recorded[0] for one in recorded):
        return None
    return PriorChoice(run=run, **recorded[0])


def _choose(run: str, parts: list[_Part], folds: Folds) -> PriorChoice:
    """Hold both variants of the out-of-fold predictions against the labels."""
    restored, shifted = np.full((2, len(folds.target)), np.nan)
    for part in parts:
        stored = part.load("oof.npz", part.done["files"]["oof.npz"])
        place = _places(stored, folds)
        other = _with_prior(stored, part, restored=not part.is_restored)
        misses = [true_rank(one.probs(), folds.target[place]) >= 3 for one in (stored, other)]
        restored[place], shifted[place] = misses if part.is_restored else misses[::-1]
    assert not np.isnan(restored).any(), f"{run}: an image has no out-of-fold prediction"
    difference = paired_difference(restored, shifted, folds.group)
    return PriorChoice(
        run=run,
        restored_error=float(restored.mean()),
        shifted_error=float(shifted.mean()),
        difference=difference.mean,
        low=difference.low,
        high=difference.high,
        kept="shifted" if difference.is_above_error else "restored",
    )


def _places(stored: Predictions, folds: Folds) -> np.ndarray:
    """Where the predicted images stand in folds.csv, which is sorted by id. (n,) int"""
    place = np.minimum(np.searchsorted(folds.image_id, stored.image_id), len(folds.image_id) - 1)
    assert (folds.image_id[place] == stored.image_id).all(), "predictions of images that are not in the folds"
    return place


def _with_prior(stored: Predictions, part: _Part, *, restored: bool) -> Predictions:
    """The same predictions with the prior undone, or shifted again; every view sums to 1 by itself."""
    shift = part.correction if restored else -part.correction
    log_probs = np.empty_like(stored.log_probs)  # (n, V, C)
    for start in range(0, len(log_probs), PIECE):
        logits = stored.log_probs[start : start + PIECE] + shift
        logits -= logits.max(axis=2, keepdims=True)
        log_probs[start : start + PIECE] = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    return Predictions(stored.image_id, stored.classes, stored.views, log_probs, stored.folds_digest)


def _follow(part: _Part, choice: PriorChoice, folds: Folds) -> None:
    """Bring a folder to what was chosen, and let a fold's done.json record the choice."""
    restored = choice.kept == "restored"
    if part.is_restored != restored:
        part = _rewrite(part, folds, restored=restored)
    recorded = {key: value for key, value in asdict(choice).items() if key != "run"}
    if "oof.npz" in part.done["files"] and part.done.get("prior_choice") != recorded:
        write_json(part.folder / "done.json", {**part.done, "prior_restored": restored, "prior_choice": recorded})


def _heal(part: _Part, folds: Folds) -> _Part:
    """End what was killed in the middle of `_rewrite`."""
    return (
        _rewrite(part, folds, restored=part.done["rewriting"]["prior_restored"]) if "rewriting" in part.done else part
    )


def _rewrite(part: _Part, folds: Folds, *, restored: bool) -> _Part:
    """Replace the predictions of a folder by those of the other variant.

    done.json first says which bytes each file is to have, so that after a kill every file is known by its digest as old
    or new, and none is changed twice; only the last writing of done.json makes the new files count.
    """
    files: dict[str, str] = dict(part.done["files"])
    ahead: dict[str, str] = part.done.get("rewriting", {}).get("files", {})
    new = {}
    for file in sorted({"oof.npz", "test.npz"} & files.keys()):
        now = digest((part.folder / file).read_bytes()) if (part.folder / file).is_file() else None
        if now is None or now != ahead.get(file):
            new[file] = predictions_bytes(_with_prior(part.load(file, files[file]), part, restored=restored))
    files |= ahead | {file: digest(data) for file, data in new.items()}
    begun = {
        "prior_restored": restored,
        "files": {file: files[file] for file in ("oof.npz", "test.npz") if file in files},
    }
    write_json(part.folder / "done.json", {**part.done, "rewriting": begun})
    for file, data in new.items():
        write_bytes(part.folder / file, data)
    kept = {key: value for key, value in part.done.items() if key not in ("rewriting", "prior_choice")}
    done = {**kept, "prior_restored": restored, "files": files, **_oof_error(part, folds, files)}
    write_json(part.folder / "done.json", done)
    return _Part(part.folder, done, part.correction)


def _oof_error(part: _Part, folds: Folds, files: Mapping[str, str]) -> dict[str, float]:
    """The fold's out-of-fold top-3 error as it is now, by its name in done.json; nothing for a refit."""
    if "oof.npz" not in files:
        return {}
    stored = part.load("oof.npz", files["oof.npz"])
    return {"oof_top3_error": float((true_rank(stored.probs(), folds.target[_places(stored, folds)]) >= 3).mean())}
