"""The first submission of `all`: a blend of the probes alone, before networks are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ensemble.blend.blend_json import load_blend
from ensemble.blend.expected import ExpectedScore
from ensemble.blend.make_blend import make_blend
from ensemble.settings import BlendSettings
from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace
from folds.split.assign import Folds, load_folds
from models.runs import done_folds
from submissions.lineage import expected_top3, read_lineage
from submissions.settings import SubmitSettings
from submissions.write import SubmissionResult, write_submission

NAME = "probe"


@dataclass(frozen=True)
class Early:
    """The CSV of the probes and the top-3 error to expect. written: None where it was there before."""

    path: Path
    probes: tuple[str, ...]
    expected: ExpectedScore
    written: SubmissionResult | None


def submit_early(
    workspace: Workspace,
    probes: Sequence[str],
    blend: BlendSettings,
    submit: SubmitSettings,
    *,
    seed: int,
    track: Track = silently,
) -> Early | None:
    """Blend the probes whose folds are all done into `work/ensemble/probe.json`, and submit them as `probe.csv`.

    None where no probe is done, or where there is a blend of these folds already, which has trained networks.
    """
    folds = load_folds(workspace)
    done = {name: done_folds(workspace, name) for name in probes}
    whole = {name: done[name] for name in sorted(done) if len(done[name]) == folds.n_folds}
    if not whole or _is_blended(workspace, folds):
        return None
    settings = replace(submit, csv_name=f"{submit.csv_name}-{NAME}" if submit.csv_name else NAME)
    path = workspace.submissions / f"{settings.csv_name}.csv"
    expected = _expected(path, whole)
    if expected is not None:
        return Early(path, tuple(whole), expected, None)
    make_blend(
        workspace,
        replace(blend, partial=False),
        seed=seed,
        members=tuple(whole),
        path=workspace.early_blend,
        track=track,
    )
    written = write_submission(workspace, settings, blend=workspace.early_blend)
    assert written.expected is not None, "every blend has an expected score"
    return Early(path, tuple(whole), written.expected, written)


def early_probes(workspace: Workspace) -> list[str]:
    """The probes of the early blend, which `all` goes on to train; none where there is no such blend."""
    try:
        return [run for member in load_blend(workspace.early_blend).runs.values() for run in member]
    except UserError:
        return []


def _is_blended(workspace: Workspace, folds: Folds) -> bool:
    try:
        return load_blend(workspace.blend).folds_digest == folds.digest
    except UserError:
        return False


def _expected(path: Path, probes: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> ExpectedScore | None:
    """The expected score of a CSV that was made from these very predictions; None where it was not."""
    files = {
        run: {f"fold{fold}/{name}": one for fold, record in done.items() for name, one in record["files"].items()}
        for run, done in probes.items()
    }
    try:
        return expected_top3(path) if read_lineage(path).get("files") == files else None
    except (UserError, OSError):
        return None
