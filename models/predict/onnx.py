"""A part of a packed run as ONNX, for other runtimes."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from folds.base.errors import UserError
from models.backbones import build_network, pooled_features
from models.input.views import view_size
from models.predict.packed import PackedRun, backbone_of
from models.probe.logistic import Head


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
        seen = torch.cat(pooled_features(self.network, images), dim=1)
        return torch.log_softmax(seen @ self.weight.T + self.bias + self.shift, dim=1)


def onnx_bytes(run: PackedRun, read: Callable[[str], bytes], part: str, *, n_classes: int) -> bytes:
    """A part of a run as ONNX: `images` (B, 3, S, S) float32, normalised -> `log_probs` (B, C) float32.

    S is any side where the run has views of several, else its own. Raises UserError where the packages that torch's
    exporter needs are not installed, where it cannot leave the side open, or where the run is no one network.
    """
    hint = "leave out `--onnx`, or blend without it"
    if run.memory:
        raise UserError(f"neighbours by {run.backbone['tag']} are no one network: there is no ONNX of them", hint=hint)
    if run.beside:
        tags = ", ".join(body.backbone["tag"] for body in run.bodies)
        raise UserError(f"a probe of several backbones is no one network: {tags}", hint=hint)
    packages = ("onnx", "onnxscript")
    if not all(importlib.util.find_spec(name) for name in packages):
        raise UserError("`--onnx` needs the packages onnx and onnxscript", hint="`pip install -e '.[onnx]'`")
    head, one = None, run.parts[part]
    if run.body:
        state = load(read(one["file"]))
        head = Head(state["weight"].float(), state["bias"].float())
    network = build_network(backbone_of(run), 1 if run.body else n_classes, size=run.sizes[0], stages=run.stages)
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
    model = program.model_proto
    for written in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del written.metadata_props[:]  # the lines of the exporting machine's files, with their paths
    data: bytes = model.SerializeToString(deterministic=True)
    return data
