"""Asks a backbone that is not trained what it sees: the features that a head would get."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from folds.base.errors import UserError, first_few
from folds.base.workspace import digest
from models.backbones import Backbone, build_network
from models.device import autocast


@dataclass(frozen=True)
class FrozenBody:
    """A backbone that is not trained, and how it is asked.

    weights  its file; None for random ones, drawn from `seed`     size  side of its input, in pixels
    """

    backbone: Backbone
    weights: Path | None
    size: int
    device: torch.device
    precision: torch.dtype
    seed: int = 0

    def facts(self) -> dict[str, Any]:
        """What decides the features of given pixels, to the last bit on one machine; plain JSON."""
        weights = digest(self.weights.read_bytes()) if self.weights else f"random, seed {self.seed}"
        precision = str(self.precision).removeprefix("torch.")
        facts = {**asdict(self.backbone), "weights": weights, "image_size": self.size, "precision": precision}
        return dict(json.loads(json.dumps(facts)))

    def network(self) -> nn.Module:
        """The network in evaluation mode, on its device; nobody asks its head."""
        with torch.random.fork_rng(devices=[]):  # what is drawn later does not depend on whether features lay on disk
            torch.manual_seed(self.seed)
            network = build_network(self.backbone, 1, size=self.size, weights=self.weights)
        return network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


@torch.inference_mode()
def ask_frozen(network: nn.Module, seen: Sequence[Tensor], body: FrozenBody) -> Tensor:
    """(V, B, D) float32 on the device: what the head would get."""
    with autocast(body.device, body.precision):
        answers = [network.forward_head(network.forward_features(one), pre_logits=True) for one in seen]  # type: ignore[operator]
    return torch.stack([answer.float().flatten(1) for answer in answers])


def refuse_odd(features: Tensor, image_id: np.ndarray, body: FrozenBody) -> None:
    """Refuse features (V, B, D) that are NaN or infinite, naming their images. image_id (B,) str."""
    finite = torch.isfinite(features).all(dim=2).all(dim=0).cpu().numpy()
    if not finite.all():
        raise UserError(
            f"{body.backbone.tag} has no finite features for {first_few(list(image_id[~finite]))}",
            hint="`--precision fp32`",
        )
