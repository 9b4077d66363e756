"""Writes the submission: three labels for every test id, in the sample's order, checked before it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blend.apply import Blended, apply_blend, apply_run
from ensemble.blend.blend_json import Blend, load_blend
from ensemble.blend.expected import ExpectedScore
from folds.base.errors import UserError, first_few
from folds.base.metrics import top_classes
from folds.base.workspace import Workspace, digest, write_bytes, write_json
from folds.manifest.manifest import USABLE, read_manifest
from folds.split.assign import Folds, load_folds
from models.runs import is_the_blends
from submissions.check import faults_of
from submissions.csv_form import Layout, read_layout
from submissions.settings import SubmitSettings


@dataclass(frozen=True)
class SubmissionResult:
    """A submission that was written and checked."""

    path: Path
    lineage: Path
    rows: int
    guessed: tuple[str, ...]  # ids of unreadable images, which got the most frequent classes
    expected: ExpectedScore | None  # the top-3 error to expect of the blend; None for a single run
    partial: Mapping[str, Any] | None = None  # what a blend was made of while folds were lacking


def write_submission(
    workspace: Workspace, settings: SubmitSettings, *, blend: Path | None = None, run: str | None = None
) -> SubmissionResult:
    """Write `work/submissions/<name>.csv` and its lineage `<name>.json`, from a run or a blend (by default the last).

    Raises UserError where predictions are missing, or the file would not be valid.
    """
    if run and not settings.csv_name and is_the_blends(run):  # from before `train` and `add` refused the name
        raise UserError(f"the CSV of the run {run} would replace the blend's", hint="`--csv-name NAME`")
    made_from = None if run else load_blend(blend or workspace.blend)
    blended = apply_blend(workspace, made_from) if made_from else apply_run(workspace, str(run))
    folds = load_folds(workspace)
    layout = read_layout(workspace, image_id=None if workspace.manifest.is_file() else blended.image_id.tolist())
    guessed = _unpredicted(workspace, layout, blended)
    data = submission_text(layout, blended, folds, guessed=guessed).encode()
    fault = next(faults_of(data, layout), None)
    if fault is not None:  # the last valid CSV stays where it is
        raise UserError(
            f"the submission would not be valid, and was not written: {fault}",
            hint="`python run.py prepare DATA --sample FILE` takes another sample",
        )
    path = workspace.submissions / f"{settings.csv_name or run or 'blend'}.csv"
    lineage = {  # names and checksums, and no path of this machine
        "csv": path.name,
        **({"is_early": True} if blend == workspace.early_blend else {}),
        "digest": digest(data),
        "folds_digest": folds.digest,
        "n_folds": folds.n_folds,
        "unreadable_test_images": guessed,
        **(_lineage(made_from) if made_from else {"run": run}),
    }
    write_bytes(path, data)
    write_json(path.with_suffix(".json"), lineage)
    expected, partial = (made_from.expected_top3, made_from.partial) if made_from else (None, None)
    return SubmissionResult(path, path.with_suffix(".json"), len(layout.image_id), tuple(guessed), expected, partial)


def submission_text(layout: Layout, blended: Blended, folds: Folds, *, guessed: Sequence[str]) -> str:
    """The CSV: every id of the layout with its best labels, the guessed ones with the most frequent classes."""
    prior = np.bincount(folds.target, minlength=len(folds.classes))
    ranked = [top_classes(scores, k=layout.n_labels) for scores in (blended.scores, prior[None].astype(np.float64))]
    best = np.concatenate(ranked)  # (n + 1, 3)
    labels = np.array(layout.labels, dtype=object)[best]
    cells = [layout.label_separator.join(row) for row in labels]
    row_of = {str(name): i for i, name in enumerate(blended.image_id)} | dict.fromkeys(guessed, len(blended.image_id))
    lines = [layout.line((name, cells[row_of[name]])) for name in layout.image_id]
    return layout.line(layout.header) + "".join(lines)


def _unpredicted(workspace: Workspace, layout: Layout, blended: Blended) -> list[str]:
    """The test ids without a prediction: unreadable images. Raises UserError where a readable one was not predicted."""
    predicted = set(blended.image_id.tolist())
    lacking = [name for name in layout.image_id if name not in predicted]
    if not lacking:
        return []
    manifest = read_manifest(workspace)
    usable = set(manifest.loc[(manifest["split"] == "test") & (manifest["status"] == USABLE), "image_id"])
    gaps = [name for name in lacking if name in usable]
    if gaps:
        raise UserError(
            f"{len(gaps):,} readable test images have no prediction: {first_few(gaps)}", hint="`python run.py predict`"
        )
    return lacking


def _lineage(blend: Blend) -> Mapping[str, Any]:
    """What a CSV was made from, as far as the blend has it."""
    names = ("candidate", "pool", "weights", "metric", "crossfit", "oof_top3_error", "seed", "partial", "files")
    return {**{name: getattr(blend, name) for name in names}, "expected_top3": asdict(blend.expected_top3)}
