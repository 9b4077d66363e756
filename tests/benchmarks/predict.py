"""Measures prediction under several views: `python -m tests.benchmarks.predict`.

Test images per second with 1, 2, 5 and 8 views, from a made-up store, by turns. The views share the gathering and the
upload, so V of them must not cost more than V times one. Beside it stands the forward pass alone, on a batch that lies
on the device: what gathering and resampling add.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import torch

from folds.pixels.store import PixelStore
from models.backbones import Backbone, build_network, resolve_backbone
from models.device import autocast, choose_device, choose_precision
from models.input.sizes import store_size_for
from models.input.views import VIEWS
from models.predict.model import Model
from tests.benchmarks.measure import by_turns, finish, ranged, ratios, show, spread, synthetic_store

CLASSES = 103
VIEW_SETS = {
    1: ("centre",),
    2: ("centre", "mirror"),
    5: ("centre", "top-left", "top-right", "bottom-left", "bottom-right"),
    8: tuple(VIEWS),
}


def main(*, repeats: int = 3, record: bool = True) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    device = choose_device("auto")
    name, size, n, batch = ("resnet50", 224, 8192, 256) if device.type == "cuda" else ("resnet18", 64, 256, 64)
    with tempfile.TemporaryDirectory() as temporary:
        store = synthetic_store(Path(temporary), n, store_size_for(size))
        figures = measure(store, resolve_backbone(name), size=size, batch=batch, repeats=repeats, device=device)
    rows = [
        (
            f"{count} views",
            ranged(figures["seconds_per_image"][count], scale=1e3, form=".3f"),
            ranged(times, form=".2f"),
            ranged(figures["passes"][count], form=".2f"),
        )
        for count, times in figures["times_one_view"].items()
    ]
    title = f"{figures['backbone']} at {size}, batches of {batch}, {figures['precision']} on {device}"
    show(title, ("", "ms per image", "times one view, goal <= V", "forward passes"), rows)
    finish("predict", figures, keep=record)


def measure(
    store: PixelStore, backbone: Backbone, *, size: int, batch: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Seconds per image with so many views, and of a forward pass alone."""
    precision, n = choose_precision("auto", device), len(store.image_id)
    network = build_network(backbone, CLASSES, size=size).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    model = Model(network, backbone, size, device, precision, shift=np.zeros(CLASSES))
    seen = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(n // batch):
            with autocast(device, precision):
                network(seen)

    def predict(views: tuple[str, ...]) -> None:
        model.log_probs(store, np.arange(n), views, batch_size=batch)

    works = {f"{count}": (lambda views=views: predict(views)) for count, views in VIEW_SETS.items()}
    costs = by_turns({**works, "forward": forward}, repeats=repeats, device=device)
    return {
        "device": str(device),
        "backbone": backbone.tag,
        "size": size,
        "store_size": store.size,
        "images": n,
        "batch": batch,
        "precision": str(precision),
        "seconds_per_image": {name: spread(cost / n for cost in one) for name, one in costs.items()},
        "times_one_view": {count: ratios(costs[count], costs["1"]) for count in works},
        "passes": {count: ratios(costs[count], costs["forward"]) for count in works},
    }


if __name__ == "__main__":
    cyclopts.run(main)
