"""What `views`, `add`, `table`, `blend`, `explain` and `compare` do; each yields or returns what is to be shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import RenderableType

from ensemble.analysis.compare import compare_runs, comparison_summary
from ensemble.analysis.test_likeness import measure_likeness
from ensemble.analysis.test_set import likeness_sentence
from ensemble.analysis.views import report_views, view_sentences, view_summary
from ensemble.blend.make_blend import make_blend
from ensemble.blend.tables import blend_summary
from ensemble.columns.table_member import add_table, table_summary
from ensemble.members.add_member import add_member, score_sentence
from ensemble.settings import AddSettings, BlendSettings, TableSettings
from folds.base.errors import Next
from folds.base.locks import alone
from folds.base.terminal import Screen
from folds.base.workspace import Workspace
from folds.split.assign import changed_since, load_folds


def views(workspace: Workspace, run: Sequence[str], screen: Screen) -> Iterator[RenderableType | Next]:
    """What each view adds, run by run, and the next command."""
    for report in report_views(workspace, tuple(run), track=screen.track):
        yield view_summary(report)
        yield from view_sentences(report)
        # Fewer views that are within chance, but not better, only save passes, which are made already.
        pays = report.is_worth_it and report.is_for_all and report.crossfit_against_all.mean <= 0
        yield Next(f"blend --member-views {','.join(report.proposed.views)}" if pays else "blend")


def add(workspace: Workspace, name: str, settings: AddSettings, *, screen: Screen) -> list[str]:
    """Take in the predictions of another tool."""
    with _alone(workspace, screen):
        added = add_member(workspace, name, settings)
    counts = f"{added.images:,} out-of-fold and {added.test_images:,} test images"
    replaced = [f"note: it replaces the member {name} that was there"] if added.is_replaced else []
    notes = [*replaced, *(f"note: {warning}" for warning in added.warnings)]
    scored = score_sentence(name, added.scores, if_useless="are its columns named rightly, and is it out of fold?")
    return [f"{added.name}: {counts}, wrote {added.folder}", scored, *notes]


def table(
    workspace: Workspace, csvs: Sequence[Path], settings: TableSettings, *, seed: int, screen: Screen
) -> list[RenderableType]:
    """Make a member out of columns beside the images."""
    with _alone(workspace, screen):
        return [table_summary(add_table(workspace, csvs, settings, seed=seed, track=screen.track))]


def blend(workspace: Workspace, settings: BlendSettings, *, seed: int, screen: Screen) -> list[RenderableType]:
    """Find the weights of the members."""
    with _alone(workspace, screen):
        made = make_blend(workspace, settings, seed=seed, track=screen.track)
    likeness = measure_likeness(workspace)
    warnings = [f"warning: {likeness_sentence(likeness)}"] if likeness is not None and likeness.is_far else []
    if changed := changed_since(workspace, load_folds(workspace)):
        warnings.append(f"warning: {changed}; the blend uses the images and labels of the folds")
    return [blend_summary(made), *warnings, f"wrote {made.path}"]


def explain(workspace: Workspace, image_id: str, *, run: str | None) -> list[RenderableType]:
    """What every member says of an image, and where a network looks."""
    from ensemble.analysis.explain import draw_explained, explain_image, explained_summary
    from models.predict.gradcam import class_maps  # torch, which the other commands need not wait for

    said = explain_image(workspace, image_id, run=run)
    labels = {name: said.labels_of(name) for name in ([run] if run else [one.name for one in said.by_weight()])}
    maps, why = class_maps(workspace, labels, said.image_id, fold=said.fold)
    return [explained_summary(said, why), f"wrote {draw_explained(workspace, said, maps, why)}"]


def compare(workspace: Workspace, run_a: str, run_b: str) -> RenderableType:
    """Which of two runs is better out of fold."""
    return comparison_summary(compare_runs(workspace, run_a, run_b))


def _alone(workspace: Workspace, screen: Screen) -> AbstractContextManager[None]:
    return alone(workspace, "ensemble", say=screen.complain, is_to_write=workspace.folds_csv.is_file())
