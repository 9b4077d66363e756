"""Blends predictions that are files of other tools, from labels to a checked CSV, without a work folder."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ensemble.blend.make_blend import BlendResult, make_blend
from ensemble.members.from_files import make_file_workspace
from ensemble.settings import BlendSettings, FileSettings
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, write_bytes
from submissions.settings import SubmitSettings
from submissions.write import SubmissionResult, write_submission


def blend_files(
    files: FileSettings, settings: BlendSettings, *, seed: int, track: Track = silently
) -> tuple[BlendResult, SubmissionResult]:
    """Labels, members' OOF and test predictions in; the CSV, its lineage and `<out>.blend.json` out.

    Raises UserError where a file is not what it should be, and writes nothing then.
    """
    out = Path(files.out)
    with tempfile.TemporaryDirectory(prefix="foldblend-") as folder:
        workspace = Workspace(Path(folder))
        warnings = make_file_workspace(workspace, files, seed=seed)
        made = make_blend(workspace, settings, seed=seed, track=track)
        written = write_submission(workspace, SubmitSettings(csv_name=out.stem))
        kept = out.with_suffix(".blend.json")
        write_bytes(kept, made.path.read_bytes())
        write_bytes(out.with_suffix(".json"), written.lineage.read_bytes())
        write_bytes(out, written.path.read_bytes())
    return replace(made, path=kept, warnings=(*warnings, *made.warnings)), replace(
        written, path=out, lineage=out.with_suffix(".json")
    )
