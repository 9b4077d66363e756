"""Packs a blend: its networks with all that their predictions depend on, in one file, without any training image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ensemble.blend.apply import open_members
from ensemble.blend.blend_json import Blend, load_blend
from ensemble.members.members import Members, read_members
from ensemble.weights.recipe import Recipe
from folds.base.errors import UserError, first_few
from folds.base.metrics import topk_error
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace
from folds.pixels.forms import JpegPixels
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import Folds, load_folds
from models.predict.predictions import average_views
from models.runs import KNN, PROBE, kind_of, looked_up_by
from submissions.csv_form import read_layout
from submissions.offline.pack_file import OpenPack, Pack, PackedMember, Smaller, save_pack
from submissions.offline.smaller import Parts, Views
from submissions.settings import PackSettings

if TYPE_CHECKING:
    from models.predict.packed import PackedRun, State
    from models.runs import RunPlan

Files: TypeAlias = "Mapping[str, Sequence[tuple[str, Callable[[], State]]]]"  # by run: name, and what reads the tensors
NAME = "blend.pack.zip"
SAME = 4  # decimals of every run's out-of-fold error that float16 must leave as they are


@dataclass(frozen=True)
class PackResult:
    """A pack that was written.

    part          what fits into the limit; None where that is all
    refused_half  the runs whose error float16 changes, if it was asked for
    """

    path: Path
    bytes: int
    pack: Pack
    part: Smaller | None
    refused_half: tuple[str, ...]


def make_pack(
    workspace: Workspace,
    settings: PackSettings,
    plans: Sequence[RunPlan],
    *,
    device: str = "auto",
    track: Track = silently,
) -> PackResult:
    """Write a pack of the last blend, or of the blend in `settings.blend`.

    plans  the runs that the settings ask for: a probe's backbone starts from weights that only they know
    Raises UserError where a member has no network here, or where nothing is as small as `settings.limit_mb` asks.
    """
    blend, folds, store = load_blend(settings.blend or workspace.blend), load_folds(workspace), open_store(workspace)
    _refuse_without_networks(workspace, blend)
    opened, weights = open_members(workspace, blend), blend.recipe().weights
    members = read_members(opened.rows, [opened.members[m] for m in np.flatnonzero(weights > 0)])
    recipe = replace(blend.recipe(), weights=weights[weights > 0])
    runs, files = _pack_runs(workspace, members, folds, plans)
    pack = _describe(workspace, blend, members, recipe, runs, store)
    path, is_half, left_out = settings.out or workspace.submissions / NAME, settings.half, None
    refused: tuple[str, ...] = ()
    if is_half:
        _save(path, pack, files, is_half=True)
        refused = tuple(_changed_runs(OpenPack(path), members, folds, store, device=device, track=track))
        is_half = not refused
    if settings.limit_mb:
        part = _within(members, recipe, files, is_half=is_half, limit=settings.limit_mb * 1e6)
        if len(part.members) < len(members):
            kept = [m for m, name in enumerate(members.names) if name in part.members]
            recipe = replace(recipe, weights=pack.recipe(part.members).weights)
            members, left_out = read_members(members.rows, [members.members[m] for m in kept]), part
            used = {run.name for run in members.runs}
            runs = {name: run for name, run in runs.items() if name in used}
            pack = _describe(workspace, blend, members, recipe, runs, store)
    onnx = _onnx_files(pack, files, track=track) if settings.onnx else ()
    size = _save(path, pack, files, is_half=is_half, more=onnx)
    return PackResult(path, size, OpenPack(path).pack, left_out, refused)


def _describe(
    workspace: Workspace,
    blend: Blend,
    members: Members,
    recipe: Recipe,
    runs: Mapping[str, PackedRun],
    store: PixelStore,
) -> Pack:
    """Everything but the tensors. recipe: weights of these members, in their order."""
    from models.predict.packed import view_costs

    folds, layout = load_folds(workspace), read_layout(workspace)
    flops = {name: view_costs(run) for name, run in runs.items()}

    def cost(run: str, views: Views) -> Mapping[str, float]:
        return {what: number for view in views for what, number in flops[run][view].items()}

    return Pack(
        classes=folds.classes,
        images_per_class=tuple(np.bincount(folds.target, minlength=len(folds.classes)).tolist()),
        header=layout.header,
        separator=layout.separator,
        label_separator=layout.label_separator,
        store_size=store.size,
        store_form="jpeg" if isinstance(store.pixels, JpegPixels) else "raw",
        pool=recipe.pool,
        bias=None if recipe.bias is None else tuple(recipe.bias.tolist()),
        members={
            member.name: PackedMember(float(weight), tuple(run.name for run in member.runs), member.runs[0].views)
            for member, weight in zip(members.members, recipe.weights, strict=True)
        },
        runs=runs,
        smaller=tuple(Parts(members, recipe, cost).fewer()),
        is_half=False,
        expected_top3_error=blend.expected_top3.mean,
        folds_digest=folds.digest,
        files={},
    )


def _pack_runs(
    workspace: Workspace, members: Members, folds: Folds, plans: Sequence[RunPlan]
) -> tuple[dict[str, PackedRun], Files]:
    """The runs of all members, under every view that one of them uses, and their files."""
    from models.predict.packed import pack_run

    views: dict[str, list[str]] = {}
    for run in members.runs:
        views[run.name] = list(dict.fromkeys([*views.get(run.name, []), *run.views]))
    packed = {name: pack_run(workspace, name, folds, views=views[name], plans=plans) for name in sorted(views)}
    return {name: run for name, (run, _) in packed.items()}, {name: list(found) for name, (_, found) in packed.items()}


def _refuse_without_networks(workspace: Workspace, blend: Blend) -> None:
    """Members that another tool or columns made have no network here; neighbours are packed with a frozen backbone."""
    used = {run for name, weight in blend.weights.items() if weight > 0 for run in blend.runs[name]}
    added = sorted(run for run in used if (workspace.members / run).is_dir())
    looked_up = sorted(run for run in used - set(added) if kind_of(workspace, run) == KNN)
    trained = [run for run in looked_up if kind_of(workspace, looked_up_by(workspace, run)) != PROBE]
    if added or trained:
        runs = {run for runs in blend.runs.values() for run in runs}
        others = sorted(run for run in runs - {*trained} if not (workspace.members / run).is_dir())
        again = f"`python run.py blend --members {','.join(others)}` blends without" if others else "train a run here"
        why = f"there is no network to pack for {first_few(added)}: another tool or columns made the predictions"
        if not added:
            why = f"{first_few(trained)} has a memory of its own for every fold's network, which no pack holds"
        raise UserError(why, hint=again)


def _save(path: Path, pack: Pack, files: Files, *, is_half: bool, more: Iterable[tuple[str, bytes]] = ()) -> int:
    """Write the pack; returns its length in bytes. A file that several runs share is written once."""
    from models.predict.packed import state_bytes

    reads = {name: read for run in pack.runs for name, read in files[run]}
    tensors = ((name, state_bytes(read(), is_half=is_half)) for name, read in reads.items())
    return save_pack(path, replace(pack, is_half=is_half), chain(tensors, more))


def _onnx_files(pack: Pack, files: Files, *, track: Track) -> Iterator[tuple[str, bytes]]:
    """Every network as ONNX, in float32, by the name of its file."""
    from models.predict.onnx import onnx_bytes
    from models.predict.packed import state_bytes

    reads = {name: read for run in pack.runs for name, read in files[run]}
    parts = [(name, part) for name, run in pack.runs.items() for part in run.parts]
    for name, part in track(parts, what="ONNX", total=len(parts), unit="networks"):
        tensors = onnx_bytes(
            pack.runs[name], lambda file: state_bytes(reads[file](), is_half=False), part, n_classes=len(pack.classes)
        )
        yield f"{name}/{part}.onnx", tensors


def _changed_runs(
    opened: OpenPack, members: Members, folds: Folds, store: PixelStore, *, device: str, track: Track
) -> list[str]:
    """The runs whose out-of-fold top-3 error is another one, to four decimals, with the tensors of the pack."""
    from models.predict.packed import packed_log_probs

    rows, place = store.rows(folds.image_id, split="train"), 0
    runs = {run.name: run for run in members.runs}
    before, now = ({name: list[np.ndarray]() for name in runs} for _ in range(2))
    for fold in members.rows.folds:
        own = np.flatnonzero(folds.fold == fold)
        seen: dict[tuple[str, str], np.ndarray] = {}  # a probe and its neighbours ask one backbone
        for name, stored in runs.items():
            run = opened.pack.runs[name]
            probs = packed_log_probs(
                run,
                opened.read,
                store,
                rows[own],
                n_classes=len(folds.classes),
                device_name=device,
                what=f"{name}: fold {fold} in float16",
                track=track,
                parts=[f"fold{fold}"],
                seen=seen,
            )[0]
            now[name].append(average_views(probs, [run.views.index(view) for view in stored.views]))
            before[name].append(stored.probs(place, place + len(own)))
        place += len(own)

    def error(probs: Sequence[np.ndarray]) -> float:
        return round(topk_error(np.concatenate(probs), members.rows.target), SAME)

    return [name for name in opened.pack.runs if error(before[name]) != error(now[name])]


def _within(members: Members, recipe: Recipe, files: Files, *, is_half: bool, limit: float) -> Smaller:
    """The largest part of the ensemble whose tensors take no more bytes than the limit."""
    from models.predict.packed import state_bytes

    sizes = {run: {name: len(state_bytes(read(), is_half=is_half)) for name, read in own} for run, own in files.items()}
    parts = Parts(members, recipe, lambda run, views: sizes[run])
    whole = parts.whole()
    for part in [whole, *parts.fewer_members(whole)]:
        if parts.price(part.members) <= limit:
            return part
    least = min(parts.price({name: views}) for name, views in whole.members.items())
    raise UserError(
        f"the smallest member takes {least / 1e6:.1f} MB, and the limit is {limit / 1e6:.1f} MB",
        hint="`python run.py pack --half`, or a larger `--limit-mb`",
    )
