"""Writes the submission: three labels for every test id, in the sample's order, checked before it is done."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ensemble.analysis.class_mix import ClassMix
from ensemble.analysis.test_set import class_mix_of, submission_sentences
from ensemble.blend.apply import Blended, apply_blend
from ensemble.blend.blend_json import Blend, load_blend
from ensemble.blend.expected import expected_words
from ensemble.blend.make_blend import BlendResult, make_blend
from ensemble.members.from_files import make_file_workspace
from ensemble.settings import BlendSettings, FileSettings
from folds.base.errors import UserError, counted, first_few
from folds.base.metrics import top_classes
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, write_bytes, write_json
from folds.manifest.manifest import read_manifest, usable_rows
from folds.split.assign import Folds, load_folds
from models.runs import done_folds
from submissions.check import expected_top3, read_lineage, valid_csv
from submissions.csv_form import Layout, read_layout
from submissions.settings import SubmitSettings

if TYPE_CHECKING:
    from models.commands import Training

# What a CSV's lineage repeats of its blend.
OF_BLEND = ("candidate", "pool", "weights", "metric", "crossfit", "oof_top3_error", "seed", "partial", "files")


@dataclass(frozen=True)
class SubmissionResult:
    """A submission that was written and checked; its lineage has the same name and ends in `.json`."""

    path: Path
    rows: int
    guessed: tuple[str, ...]  # ids of unreadable images, which got the most frequent classes
    blend: Blend | None  # None for a single run
    test_set: tuple[str, ...]  # sentences on what the test images are like
    layout: Layout


def write_submission(
    workspace: Workspace, settings: SubmitSettings, *, blend: Path | None = None, run: str | None = None
) -> SubmissionResult:
    """Write `work/submissions/<name>.csv` and its lineage `<name>.json`, from a run or a blend (by default the last).

    Raises UserError where predictions are missing, or the file would not be valid.
    """
    made_from = None if run else load_blend(blend or workspace.blend)
    folds, blended = load_folds(workspace), apply_blend(workspace, made_from or str(run))
    try:
        mix: ClassMix | str = class_mix_of(workspace, blended)
    except UserError as err:
        mix = err.message
    expected, shares = made_from.expected_top3.mean if made_from else None, None
    said = list(submission_sentences(workspace, blended, mix, expected=expected, is_matched=settings.match_test))
    if settings.match_test:
        if isinstance(mix, str):
            why = f"`--match-test` needs the class mix, which was not estimated: {mix}"
            raise UserError(why, hint="`python run.py submit` without it")
        if mix.is_shift:
            blended = replace(blended, scores=mix.matched(blended.probs))
            shares = dict(zip(blended.classes, mix.test.tolist(), strict=True))
    layout, guessed, data = _make_csv(workspace, folds, blended)
    path = workspace.submissions / f"{settings.csv_name or run or 'blend'}.csv"
    lineage = {  # names and checksums, and no path of this machine
        "csv": path.name,
        **({"is_early": True} if blend == workspace.early_blend else {}),
        "digest": digest(data),
        "folds_digest": folds.digest,
        "n_folds": folds.n_folds,
        "unreadable_test_images": guessed,
        **({"class_mix": shares} if settings.match_test else {}),
        **({name: getattr(made_from, name) for name in OF_BLEND} if made_from else {"run": run}),
        **({"expected_top3": asdict(made_from.expected_top3)} if made_from else {}),
    }
    write_bytes(path, data)
    write_json(path.with_suffix(".json"), lineage)
    return SubmissionResult(path, len(layout.image_id), tuple(guessed), made_from, tuple(said), layout)


def _make_csv(workspace: Workspace, folds: Folds, blended: Blended) -> tuple[Layout, list[str], bytes]:
    """The CSV, its layout, and the ids of unreadable images, which get the most frequent classes.

    Refuses scores without those of a readable image, and a CSV that is not valid.
    """
    layout = read_layout(workspace, image_id=None if workspace.manifest.is_file() else blended.image_id.tolist())
    best = dict(zip(blended.image_id.tolist(), top_classes(blended.scores, k=layout.n_labels), strict=True))
    guessed = [name for name in layout.image_id if name not in best]
    if guessed:
        usable = set(usable_rows(read_manifest(workspace), split="test")["image_id"])
        gaps = [name for name in guessed if name in usable]
        if gaps:
            what = f"{len(gaps):,} readable test images have no prediction: {first_few(gaps)}"
            raise UserError(what, hint="`python run.py predict`")
    images_per_class = np.bincount(folds.target, minlength=len(folds.classes)).tolist()
    return layout, guessed, valid_csv(layout, best, images_per_class, hint=f"{layout.way_out} takes another sample")


def submit_early(training: Training, probes: Sequence[str], blend: BlendSettings, submit: SubmitSettings) -> str | None:
    """Blend the probes whose folds are all done into `work/ensemble/probe.json`, and submit them as `probe.csv`.

    training  which comes next, in the same work folder with the same seed    probes  names of the runs
    Returns what is to be said of it; None where no probe is done, or where there is a blend of these folds already,
    which has trained networks.
    """
    workspace, folds = training.workspace, load_folds(training.workspace)
    done = {name: done_folds(workspace, name) for name in probes}
    whole = {name: done[name] for name in sorted(done) if len(done[name]) == folds.n_folds}
    with suppress(UserError):  # there is no blend, or one that cannot be used
        if load_blend(workspace.blend).folds_digest == folds.digest:
            return None
    if not whole:
        return None
    settings = replace(submit, csv_name=f"{submit.csv_name}-probe" if submit.csv_name else "probe")
    path, names = workspace.submissions / f"{settings.csv_name}.csv", tuple(whole)
    files = {
        run: {f"fold{fold}/{name}": one for fold, record in parts.items() for name, one in record["files"].items()}
        for run, parts in whole.items()
    }
    expected = None
    with suppress(UserError, OSError):  # there is no such CSV, or its lineage is damaged
        expected = expected_top3(path) if read_lineage(path).get("files") == files else None
    if expected is not None:
        said = f"{path}: was made before, from the same predictions\nexpected top-3 error {expected_words(expected)}"
    else:
        of_probes, to = replace(blend, members=names, partial=False), workspace.early_blend
        make_blend(workspace, of_probes, seed=training.seed, path=to, track=training.screen.track)
        said = submission_summary(write_submission(workspace, settings, blend=to))
    return f"{said}\nthat is a first submission, of {first_few(names)} alone; training comes next"


def blend_files(
    files: FileSettings, settings: BlendSettings, *, seed: int, track: Track = silently
) -> tuple[BlendResult, SubmissionResult]:
    """Labels, members' OOF and test predictions in; the CSV, its lineage and `<out>.blend.json` out.

    Raises UserError where a file is not what it should be, and writes nothing then.
    """
    out = Path(files.out)
    if out.suffix.lower() == ".json":
        raise UserError(
            f"`--out {out}` is where the lineage goes, which has the CSV's name and ends in .json",
            hint=f"`--out {out.with_suffix('.csv')}`",
        )
    with tempfile.TemporaryDirectory(prefix="foldblend-") as folder:
        workspace = Workspace(Path(folder))
        warnings = make_file_workspace(workspace, files, seed=seed)
        read_layout(workspace, image_id=())  # a sample that will not do is refused before the search
        made = make_blend(workspace, settings, seed=seed, track=track)
        written = write_submission(workspace, SubmitSettings(csv_name=out.stem))
        kept = out.with_suffix(".blend.json")
        write_bytes(kept, made.path.read_bytes())
        write_bytes(out.with_suffix(".json"), written.path.with_suffix(".json").read_bytes())
        write_bytes(out, written.path.read_bytes())
    made = replace(made, path=kept, warnings=(*warnings, *made.warnings))
    return made, replace(written, path=out)


def submission_summary(result: SubmissionResult) -> str:
    """What was written, in which form if it had to be made up, which images were guessed, and the expected error."""
    sentences = [f"{result.path}: {result.rows:,} rows, valid"]
    if warning := result.layout.warning():
        sentences.append(warning)
    if result.guessed:
        sentences.append(
            f"{counted(len(result.guessed), 'unreadable test image', 'unreadable test images')} got the most frequent "
            f"classes: {first_few(result.guessed)}"
        )
    if result.blend is not None:
        if result.blend.partial:
            networks = ", ".join(f"{count} of {run}" for run, count in result.blend.partial["networks"].items())
            sentences.append(f"partial: made by the networks that are trained so far ({networks})")
        expected = result.blend.expected_top3
        where = f"{expected.test_images:,} test images" if expected.test_images else "new images"
        sentences.append(f"expected top-3 error {expected_words(expected)} on {where}")
    return "\n".join([*sentences, *result.test_set])
