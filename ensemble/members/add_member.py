"""Checks predictions of another tool and stores them in the work folder as one more member."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.members.external import External, read_external, refuse_repeated
from ensemble.members.oof_file import file_digest
from ensemble.settings import AddSettings
from ensemble.weights.recipe import softmax
from folds.base.errors import UserError, counted, first_few
from folds.base.metrics import log_loss, topk_error
from folds.base.workspace import Workspace, write_json
from folds.find.listing import Lookup
from folds.manifest.manifest import read_manifest, usable_rows
from folds.split.assign import Folds, load_folds
from models.predict.predictions import ROW_SUM_TOLERANCE, Predictions, save_predictions
from models.runs import refuse_name

RENORMALISED = 1e-2  # rows whose sum is off by more than 0.001 and less than this are divided by it, and counted
ROUNDED = 0.1  # numbers of two decimals, of a hundred classes, have sums that are off by up to about this
NEARLY_ALL = 0.95  # where so many rows have one sum, whichever, they are probabilities times something, and no logits
LEAST_PROB = 1e-37  # the logarithm of 0 is not finite; all zeros of a row still tie


@dataclass(frozen=True)
class AddResult:
    """A member that was added. is_replaced: whether one of that name was there with other contents.

    scores  as `oof_scores` says
    """

    name: str
    folder: Path
    images: int
    test_images: int
    scores: Mapping[str, float]
    warnings: tuple[str, ...]
    is_replaced: bool


def add_member(workspace: Workspace, name: str, settings: AddSettings, *, beside: Sequence[str] = ()) -> AddResult:
    """Check predictions of another tool and store them as member `name` in `work/ensemble/members/`.

    beside  the files of other members, which hold what `--logits` says of all files
    An image may have another name in the files, as `Lookup` finds it: `img_7` for `s0/img_7.png` where no other has it.
    Raises UserError naming the first ids, classes or rows that are missing, unknown, not finite or no probabilities.
    """
    hint = "`python run.py add NAME --oof FILE --test FILE`"
    refuse_taken(workspace, name, hint=hint)
    if not settings.oof or not settings.test:
        raise UserError(f"{name} needs both files", hint=f"`python run.py add {name} --oof FILE --test FILE`")
    folds = load_folds(workspace)
    oof = _read(settings.oof, settings.oof_ids, settings, folds)
    test = _read(settings.test, settings.test_ids, settings, folds)
    if workspace.manifest.is_file():
        images = read_manifest(workspace)
        test_id = np.sort(usable_rows(images, split="test")["image_id"].to_numpy(str))
    else:  # a blend of files alone
        images = pd.DataFrame({"image_id": folds.image_id, "path": folds.path, "split": "train"})
        test_id = np.sort(test.image_id)
    oof_rows, oof_unused = _joined(oof, folds.image_id, images[images["split"] == "train"])
    fold = None if oof.fold is None else oof.fold[oof_rows]
    warnings = _check_folds(name, fold, folds, trust=settings.trust_folds)
    if not workspace.manifest.is_file():
        warnings = []  # the folds of a blend of files only cross-fit it
    test_rows, test_unused = _joined(test, test_id, images[images["split"] == "test"])
    oof_probs, oof_sums = _as_probs(oof, folds, logits=settings.logits, beside=beside)
    test_probs, test_sums = _as_probs(test, folds, logits=settings.logits, beside=[*beside, settings.oof])
    warnings += [*oof_unused, *test_unused, *oof_sums, *test_sums]
    folder = workspace.members / name
    record, done = {"trust_folds": settings.trust_folds, "warnings": warnings}, folder / "done.json"
    before = done.read_bytes() if done.is_file() else None  # it has the digests of the other files
    oof_probs = oof_probs[oof_rows]
    store_member(folder, folds, oof_probs, test_id, test_probs[test_rows], record)
    is_replaced, scores = before not in (None, done.read_bytes()), oof_scores(oof_probs, folds)
    return AddResult(name, folder, len(folds.image_id), len(test_id), scores, tuple(warnings), is_replaced)


def oof_scores(oof: np.ndarray, folds: Folds) -> dict[str, float]:
    """`top3_error` and `log_loss` out of fold, and those of the shares of the classes alone (`prior_..`). oof (N, C)"""
    shares = np.tile(np.bincount(folds.target) / len(oof), (len(oof), 1))
    return {
        "top3_error": topk_error(oof, folds.target),
        "log_loss": log_loss(oof, folds.target),
        "prior_top3_error": topk_error(shares, folds.target),
        "prior_log_loss": log_loss(shares, folds.target),
    }


def score_sentence(name: str, scores: Mapping[str, float], *, if_useless: str) -> str:
    """The errors of `oof_scores` in a line. if_useless: what to say where the shares of the classes do as well"""
    useless = "" if scores["log_loss"] < scores["prior_log_loss"] else f": {if_useless}"
    return (
        f"{name}: OOF top-3 error {scores['top3_error']:.4f}, log loss {scores['log_loss']:.4f}"
        f" ({scores['prior_top3_error']:.4f} and {scores['prior_log_loss']:.4f} by the shares of the classes){useless}"
    )


def refuse_taken(workspace: Workspace, name: str, *, hint: str) -> None:
    """Refuse a name that a member cannot have, or that a trained run has."""
    refuse_name(name, what="member", hint=hint)
    if (workspace.models / name).exists():
        raise UserError(f"`{name}` is a trained run", hint=hint)


def _read(file: str, ids: str | None, settings: AddSettings, folds: Folds) -> External:
    """A file with exactly the classes of the folds, in any order, and distinct ids."""
    made = read_external(
        Path(file),
        ids=Path(ids) if ids else None,
        class_names=Path(settings.class_names) if settings.class_names else None,
        known_classes=folds.classes,
    )
    odd = sorted(set(made.classes) ^ set(folds.classes))
    if odd or len(made.classes) != len(folds.classes):
        raise UserError(f"{made.path.name} and the folds do not have the same classes: {first_few(odd)}")
    refuse_repeated(made.image_id, name=made.path.name)
    if not len(made.image_id):
        raise UserError(f"{made.path.name} has no rows")
    return made


def _joined(made: External, image_id: np.ndarray, images: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """The row of each id, and a note of those that name no image. Refuses gaps, and ids that may mean several images.

    images  columns image_id and path of all images that the file may name
    """
    ids = made.image_id
    rows = pd.Index(ids).get_indexer(image_id)  # -1: it has none
    if (rows < 0).any():
        ids = _known_ids(made, images)
        rows = pd.Index(ids).get_indexer(image_id)
    gaps = image_id[rows < 0]
    if len(gaps):
        raise UserError(
            f"{made.path.name} has no row for {len(gaps):,} of {len(image_id):,} images: {first_few(list(gaps))}",
            hint=f"its own ids look like {made.image_id[0]}",
        )
    strange = np.setdiff1d(ids, [*image_id, *images["image_id"]])
    count = counted(len(strange), "row", "rows")
    note = f"{made.path.name} has {count} of images that are not known here: {first_few(strange.tolist())}"
    return rows, [note] if len(strange) else []


def _known_ids(made: External, images: pd.DataFrame) -> np.ndarray:
    """The ids of the file's rows as the manifest has them; what names no image stays as it is. (n,) str"""
    lookup, known = Lookup.of_images(images["image_id"], images["path"]), dict[str, str]()
    for text in made.image_id.tolist():
        try:
            file = lookup.find(text)
        except UserError as err:
            hint = "an id is the image's path as in manifest.csv, or a shorter one that no other image has"
            raise UserError(f"{made.path.name}: {err.message}", hint=hint) from err
        image_id = lookup.ids[file.path] if file else text
        if (other := known.setdefault(image_id, text)) != text:
            raise UserError(f"{made.path.name} has two rows of {image_id}: {other} and {text}")
    return np.array(list(known))


