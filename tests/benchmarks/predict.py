"""Measures prediction under several views: `python -m tests.benchmarks.predict`.

Test images per second with 1, 2, 5 and 8 views, from a made-up store, by turns. The views share the gathering and the
upload, so V of them must not cost more than V times one. Beside it stands the forward pass alone, on a batch that lies
on the device: what gathering and resampling add.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
from cyclopts import Parameter
from torch import nn

from folds.pixels.store import PixelStore
from models.backbones import Backbone, build_network, resolve_backbone
from models.device import autocast, choose_device, choose_precision
from models.input.views import VIEWS
from models.predict.model import Model
from models.sizes import store_size_for
from tests.benchmarks.measure import by_turns, finish, ranged, ratios, show, spread, synthetic_store

CLASSES = 103
VIEW_SETS = {
    1: ("centre",),
    2: ("centre", "mirror"),
    5: ("centre", "top-left", "top-right", "bottom-left", "bottom-right"),
    8: tuple(VIEWS),
}


def main(
    *,
    backbone: Annotated[str | None, Parameter(help="resnet18, on a GPU resnet50")] = None,
    size: Annotated[int | None, Parameter(help="side of the input; 64, on a GPU 224")] = None,
    images: Annotated[int | None, Parameter(help="how many; 256, on a GPU 8,192")] = None,
    batch: Annotated[int | None, Parameter(help="images at a time; 64, on a GPU 256")] = None,
    repeats: int = 3,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    device = choose_device("auto")
    usual = ("resnet50", 224, 8192, 256) if device.type == "cuda" else ("resnet18", 64, 256, 64)
    name, side, n, at_once = (a or b for a, b in zip((backbone, size, images, batch), usual, strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        store = synthetic_store(Path(temporary), n, store_size_for(side))
        figures = measure(store, resolve_backbone(name), size=side, batch=at_once, repeats=repeats, device=device)
    show_figures(figures)
    finish("predict", figures, keep=record)


def measure(
    store: PixelStore, backbone: Backbone, *, size: int, batch: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Seconds per image with so many views, and of a forward pass alone."""
    precision, n = choose_precision("auto", device), len(store.image_id)
    network = build_network(backbone, CLASSES, size=size).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    model = Model(network, backbone, size, device, precision, shift=np.zeros(CLASSES))
    seen = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def predict(views: tuple[str, ...]) -> None:
        model.log_probs(store, np.arange(n), views, batch_size=batch)

    works = {f"{count}": (lambda views=views: predict(views)) for count, views in VIEW_SETS.items()}
    works["forward"] = lambda: forward(network, seen, n // batch, device=device, precision=precision)
    costs = by_turns(works, repeats=repeats, device=device)
    return {
        "device": str(device),
        "backbone": backbone.tag,
        "size": size,
        "store_size": store.size,
        "images": n,
        "batch": batch,
        "precision": str(precision),
        "seconds_per_image": {name: spread(cost.wall / n for cost in one) for name, one in costs.items()},
        "times_one_view": {str(count): ratios(costs[str(count)], costs["1"]) for count in VIEW_SETS},
        "times_one_view_cpu": {str(count): ratios(costs[str(count)], costs["1"], clock="cpu") for count in VIEW_SETS},
        "passes": {str(count): ratios(costs[str(count)], costs["forward"]) for count in VIEW_SETS},
    }


@torch.inference_mode()
def forward(network: nn.Module, seen: torch.Tensor, batches: int, *, device: torch.device, precision: Any) -> None:
    for _ in range(batches):
        with autocast(device, precision):
            network(seen)


def show_figures(figures: dict[str, Any]) -> None:
    rows = []
    for name, seconds in figures["seconds_per_image"].items():
        last = (
            (ranged(figures["times_one_view"][name], form=".2f"), ranged(figures["passes"][name], form=".2f"))
            if name in figures["passes"]
            else ("", "1")
        )
        label = f"{name} views" if name.isdigit() else "forward pass alone"
        rows.append((label, ranged(seconds, scale=1e3, form=".3f"), f"{1 / seconds['median']:,.0f}", *last))
    title = f"{figures['backbone']} at {figures['size']}, batches of {figures['batch']}, {figures['precision']}"
    headings = ("", "ms per image", "images/s", "times one view, goal <= V", "forward passes")
    show(f"{title} on {figures['device']}", headings, rows)


if __name__ == "__main__":
    cyclopts.run(main)
