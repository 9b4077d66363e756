"""A run without its work folder: networks and heads as bytes, and what they predict of any pictures."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import timm
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.onnx import OnnxExporterError
from torch.utils.flop_counter import FlopCounterMode

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.backbones import Backbone, build_network
from models.device import choose_device, choose_precision, short_name
from models.input.views import view_size
from models.predict.again import load_trained
from models.predict.model import Model, log_probs_of
from models.probe.bodies import probed_bodies
from models.probe.features import LARGEST, STORED, FrozenBody
from models.probe.logistic import Head
from models.runs import PROBE, RunPlan, done_folds, done_refit, kind_of
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
    parts      by fold (or `all`): the file of its tensors, and what is added to its logits, (C,)
    views      those that the blend uses
    """

    backbone: Mapping[str, Any]
    sizes: tuple[int, int]
    precision: str
    on_cpu: str
    views: tuple[str, ...]
    body: str | None
    parts: Mapping[str, Mapping[str, Any]]
    licence: str
    beside: tuple[PackedRun, ...] = ()

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
    made = _probe(workspace, run, plans) if kind_of(workspace, run) == PROBE else _networks(workspace, run, folds)
    bodies, files = made
    first, *beside = [PackedRun(**fields, views=tuple(views), licence=_licence(fields)) for fields in bodies]
    return replace(first, beside=tuple(beside)), iter(files.items())


def _licence(fields: Mapping[str, Any]) -> str:
    cfg = timm.get_pretrained_cfg(fields["backbone"]["tag"])
    return (cfg.license if cfg else None) or "unknown"


def _networks(workspace: Workspace, run: str, folds: Folds) -> Made:
    """The trained networks of a run: those of its folds, and its refit."""
    parts: list[int | None] = [*done_folds(workspace, run), *([None] if done_refit(workspace, run) else [])]
    device, named = torch.device("cpu"), {}
    files: dict[str, Callable[[], State]] = {}
    for fold in parts:
        one = load_trained(workspace, run, fold, folds, device=device)
        name = JobKey(run, fold).part
        file = f"{run}/{name}.safetensors"
        files[file] = partial(_read_state, JobKey(run, fold).folder(workspace) / "network.safetensors")
        named[name] = {"file": file, "shift": one.model.shift.tolist()}
    settings, backbone = one.settings_json["settings"], one.model.backbone
    fields = {
        "backbone": asdict(backbone),
        "sizes": (settings["image_size"] or backbone.size, one.model.size),
        "precision": settings["precision"],
        "on_cpu": short_name(one.model.precision),
        "body": None,
        "parts": named,
    }
    return [fields], files


def _read_state(path: Path) -> State:
    return load(path.read_bytes())


def _probe(workspace: Workspace, run: str, plans: Sequence[RunPlan]) -> Made:
    """The frozen backbones of a probe, and the heads of its folds."""
    done, files = done_folds(workspace, run), dict[str, Callable[[], State]]()
    for k, record in done.items():
        path = workspace.fold(run, k) / "head.safetensors"
        data = path.read_bytes()
        if digest(data) != record["files"][path.name]:
            hint = f"remove {workspace.models / run} and probe again"
            raise UserError(f"{path} changed after it was written", hint=hint)
        files[f"{run}/fold{k}.safetensors"] = partial(load, data)
    parts: dict[str, Any] = {f"fold{k}": {"file": f"{run}/fold{k}.safetensors", "shift": None} for k in done}
    bodies = []
    for i, body in enumerate(probed_bodies(workspace, run, plans, device=torch.device("cpu"), command="pack")):
        file, precision = f"{run}/body{i or ''}.safetensors", short_name(body.precision)
        files[file] = partial(_frozen_state, body)
        sizes = {"sizes": (body.size, body.size), "precision": precision, "on_cpu": precision}
        bodies.append({"backbone": asdict(body.backbone), **sizes, "body": file, "parts": {} if i else parts})
    return bodies, files


def _frozen_state(body: FrozenBody) -> State:
    return body.model().network.state_dict()


