"""A run without its work folder: networks and heads as bytes, and what they predict of any pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, TypeAlias, Unpack

import numpy as np
import timm
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from folds.base.errors import UserError
from folds.base.workspace import Workspace, digest
from folds.pixels.store import PixelStore, open_store
from folds.split.assign import Folds
from models.backbones import Backbone, build_network
from models.device import choose_device, choose_precision, short_name
from models.input.views import view_size
from models.predict.again import load_trained
from models.predict.model import Model, Passes, log_probs_of
from models.probe.bodies import apart, probed_bodies
from models.probe.features import FrozenBody, image_features, stored
from models.probe.heads import FeatureRows, head_views
from models.probe.logistic import Head
from models.probe.neighbours import Choice, Memory
from models.runs import KNN, PROBE, RunPlan, begun_settings, done_folds, done_parts, kind_of, looked_up_by
from models.watch.events import JobKey

State = dict[str, Tensor]
Made: TypeAlias = tuple[list[dict[str, Any]], dict[str, Callable[[], State]]]  # fields of each backbone's run, files


@dataclass(frozen=True)
class PackedRun:
    """What the networks of one run need besides their tensors; plain JSON.

    backbone   the fields of `Backbone`
    sizes      side of the input in pixels, at training and of the views that name none
    precision  on a GPU; on_cpu: on a CPU, as it was when the run was made
    body       the tensors of a frozen backbone, which is asked once for all heads; None for trained networks
    beside     further frozen backbones, whose features stand behind those of the first: runs without parts
    memory     of neighbours: the file of the training images' features, classes and folds, `images` and `features`
    parts      by fold (or `all`): the file of its tensors, and what is added to its logits, (C,); of neighbours the
               number of the fold and the fields of its `Choice`
    views      those that the blend uses
    licence    of the weights that its training started from; empty where it started from scratch
    stages     of trained networks, as in `build_network`
    """

    backbone: Mapping[str, Any]
    sizes: tuple[int, int]
    precision: str
    on_cpu: str
    views: tuple[str, ...]
    body: str | None
    parts: Mapping[str, Mapping[str, Any]]
    licence: str
    stages: int = 1
    beside: tuple[PackedRun, ...] = ()
    memory: Mapping[str, Any] | None = None

    @property
    def bodies(self) -> tuple[PackedRun, ...]:
        """A run for each backbone."""
        return (self, *self.beside)


def pack_run(
    workspace: Workspace, run: str, folds: Folds, *, views: Sequence[str], plans: Sequence[RunPlan]
) -> tuple[PackedRun, Iterator[tuple[str, Callable[[], State]]]]:
    """A run, and its files by name, each with a function that reads its tensors.

    plans  the runs that the settings ask for: the weights of a probe's backbone are looked for among theirs
    Raises UserError where a file is not what was trained, or the weights of a probe are not at hand.
    """
    kind = kind_of(workspace, run)
    if kind == KNN:
        bodies, files = _neighbours(workspace, run, folds, plans)
    else:
        bodies, files = _probe(workspace, run, plans) if kind == PROBE else _networks(workspace, run, folds)
    starts = apart(next(begun_settings(workspace, run))["weights"])
    first, *beside = [
        PackedRun(**body, views=tuple(views), licence="" if start == "random" else _licence(body))
        for body, start in zip(bodies, starts, strict=True)
    ]
    return replace(first, beside=tuple(beside)), iter(files.items())


def _licence(body: Mapping[str, Any]) -> str:
    cfg = timm.get_pretrained_cfg(body["backbone"]["tag"])
    return (cfg.license if cfg else None) or "unknown"


def _networks(workspace: Workspace, run: str, folds: Folds) -> Made:
    """The trained networks of a run: those of its folds, and its refit."""
    named, files = {}, dict[str, Callable[[], State]]()
    for key in (JobKey(run, fold) for fold in done_parts(workspace, run)):
        one = load_trained(workspace, run, key.fold, folds, device=torch.device("cpu"))
        file = f"{run}/{key.part}.safetensors"
        files[file] = partial(load_file, key.folder(workspace) / "network.safetensors")
        named[key.part] = {"file": file, "shift": one.model.shift.tolist()}
    settings, backbone = one.settings_json["settings"], one.model.backbone
    network = {
        "backbone": asdict(backbone),
        "sizes": (settings["image_size"] or backbone.size, one.model.size),
        "precision": settings["precision"],
        "on_cpu": short_name(one.model.precision),
        "body": None,
        "parts": named,
        "stages": settings["stages"],
    }
    return [network], files


def _probe(workspace: Workspace, run: str, plans: Sequence[RunPlan]) -> Made:
    """The frozen backbones of a probe, and the heads of its folds."""
    bodies, files = _bodies(run, probed_bodies(workspace, run, plans, device=torch.device("cpu"), command="pack"))
    for k, record in done_folds(workspace, run).items():
        path = workspace.fold(run, k) / "head.safetensors"
        data = path.read_bytes()
        if digest(data) != record["files"][path.name]:
            hint = f"remove {workspace.models / run} and probe again"
            raise UserError(f"{path} changed after it was written", hint=hint)
        files[f"{run}/fold{k}.safetensors"] = partial(load, data)
        bodies[0]["parts"][f"fold{k}"] = {"file": f"{run}/fold{k}.safetensors", "shift": None}
    return bodies, files


def _neighbours(workspace: Workspace, run: str, folds: Folds, plans: Sequence[RunPlan]) -> Made:
    """The frozen backbones of a run of neighbours, named as those of its probe, and one memory for all folds."""
    of, store = looked_up_by(workspace, run), open_store(workspace)
    frozen = probed_bodies(workspace, of, plans, device=choose_device("auto"), command="pack")
    bodies, files = _bodies(of, frozen)
    mirror = next(begun_settings(workspace, of))["settings"]["mirror"]
    rows, views = store.rows(folds.image_id, split="train"), head_views(mirror=mirror)
    seen = [list(image_features(workspace, store, rows, body, views=views).values()) for body in frozen]

    features = FeatureRows.read(seen, torch.device("cpu"))

    def memory() -> State:
        stages = {f"features{i}": np.stack(views) for i, views in enumerate(features.values)}
        known = {**stages, "target": folds.target, "fold": folds.fold}
        return {name: torch.tensor(values) for name, values in known.items()}

    file, width = f"{run}/memory.safetensors", sum(features.widths)
    files[file] = memory
    for k, record in done_folds(workspace, run).items():
        choice = {one.name: record[one.name] for one in fields(Choice)}
        bodies[0]["parts"][f"fold{k}"] = {"fold": k, "choice": choice}
    bodies[0]["memory"] = {"file": file, "images": len(rows), "features": width}
    return bodies, files


def _bodies(run: str, frozen: Sequence[FrozenBody]) -> Made:
    """The frozen backbones of a probe, still without parts."""
    bodies: list[dict[str, Any]] = []
    files: dict[str, Callable[[], State]] = {}
    for i, body in enumerate(frozen):
        file, precision = f"{run}/body{i or ''}.safetensors", short_name(body.precision)
        files[file] = partial(_frozen_state, body)
        sizes = {"sizes": (body.size, body.size), "precision": precision, "on_cpu": precision}
        bodies.append({"backbone": asdict(body.backbone), **sizes, "body": file, "parts": {}})
    return bodies, files


def _frozen_state(body: FrozenBody) -> State:
    return body.model().network.state_dict()


def state_bytes(state: State, *, is_half: bool) -> bytes:
    """The tensors as safetensors, in a fixed order; floats in float16 where that is asked for."""
    kept = {name: tensor.half() if is_half and tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return save({name: kept[name].cpu().contiguous() for name in sorted(kept)})


def view_costs(run: PackedRun) -> dict[str, dict[str, float]]:
    """Floating-point operations that one picture costs under each view, by what they are spent on.

    What several runs share, as a probe and its neighbours share the backbone, has one name.
    """
    costs: dict[str, dict[str, float]] = {view: {} for view in run.views}
    for body in run.bodies:
        network = build_network(backbone_of(body), 2, size=body.sizes[0], stages=body.stages).eval()
        flops = dict[int, float]()
        for view in run.views:
            size = view_size(view, body.sizes[1])
            if size not in flops:
                with FlopCounterMode(display=False) as counter, torch.inference_mode():
                    network(torch.zeros(1, 3, size, size))
                flops[size] = float(counter.get_total_flops())
            passes = 1 if body.body else len(run.parts)
            costs[view][f"{body.body or next(iter(run.parts.values()))['file']} {view}"] = flops[size] * passes
    if run.memory:  # whitened, and multiplied with the images of the memory
        width = run.memory["features"]
        own = 2.0 * width * (width + run.memory["images"]) * len(run.parts)
        costs = {view: {**cost, f"{run.memory['file']} {view}": own} for view, cost in costs.items()}
    return costs


def packed_log_probs(
    run: PackedRun,
    read: Callable[[str], bytes],
    store: PixelStore,
    rows: np.ndarray,
    *,
    n_classes: int,
    device_name: str = "auto",
    parts: Sequence[str] = (),
    seen: dict[tuple[str, str], np.ndarray] | None = None,
    **passes: Unpack[Passes],
) -> np.ndarray:
    """(parts, n, V, C) float32 log-probabilities of store rows (n,), under the views of the run in their order.

    read   the bytes of a file of the pack     parts  some of the run's; all if empty
    seen   features of these rows by backbone and view, which runs that share a backbone hand on
    """
    device, chosen = choose_device(device_name), list(parts) or list(run.parts)

    def model(body: PackedRun, file: str, n: int, shift: Sequence[float] | None) -> Model:
        backbone = backbone_of(body)
        precision = choose_precision(body.on_cpu if device.type == "cpu" else body.precision, device)
        network = build_network(backbone, n, size=body.sizes[0], stages=body.stages)
        network.load_state_dict(load(read(file)))  # float16 becomes float32
        network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        shifts = np.zeros(n) if shift is None else np.array(shift)
        return Model(network, backbone, body.sizes[1], device, precision, shifts)

    if run.body is None:
        models = [model(run, run.parts[part]["file"], n_classes, run.parts[part]["shift"]) for part in chosen]
        return log_probs_of(models, store, rows, run.views, **passes)
    seen = {} if seen is None else seen
    for body in run.bodies:
        assert body.body is not None, "a frozen backbone without tensors"
        lacking = [view for view in run.views if (body.body, view) not in seen]
        if lacking:
            pieces = model(body, body.body, 1, None).features(store, rows, lacking, **passes)
            # As the features that the heads were fitted to, (V, n, D of this backbone).
            made = np.concatenate([stored(stages) for stages in pieces], 1)
            seen |= {(body.body, view): one for view, one in zip(lacking, made, strict=True)}
    views = [np.concatenate([seen[str(body.body), view] for body in run.bodies], axis=1) for view in run.views]
    asked = [torch.from_numpy(view.astype(np.float32)).to(device) for view in views]  # of each view (n, D)
    readers = _readers(run, read, chosen, n_classes=n_classes, device=device)
    return torch.stack([torch.stack([answer(one) for one in asked], dim=1).cpu() for answer in readers]).numpy()


def _readers(
    run: PackedRun, read: Callable[[str], bytes], parts: Sequence[str], *, n_classes: int, device: torch.device
) -> Iterator[Callable[[Tensor], Tensor]]:
    """For each part what makes log-probabilities (n, C) of features (n, D): its head, or its memory; one at a time."""
    if run.memory is None:
        for part in parts:
            state = load(read(run.parts[part]["file"]))
            yield Head(state["weight"].float(), state["bias"].float()).to(device).log_probs
        return
    state = load(read(run.memory["file"]))
    n_stages = sum(name.startswith("features") for name in state)
    features = FeatureRows([list(state[f"features{i}"].numpy()) for i in range(n_stages)], device)
    for part in parts:
        rows = np.flatnonzero(state["fold"].numpy() != run.parts[part]["fold"])
        memory = Memory(features(rows), state["target"][rows], n_classes=n_classes, widths=features.widths)
        yield partial(memory.log_probs, choice=Choice(**run.parts[part]["choice"]))


def backbone_of(run: PackedRun) -> Backbone:
    return Backbone(**run.backbone)
