"""From a name to a network: full weight tags, what their input is, weights from a file, the head."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from torch import Tensor, nn

from folds.base.errors import UserError, first_few

# What the short names stand for. The README says why.
SHORT_NAMES = {
    "resnet50": "resnet50.a1_in1k",
    "resnet101": "resnet101.a1h_in1k",
    "inception": "inception_v3.gluon_in1k",
    "inception_v3": "inception_v3.gluon_in1k",
    "inception_v4": "inception_v4.tf_in1k",
    "resnext101_64x4d": "resnext101_64x4d.c1_in1k",
}
STAGES = 2  # of a network, from the last on, that give features to probes, neighbours and probed heads


@dataclass(frozen=True)
class Backbone:
    """A backbone by its full tag, with what its weights were trained for.

    mean, std   of the input in [0, 1], per channel      size  of the input, in pixels
    crop_share  of the short side in the centre view     kernel  of the resampling
    """

    tag: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    crop_share: float
    kernel: str
    fixed_size: bool


def resolve_backbone(name: str) -> Backbone:
    """The backbone that a short name, a timm name or a full tag stands for. Raises UserError with the nearest names."""
    if "+" in name:
        hint = f"`python run.py probe --backbone {name}`"
        raise UserError(f"`{name}` is several backbones side by side, which only `probe` takes", hint=hint)
    tag = SHORT_NAMES.get(name, name)
    if not timm.is_model(tag.split(".")[0]):
        near = difflib.get_close_matches(name, [*SHORT_NAMES, *timm.list_models()], n=3)
        hint = f"did you mean {' or '.join(f'`{other}`' for other in near)}?" if near else "`--backbone resnet50`"
        raise UserError(f"there is no backbone `{name}`, neither here nor in timm", hint=hint)
    try:
        cfg = timm.get_pretrained_cfg(tag) or PretrainedCfg(interpolation="bilinear")
    except RuntimeError as err:
        known = [full for full in timm.list_pretrained() if full.startswith(f"{tag.split('.')[0]}.")]
        raise UserError(f"timm has no weights `{tag}`", hint=f"it has {first_few(known, most=6) or 'none'}") from err
    return Backbone(
        tag=tag if "." in tag or not cfg.tag else f"{tag}.{cfg.tag}",
        mean=cfg.mean,
        std=cfg.std,
        size=cfg.input_size[1],
        crop_share=min(cfg.crop_pct, 1.0),  # three VOLO nets were tested on more than the picture
        kernel="bicubic" if cfg.interpolation == "bicubic" else "bilinear",
        fixed_size=cfg.fixed_input_size,
    )


def build_network(
    backbone: Backbone,
    n_classes: int,
    *,
    size: int,
    weights: Path | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    stages: int = 1,
) -> nn.Module:
    """A network with a new head of C classes; its body from a weights file, or random where there is none.

    stages  STAGES, where the logits come from the means of the last stages' maps too; 1 for what timm's head gets
    Maps (B, 3, size, size) float normalised images to (B, C) logits. Raises UserError where the file is for another
    network or the input too small for this one.
    """
    extra: dict[str, Any] = {"img_size": size} if backbone.fixed_size else {}
    if drop_path:
        extra["drop_path_rate"] = drop_path
    extra |= {"num_classes": n_classes, "drop_rate": dropout}
    try:
        network = timm.create_model(backbone.tag, pretrained=False, **extra)
    except TypeError as err:
        raise UserError(f"{backbone.tag} has no stochastic depth: {err}", hint="leave out `--drop-path`") from err
    if weights is not None:
        network = _with_body(network, weights, backbone=backbone, size=size, extra=extra)
    refuse_input(backbone, size=size, hint=f"`--image-size {backbone.size}`, the size of its weights", network=network)
    if stages == STAGES and one_head(network) is not None:
        with torch.inference_mode():  # in evaluation mode, as `refuse_input` left it
            *means, _ = pooled_features(network, torch.zeros(1, 3, size, size))
        if means:  # a head of zeros on the last stages, for which no number is drawn
            width = sum(one.shape[1] for one in means)
            network.stage_head = nn.utils.skip_init(nn.Linear, width, n_classes, bias=False)
            nn.init.zeros_(network.stage_head.weight)
            network.__class__ = type(type(network).__name__, (_StageLogits, type(network)), {})
    return network


def pooled_features(network: nn.Module, images: Tensor) -> list[Tensor]:
    """What timm's head gets, (B, d) float32; before it the means of the maps of the last STAGES stages.

    The last map is left out where it has as many channels as the head gets features (ResNet): its means are these.
    Networks of one resolution, such as ViT, give only what the head gets. After Head2Toe (Evci et al. 2022).
    Frozen tf_efficientnet_lite0 at 224 pixels, top-3 error and log loss with and without the stages: Caltech-101 out of
    five folds 0.0144 and 0.0163, 0.223 and 0.244 (paired -0.0019 +- 0.0007, -0.021 +- 0.003), neighbours 0.0195 and
    0.0220; 12 images a class, three draws, 0.0401 and 0.0426, 0.460 and 0.481.
    """
    if not hasattr(network, "forward_intermediates"):
        return [network.forward_head(network.forward_features(images), pre_logits=True).float().flatten(1)]  # type: ignore[operator]
    last, maps = network.forward_intermediates(images, indices=STAGES)  # type: ignore[operator]
    found: Tensor = network.forward_head(last, pre_logits=True).float().flatten(1)  # type: ignore[operator]
    return [*_stage_means(network, maps, n_features=found.shape[1]), found]


def _stage_means(network: nn.Module, maps: Sequence[Tensor], *, n_features: int) -> list[Tensor]:
    """Means of maps (B, c, h, w) that are not what timm's head gets: (B, c) float32 each. n_features: that it gets"""
    finer, last = (stage["reduction"] for stage in network.feature_info[-STAGES:])  # type: ignore[index]
    if finer == last:
        return []
    return [one.float().mean((2, 3)) for one in (maps if maps[-1].shape[1] != n_features else maps[:-1])]


