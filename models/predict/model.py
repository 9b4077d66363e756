"""A network's log-probabilities and features of the images in the store, under each view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.pixels.store import PixelStore
from models.backbones import Backbone, pooled_features
from models.device import autocast, fused, is_out_of_memory
from models.input.batches import gather_batches
from models.input.resample import network_input
from models.input.views import view_boxes, view_size

# tf_efficientnet_lite0 at 224 pixels, one thread of an AMD EPYC: 39, 43 and 39 images a processor second in passes of
# 16, 32 and 128, at a peak of 1.3, 1.8 and 3.7 GB.
CPU_BATCH = 32


class Passes(TypedDict, total=False):
    """How images go through a network: at most how many at once, and the words and the tracker of the bar."""

    batch_size: int
    what: str
    track: Track


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode on its device, the side of its input in pixels, and what its logits lack.

    size   under the views that name none
    shift  (C,) float64, added to the logits: what restores the class prior that sampling shifted, else zeros
    """

    network: nn.Module
    backbone: Backbone
    size: int
    device: torch.device
    precision: torch.dtype
    shift: np.ndarray

    def log_probs(
        self, store: PixelStore, rows: np.ndarray, views: Sequence[str], **passes: Unpack[Passes]
    ) -> np.ndarray:
        """(n, V, C) float32 log-probabilities of store rows (n,) under V views."""
        return log_probs_of([self], store, rows, views, **passes)[0]

    def features(
        self, store: PixelStore, rows: np.ndarray, views: Sequence[str], **passes: Unpack[Passes]
    ) -> Iterator[list[Tensor]]:
        """Each of the `pooled_features` as (V, B, d), batch after batch. No rows: one batch of none."""
        inputs = self.inputs(store, rows, views, **passes)
        if not len(rows):  # one image that is not kept tells how many features there are
            inputs = iter([[torch.zeros(1, 3, self.size, self.size, device=self.device)] * len(views)])
        parts = _Parts()
        with fused(self.network, size=self.size, device=self.device):
            for seen in inputs:
                with torch.inference_mode(), autocast(self.device, self.precision):
                    of_views = [parts(partial(pooled_features, self.network), one) for one in seen]
                    found = [torch.stack(views) for views in zip(*of_views, strict=True)]
                yield found if len(rows) else [one[:, :0] for one in found]

    def logits(self, images: Tensor) -> list[Tensor]:
        """One tensor, (B, C) float32, without `shift`."""
        with autocast(self.device, self.precision):
            return [self.network(images).float()]

    def inputs(
        self,
        store: PixelStore,
        rows: np.ndarray,
        views: Sequence[str],
        *,
        batch_size: int = 128,
        what: str = "predict",
        track: Track = silently,
    ) -> Iterator[Iterable[Tensor]]:
        """For each batch of rows V inputs (B, 3, side, side), made when asked for: eight at once fill the cache."""
        width, height, crop_share = store.width[rows], store.height[rows], self.backbone.crop_share
        boxes = [view_boxes(view, width=width, height=height, crop_share=crop_share) for view in views]
        sizes = [view_size(view, self.size) for view in views]
        # What mirrors the view before it is that one flipped: on a CPU resampling takes 4 ms, and a pass of lite0 10.
        pairs = zip(sizes, sizes[1:], boxes, boxes[1:], strict=False)
        flips = [False, *(a == b and np.array_equal(one[:, [2, 1, 0, 3]], other) for a, b, one, other in pairs)]
        if self.device.type == "cpu":
            batch_size = min(batch_size, CPU_BATCH)
        starts = range(0, len(rows), batch_size)
        batches = [rows[start : start + batch_size] for start in starts]
        gathered = gather_batches(store.pixels, batches, self.device)
        for start, pixels in zip(starts, track(gathered, what=what, total=len(rows), each=batch_size), strict=True):
            yield self._inputs(pixels, [box[start : start + batch_size] for box in boxes], sizes, flips)

    def _inputs(
        self, pixels: Tensor, boxes: Sequence[np.ndarray], sizes: Sequence[int], flips: Sequence[bool]
    ) -> Iterator[Tensor]:
        seen = pixels
        for box, size, is_flip in zip(boxes, sizes, flips, strict=True):
            seen = seen.flip(3) if is_flip else network_input(pixels, box, size=size, backbone=self.backbone)
            yield seen


def log_probs_of(
    models: Sequence[Model], store: PixelStore, rows: np.ndarray, views: Sequence[str], **passes: Unpack[Passes]
) -> np.ndarray:
    """(len(models), n, V, C) float32 log-probabilities by models of one run, for which each image is read once."""
    first = models[0]
    shifts = torch.from_numpy(np.stack([model.shift for model in models])).float().to(first.device)  # (models, C)
    found, parts = [torch.empty(len(models), 0, len(views), shifts.shape[1])], _Parts()
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(fused(model.network, size=model.size, device=model.device))
        for seen in first.inputs(store, rows, views, **passes):
            with torch.inference_mode():
                # One view at a time: eight at once cost 8.7 times one: they leave no room in the processor's cache.
                answers = [torch.stack([parts(model.logits, view)[0] for model in models]) for view in seen]
                logits = torch.stack(answers, dim=2) + shifts[:, None, None]  # of (models, B, C) for each view
                found.append(logits.log_softmax(dim=3).cpu())
    return torch.cat(found, dim=1).numpy()


class _Parts:
    """Forward passes of as many images as the device's memory holds: halved, for good, where it is short."""

    most: int | None = None

    def __call__(self, forward: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[Tensor]:
        """Each of the tensors (B, ..) that `forward` makes of images (B, 3, size, size)."""
        while True:
            try:
                made = [forward(part) for part in images.split(self.most or max(len(images), 1))]
                return made[0] if len(made) == 1 else [torch.cat(one) for one in zip(*made, strict=True)]
            except RuntimeError as err:
                if not is_out_of_memory(err):
                    raise
            made = []  # outside of `except`, which keeps the tensors alive
            if images.is_cuda:
                torch.cuda.empty_cache()
            self.most = min(self.most or len(images), len(images)) // 2
            if not self.most:
                raise UserError(
                    f"out of memory with one image of {images.shape[-1]} pixels at prediction",
                    hint="smaller views, such as `--views centre,mirror`, or free the device's memory",
                )
