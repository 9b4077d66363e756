"""Asks trained networks: batches outside, views and networks inside, and every view's probabilities kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from folds.base.progress import Track, silently
from folds.pixels.store import PixelStore
from models.backbones import Backbone
from models.device import autocast
from models.input.batches import gather_batches
from models.input.inputs import network_input
from models.input.views import view_boxes


def predict_views(
    networks: Sequence[nn.Module],
    store: PixelStore,
    rows: np.ndarray,
    *,
    backbone: Backbone,
    size: int,
    views: Sequence[str],
    batch_size: int,
    device: torch.device,
    precision: torch.dtype,
    corrections: Sequence[np.ndarray],
    what: str = "predict",
    track: Track = silently,
) -> np.ndarray:
    """Log-probabilities of every network for every view. (len(networks), n, V, C) float32.

    rows         (n,) int rows of the store; each is gathered and moved to the device once
    corrections  for each network (C,) float64 to add to its logits: the prior that its sampling shifted
    """
    boxes = [
        view_boxes(view, width=store.width[rows], height=store.height[rows], crop_share=backbone.crop_share)
        for view in views
    ]
    shifts = torch.from_numpy(np.stack(corrections)).float().to(device)  # (len(networks), C)
    starts = range(0, len(rows), batch_size)
    batches = [rows[start : start + batch_size] for start in starts]
    gathered = track(gather_batches(store.pixels, batches, device), what=what, total=len(rows), each=batch_size)
    found: list[Tensor] = []
    for start, pixels in zip(starts, gathered, strict=True):
        views_of_batch = (
            network_input(pixels, box[start : start + batch_size], size=size, backbone=backbone) for box in boxes
        )
        found.append(_log_probs(networks, views_of_batch, shifts, device=device, precision=precision))
    none = torch.empty(len(networks), 0, len(views), len(corrections[0]))
    return torch.cat([none, *found], dim=1).numpy()


@torch.inference_mode()
def _log_probs(
    networks: Sequence[nn.Module],
    seen: Iterable[Tensor],
    shifts: Tensor,
    *,
    device: torch.device,
    precision: torch.dtype,
) -> Tensor:
    """(len(networks), B, V, C) float32 on the host; seen yields V inputs of (B, 3, size, size), made when asked for.

    One view at a time: eight at once cost 8.7 times one, since they leave no room in the processor's cache.
    """
    answers = []
    for view in seen:
        with autocast(device, precision):
            answers.append(torch.stack([network(view).float() for network in networks]))  # (len(networks), B, C)
    logits = torch.stack(answers, dim=2) + shifts[:, None, None]
    return logits.log_softmax(dim=3).cpu()
