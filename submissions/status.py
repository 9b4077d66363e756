"""This file says how far a work folder is: what is missing, and which command makes it."""

from __future__ import annotations

from collections.abc import Sequence

from folds.assignment import load_folds
from folds.workspace import Workspace
from models.runs import done_folds


def what_is_missing(workspace: Workspace, planned: Sequence[str]) -> tuple[list[str], str]:
    """Sentences on what is missing, in the order of the way, and the next command (`train`, `blend` ...)."""
    if not workspace.manifest.is_file():
        return [f"{workspace.root} holds no prepared images"], "prepare DATA"
    if not workspace.folds_csv.is_file():
        return ["the folds are not assigned"], "split"
    n_folds = load_folds(workspace).n_folds
    missing = []
    for run in planned:
        lacking = sorted(set(range(n_folds)) - set(done_folds(workspace, run)))
        if lacking:
            missing.append(f"{run} lacks fold{'s' * (len(lacking) > 1)} {', '.join(map(str, lacking))}")
    if missing:
        return missing, "train"
    if not workspace.blend.is_file():
        return ["there is no blend"], "blend"
    if not any(workspace.submissions.glob("*.csv")):
        return ["there is no submission"], "submit"
    csv = max(workspace.submissions.glob("*.csv"), key=lambda path: path.stat().st_mtime)
    return ["nothing is missing"], f"check {csv}"
