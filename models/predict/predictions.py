"""The format of `oof.npz` and `test.npz`: log-probabilities per view, with ids and classes. It needs no torch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.base.errors import UserError, first_few
from folds.base.workspace import write_bytes

PIECE = 2048  # rows that are checked at a time: a whole copy would be 4 GB for 1,000,000 images of 500 classes, 2 views
ROW_SUM_TOLERANCE = 1e-3  # how far a row of probabilities may be from 1, here and in every member


@dataclass(frozen=True)
class Predictions:
    """What one network predicts for n images under V views.

    image_id   (n,) str, distinct         classes       (C,) str in target order
    views      (V,) str                   folds_digest  of the folds.csv that the network was trained with
    log_probs  (n, V, C) float32, finite; exp of a row sums to 1
    """

    image_id: np.ndarray
    classes: np.ndarray
    views: np.ndarray
    log_probs: np.ndarray
    folds_digest: str

    def probs(self, views: Sequence[str] | None = None) -> np.ndarray:
        """(n, C) float32: the named views (all by default) averaged as probabilities, as everywhere in the kit."""
        names = [str(view) for view in self.views]
        lacking = [view for view in views or () if view not in names]
        if lacking:
            raise UserError(
                f"there is no view {first_few(lacking)} in these predictions; they have {', '.join(names)}",
                hint=f"`python run.py predict --views {','.join([*names, *lacking])}`",
            )
        rows = [names.index(view) for view in (views or names)]
        return average_views(self.log_probs, rows)


def average_views(log_probs: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """The views at these places averaged as probabilities: (n, V, C) -> (n, C) float32, no copy of all views made."""
    probs: np.ndarray = np.exp(log_probs[:, places[0]])
    for view in places[1:]:
        probs += np.exp(log_probs[:, view])
    probs /= np.float32(len(places))
    return probs


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write an uncompressed npz without pickles; the same predictions are the same bytes."""
    fault = _fault(predictions)
    assert fault is None, fault
    buffer = io.BytesIO()
    np.savez(
        buffer,
        image_id=predictions.image_id.astype(str),
        classes=predictions.classes.astype(str),
        views=predictions.views.astype(str),
        log_probs=np.ascontiguousarray(predictions.log_probs, dtype=np.float32),  # so that it can be read by rows
        folds_digest=np.array(predictions.folds_digest),
    )
    write_bytes(path, buffer.getvalue())


def load_predictions(path: Path, *, hint: str) -> Predictions:
    """Read and check predictions. Raises UserError, with `hint`, where the file is absent, damaged or inconsistent."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image_id, classes, views, log_probs = (
                arrays[name] for name in ("image_id", "classes", "views", "log_probs")
            )
            predictions = Predictions(image_id, classes, views, log_probs, str(arrays["folds_digest"]))
    except FileNotFoundError as err:
        raise UserError(f"{path} does not exist", hint=hint) from err
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as err:
        raise UserError(f"{path} is damaged: {err}", hint=hint) from err
    fault = _fault(predictions)
    if fault:
        raise UserError(f"{path} is not usable: {fault}", hint=hint)
    return predictions


def _fault(predictions: Predictions) -> str | None:
    """What is wrong with the arrays, in one clause; None if nothing is."""
    n, n_views, n_classes = len(predictions.image_id), len(predictions.views), len(predictions.classes)
    if predictions.log_probs.shape != (n, n_views, n_classes):
        return f"log_probs has shape {predictions.log_probs.shape}, not {(n, n_views, n_classes)}"
    if n_views == 0 or n_classes == 0:
        return "it has no views or no classes"
    ids, count = np.unique(predictions.image_id, return_counts=True)
    if (count > 1).any():
        return f"it has the id {first_few(list(ids[count > 1]))} twice"
    pieces = [predictions.log_probs[start : start + PIECE] for start in range(0, n, PIECE)] or [predictions.log_probs]
    bad = np.concatenate([~np.isfinite(piece).all(axis=(1, 2)) for piece in pieces])
    if bad.any():
        return f"{first_few(list(predictions.image_id[bad]))} has NaN or infinite log-probabilities"
    away = np.concatenate([np.abs(np.exp(piece).sum(axis=2) - 1).max(axis=1, initial=0) for piece in pieces])
    off = away > ROW_SUM_TOLERANCE
    if off.any():
        return f"the probabilities of {first_few(list(predictions.image_id[off]))} do not sum to 1"
    return None