class _StageLogits(nn.Module):
    """Mixed into a network's class: the means of the last stages add to its logits.

    A class of its own and no wrapper, so that timm's names of parameters and layers stay as they are.
    """

    stage_head: nn.Linear

    def forward(self, images: Tensor) -> Tensor:
        last, maps = self.forward_intermediates(images, indices=STAGES)  # type: ignore[operator]
        means = _stage_means(self, maps, n_features=self.get_classifier().in_features)  # type: ignore[operator]
        logits: Tensor = self.forward_head(last)  # type: ignore[operator]
        return logits + self.stage_head(torch.cat(means, dim=1))


def set_head(network: nn.Module, weight: Tensor, bias: Tensor) -> bool:
    """Put a head (C, D) into the network: its columns are those of the `pooled_features` that the network uses.

    False, and nothing changed, where its classifier is not one nn.Linear, or takes another number of features.
    """
    linear = one_head(network)
    if linear is None:
        return False
    parts: list[nn.Linear] = [network.stage_head, linear] if isinstance(network, _StageLogits) else [linear]
    widths = [part.in_features for part in parts]
    if weight.shape != (linear.out_features, sum(widths)):
        return False
    with torch.no_grad():
        for part, columns in zip(parts, weight.split(widths, dim=1), strict=True):
            part.weight.copy_(columns)
        linear.bias.copy_(bias)
    return True


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict in float32 from safetensors or from a plain torch file, which is read without unpickling code."""
    hint = "a safetensors file, or a state dict saved with torch.save"
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as err:
        raise UserError(f"the weights file {path} does not exist", hint=f"`--weights FILE`: {hint}") from err
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as err:
        raise UserError(f"{path} holds no weights that can be read safely", hint=f"needed: {hint}") from err
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict", hint=f"needed: {hint}")
    return {name.removeprefix("module."): value.float() for name, value in state.items()}


def _with_body(network: nn.Module, path: Path, *, backbone: Backbone, size: int, extra: dict[str, Any]) -> nn.Module:
    """The network with everything from the file but a head of another size; refuse a file that is not this network's.

    Where tensors have another shape, timm builds the network anew: it knows for each family how position embeddings
    are resampled to another input size, and has no function that does only that.
    """
    state, own = read_weights(path), network.state_dict()
    head, tag = _head_names(network), backbone.tag
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    lacking = [name for name in own if name not in fitting and not name.startswith(head)]
    if not lacking:
        network.load_state_dict(fitting, strict=False)
        return network
    refusal = UserError(
        f"{path} is not for {tag}: {first_few(lacking)} of its {len(own)} tensors are absent or of another shape",
        hint=f"`--backbone NAME --weights {path}` with the backbone that the file was made for"
        + (f", or `--image-size {backbone.size}`, the size of its weights" if size != backbone.size else ""),
    )
    if any(name not in state for name in lacking):
        raise refusal
    overlay = {"state_dict": state, "num_classes": -1}  # -1: timm leaves out the head, whatever its size
    try:
        resampled: nn.Module = timm.create_model(tag, pretrained=True, pretrained_cfg_overlay=overlay, **extra)
    except (RuntimeError, AssertionError, ValueError, TypeError, KeyError) as err:  # what the families' filters raise
        raise refusal from err
    del resampled.pretrained_cfg["state_dict"]  # type: ignore[union-attr, operator]  # a copy of the file in memory
    resampled.load_state_dict({name: value for name, value in fitting.items() if name.startswith(head)}, strict=False)
    return resampled


def _head_names(network: nn.Module) -> tuple[str, ...]:
    names = network.pretrained_cfg["classifier"]  # type: ignore[index]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def head_parameters(network: nn.Module) -> set[str]:
    """The names of the head's parameters."""
    heads = (*_head_names(network), "stage_head.")
    return {name for name, _ in network.named_parameters() if name.startswith(heads)}


@cache
def find_traits(tag: str) -> Mapping[str, bool]:
    """What a network supports, found out on one whose parameters take no memory.

    has_drop_path  stochastic depth    takes_head  a fitted head: its own is one linear layer with a bias
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            network, has_drop_path = timm.create_model(tag, pretrained=False, num_classes=2, drop_path_rate=0.1), True
        except TypeError:
            network, has_drop_path = timm.create_model(tag, pretrained=False, num_classes=2), False
    return MappingProxyType({"has_drop_path": has_drop_path, "takes_head": one_head(network) is not None})


def one_head(network: nn.Module) -> nn.Linear | None:
    """The head where it is one linear layer with a bias, and no other is beside it, as for distillation."""
    linear = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    n_parameters = sum(name.startswith(_head_names(network)) for name, _ in network.named_parameters())
    return linear if isinstance(linear, nn.Linear) and linear.bias is not None and n_parameters == 2 else None


def refuse_input(backbone: Backbone, *, size: int, hint: str, network: nn.Module | None = None) -> None:
    """Refuse an input that is too small for a network, or does not fit it. network: where it is built already"""
    if network is None:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(backbone.tag, pretrained=False, num_classes=1)
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as err:
        raise UserError(
            f"{backbone.tag} cannot work on {size} x {size} pixels: {str(err).splitlines()[0]}", hint=hint
        ) from err