def _as_probs(made: External, folds: Folds, *, logits: bool, beside: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Probabilities in target order, (n, C) float64, and a note where rows were divided by their sum.

    beside  the files that were taken before, which hold what `logits` says
    Raises UserError where a row is not finite or no probabilities, or where the file holds them and not logits.
    """
    values, file = made.values[:, [made.classes.index(label) for label in folds.classes]], made.path.name
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise UserError(f"{file} has NaN or infinity for {first_few(made.image_id[bad].tolist())}")
    sums, is_negative = values.sum(axis=1), (values < 0).any(axis=1)
    off, usual = np.abs(sums - 1), float(np.quantile(sums, 0.5, method="lower"))
    bad = is_negative | (off > RENORMALISED)
    are_scaled = abs(usual - 1) > RENORMALISED and usual > 0
    are_scaled &= bool(np.isclose(sums, usual, rtol=RENORMALISED, atol=0).mean() > NEARLY_ALL)
    are_rounded = off.max() <= ROUNDED
    are_off = bad.mean() > 0.5  # of real logits all rows are bad; of two classes not one in 450
    are_sigmoids = are_off and values.min() >= 0 and values.max() <= 1
    are_shares = not is_negative.any() and (are_scaled or are_rounded or are_sigmoids)
    are_logits = are_off and not are_shares
    others = f"all files must be of one kind, and {first_few(beside)} {'holds' if len(beside) == 1 else 'hold'}"
    if logits and not are_logits:
        hint = f"{others} logits: leave out `--logits`, and turn those into probabilities by a softmax of each row"
        alike = ~is_negative & np.isclose(sums, usual, rtol=2 * ROUNDED)
        why = f"in {alike.sum():,} of its {len(bad):,} rows no number is negative and the sum is about {usual:.3g}"
        if are_sigmoids and not are_scaled:
            why = "all numbers lie between 0 and 1"
        raise UserError(
            f"{file} holds probabilities, not logits: {why}",
            hint=hint if beside else "leave out `--logits`: it holds for all files",
        )
    if logits:
        return softmax(values), []
    if bad.any():
        fault, way_out = "negative, or a sum far from 1", None
        if are_shares:
            span = dict.fromkeys(f"{one:.3g}" for one in (sums[bad].min(), sums[bad].max()))
            fault = f"no number is negative, but the sum is {' to '.join(span)}, not 1"
            way_out = "divide each row by its sum" + (", or save more decimals" if are_rounded else "")
        elif are_logits:
            where = f"{others} probabilities" if beside else "`--logits` where all files hold logits"
            way_out = f"{where}; if only these are logits, turn them into probabilities by a softmax of each row"
        raise UserError(
            f"{file} holds no probabilities for {first_few(made.image_id[bad].tolist())}: {fault}", hint=way_out
        )
    uneven = int((off > ROW_SUM_TOLERANCE).sum())
    notes = [f"{uneven:,} rows of {file} had a sum up to {off.max():.4f} from 1 and were divided by it"]
    return values / values.sum(axis=1, keepdims=True), notes if uneven else []


def _check_folds(name: str, fold: np.ndarray | None, folds: Folds, *, trust: bool) -> list[str]:
    """Refuse predictions that are not known to be out of these folds; a warning where the user says that they are.

    fold (N,) int: what the file says, rows as in `folds.csv`; None: nothing
    """
    if fold is not None:
        pairs = {*zip(fold.tolist(), folds.fold.tolist(), strict=True)}
        if len(pairs) == folds.n_folds == len(np.unique(fold)):
            return []
    if trust:
        return ["its folds are trusted, not known to be those of this work folder"]
    fault = "does not say on which folds it was made" if fold is None else "was made on other folds"
    raise UserError(
        f"{name} {fault}", hint="`--trust-folds` if every row was predicted by a model that had not seen its image"
    )


def as_predictions(image_id: np.ndarray, probs: np.ndarray, folds: Folds) -> Predictions:
    """Probabilities (n, C), in target order, as a member's files hold them."""
    log_probs = np.log(np.maximum(probs, LEAST_PROB)).astype(np.float32)[:, None]  # (n, 1, C)
    return Predictions(image_id, np.array(folds.classes), np.array(["as-given"]), log_probs, folds.digest)


def store_member(
    folder: Path,
    folds: Folds,
    oof: np.ndarray,
    test_id: np.ndarray,
    test: np.ndarray,
    record: Mapping[str, Any],
) -> None:
    """Write the member's files, `done.json` last; what was there before is replaced once all of them are written.

    oof (N, C), test (T, C): probabilities in target order, rows as in `folds.csv` and as in test_id (T,) str
    record  what `done.json` says of how the member was made, with its `warnings`
    """
    own = {f"fold{k}/oof.npz": folds.fold == k for k in range(folds.n_folds)}
    parts = {file: as_predictions(folds.image_id[rows], oof[rows], folds) for file, rows in own.items()}
    parts["test.npz"] = as_predictions(test_id, test, folds)
    new = folder / ".new"
    try:
        for file, part in parts.items():
            save_predictions(new / file, part)
        files = {file: file_digest(new / file) for file in parts}
        (folder / "done.json").unlink(missing_ok=True)
        for file in parts:
            (folder / file).parent.mkdir(exist_ok=True)
            os.replace(new / file, folder / file)
        head = {"run": folder.name, "folds_digest": folds.digest}
        write_json(folder / "done.json", {**head, **record, "files": files})
    finally:
        shutil.rmtree(new, ignore_errors=True)