def state_bytes(state: State, *, is_half: bool) -> bytes:
    """The tensors as safetensors, in a fixed order; floats in float16 where that is asked for."""
    kept = {name: tensor.half() if is_half and tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return save({name: kept[name].cpu().contiguous() for name in sorted(kept)})


def view_costs(run: PackedRun) -> dict[str, float]:
    """Floating-point operations that one picture costs under each view, over all networks of the run."""
    costs, passes = dict.fromkeys(run.views, 0.0), 1 if run.body else len(run.parts)
    for body in run.bodies:
        network, flops = build_network(_backbone(body), 2, size=body.sizes[0]).eval(), dict[int, float]()
        for size in sorted({view_size(view, body.sizes[1]) for view in run.views}):
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                network(torch.zeros(1, 3, size, size))
            flops[size] = float(counter.get_total_flops()) * passes
        costs = {view: cost + flops[view_size(view, body.sizes[1])] for view, cost in costs.items()}
    return costs


class _Whole(nn.Module):
    """A part of a run as one function: normalised pictures in, log-probabilities out."""

    def __init__(self, network: nn.Module, head: Head | None, shift: Tensor) -> None:
        super().__init__()
        self.network, self.has_head = network, head is not None
        given = (head.weight, head.bias, shift) if head else (torch.zeros(0), torch.zeros(0), shift)
        self.weight, self.bias, self.shift = (nn.Parameter(tensor, requires_grad=False) for tensor in given)

    def forward(self, images: Tensor) -> Tensor:
        if not self.has_head:
            answer: Tensor = self.network(images)
            return torch.log_softmax(answer + self.shift, dim=1)
        seen = self.network.forward_head(self.network.forward_features(images), pre_logits=True)  # type: ignore[operator]
        return torch.log_softmax(seen.flatten(1) @ self.weight.T + self.bias + self.shift, dim=1)


def onnx_bytes(run: PackedRun, read: Callable[[str], bytes], part: str, *, n_classes: int) -> bytes:
    """A part of a run as ONNX: `images` (B, 3, S, S) float32, normalised -> `log_probs` (B, C) float32.

    S is any side where the run has views of several, else its own. Raises UserError where the packages that torch's
    exporter needs are not installed, where it cannot leave the side open, or where the run is no one network.
    """
    if run.beside:
        tags = ", ".join(body.backbone["tag"] for body in run.bodies)
        raise UserError(
            f"a probe of several backbones is no one network: {tags}", hint="leave out `--onnx`, or blend without it"
        )
    packages = ("onnx", "onnxscript")
    if not all(importlib.util.find_spec(name) for name in packages):
        raise UserError("`--onnx` needs the packages onnx and onnxscript", hint="`pip install -e '.[onnx]'`")
    head, one = None, run.parts[part]
    if run.body:
        state = load(read(one["file"]))
        head = Head(state["weight"].float(), state["bias"].float())
    network = build_network(_backbone(run), 1 if run.body else n_classes, size=run.sizes[0])
    network.load_state_dict(load(read(run.body or one["file"])))
    whole = _Whole(network, head, torch.tensor(one["shift"] or [0.0] * n_classes, dtype=torch.float32)).eval()
    images = torch.zeros(2, 3, run.sizes[1], run.sizes[1])
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any(view_size(view, run.sizes[1]) != run.sizes[1] for view in run.views):
        free |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        try:
            program = torch.onnx.export(
                whole,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["log_probs"],
                dynamic_shapes=(free,),
            )
        except OnnxExporterError as err:
            if len(free) == 1:
                raise
            raise UserError(
                f"torch cannot write {run.backbone['tag']} as ONNX for inputs of several sizes, which its views need",
                hint="`python run.py blend --member-views centre,mirror`, then `python run.py pack --onnx`",
            ) from err
    assert program is not None, "torch exported nothing"
    data: bytes = program.model_proto.SerializeToString(deterministic=True)
    return data


def packed_log_probs(
    run: PackedRun,
    read: Callable[[str], bytes],
    store: PixelStore,
    rows: np.ndarray,
    *,
    n_classes: int,
    device_name: str = "auto",
    batch_size: int = 128,
    what: str = "predict",
    track: Track = silently,
    parts: Sequence[str] = (),
) -> np.ndarray:
    """(parts, n, V, C) float32 log-probabilities of store rows (n,), under the views of the run in their order.

    read   the bytes of a file of the pack     parts  some of the run's; all if empty
    """
    device, chosen = choose_device(device_name), list(parts) or list(run.parts)

    def model(body: PackedRun, file: str, n: int, shift: Sequence[float] | None) -> Model:
        backbone = _backbone(body)
        precision = choose_precision(body.on_cpu if device.type == "cpu" else body.precision, device)
        network = build_network(backbone, n, size=body.sizes[0])
        network.load_state_dict(load(read(file)))  # float16 becomes float32
        network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        shifts = np.zeros(n) if shift is None else np.array(shift)
        return Model(network, backbone, body.sizes[1], device, precision, shifts)

    common: dict[str, Any] = {"batch_size": batch_size, "what": what, "track": track}
    if run.body is None:
        models = [model(run, run.parts[part]["file"], n_classes, run.parts[part]["shift"]) for part in chosen]
        return log_probs_of(models, store, rows, run.views, **common)
    states = [load(read(run.parts[part]["file"])) for part in chosen]
    heads = [Head(state["weight"].float(), state["bias"].float()).to(device) for state in states]
    blocks = []
    for body in run.bodies:
        assert body.body is not None, "a frozen backbone without tensors"
        pieces = model(body, body.body, 1, None).features(store, rows, run.views, **common)
        # As the features that the heads were fitted to, (V, n, D of this backbone).
        blocks.append(np.concatenate([one.clamp(-LARGEST, LARGEST).cpu().numpy().astype(STORED) for one in pieces], 1))
    seen = torch.from_numpy(np.concatenate(blocks, axis=2).astype(np.float32)).to(device)  # (V, n, D)
    found = torch.stack([torch.stack([head.log_probs(view) for view in seen], dim=1) for head in heads])
    return found.cpu().numpy()


def _backbone(run: PackedRun) -> Backbone:
    return Backbone(**run.backbone)
