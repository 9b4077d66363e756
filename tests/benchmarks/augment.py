"""Measures augmentation on the training device: `python -m tests.benchmarks.augment`.

Per image of a batch that lies on the device as uint8: crop, mirror and scaling with the default settings, and with
everything on (turns, colours, erasing, Mixup and CutMix); beside a resnet18's training step at the same size and batch,
with the precision that `auto` chooses. On a CPU the whole is to stay under a tenth of the step.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
from cyclopts import Parameter
from torch import Tensor

from models.backbones import build_network, resolve_backbone
from models.device import choose_device, choose_precision
from models.input.augment import draw, training_input
from models.input.mixing import Mixer
from models.recipes import FullSettings, full_settings
from models.settings import TrainSettings
from models.sizes import store_size_for
from models.train.stepper import Stepper
from tests.benchmarks.measure import by_turns, finish, ranged, ratios, show, spread

CLASSES, GOAL = 103, 0.1
USUAL = TrainSettings()
EVERYTHING = dataclasses.replace(USUAL, rotate=10.0, colour_jitter=0.2, erase=0.25, mixup=0.2, cutmix=1.0)


def main(
    *,
    backbone: Annotated[str, Parameter(help="whose step is measured beside it")] = "resnet18",
    sizes: Annotated[
        tuple[int, ...] | None, Parameter(help="of the input; 64, 128 and 224, on a GPU 224", negative=())
    ] = None,
    batch: Annotated[int | None, Parameter(help="images; 16, on a GPU 256")] = None,
    repeats: int = 5,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    device = choose_device("auto")
    is_gpu = device.type == "cuda"
    chosen, images = sizes or ((224,) if is_gpu else (64, 128, 224)), batch or (256 if is_gpu else 16)
    figures = {
        "device": str(device),
        "precision": str(choose_precision("auto", device)),
        "backbone": backbone,
        "batch": images,
        "sizes": {str(size): measure(backbone, size, images, repeats=repeats, device=device) for size in chosen},
    }
    show_figures(figures)
    finish("augment", figures, keep=record)


def measure(backbone_name: str, size: int, batch: int, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds per image of both augmentations and of the step, by turns."""
    backbone, precision = resolve_backbone(backbone_name), choose_precision("auto", device)

    def full(settings: TrainSettings) -> FullSettings:
        return full_settings(settings, tag=backbone.tag, has_weights=False, n_train=1000)

    rng, store_size = np.random.default_rng(0), store_size_for(size)
    pixels = torch.from_numpy(rng.integers(0, 256, (batch, store_size, store_size, 3), dtype=np.uint8)).to(device)
    target = torch.from_numpy(rng.integers(0, CLASSES, batch)).to(device)

    def augment(settings: TrainSettings) -> Tensor:
        draws = draw(rng, settings, width=np.full(batch, 500), height=np.full(batch, 375))
        images = training_input(pixels, draws, size=size, backbone=backbone, precision=precision)
        return Mixer(full(settings), n_classes=CLASSES, device=device)(images, target, epoch=0)[0]

    network = build_network(backbone, CLASSES, size=size)
    stepper = Stepper(
        network, full(USUAL), lr=1e-4, epoch_steps=1000, batch_size=batch, device=device, precision=precision
    )
    stepper.train_mode()
    images = augment(USUAL)
    works = {
        "usual": lambda: augment(USUAL),
        "everything": lambda: augment(EVERYTHING),
        "step": lambda: stepper.step(1, images, target),
    }
    costs = by_turns(works, repeats=repeats, device=device)
    return {
        "store_size": store_size,
        "seconds_per_image": {name: spread(cost.wall / batch for cost in one) for name, one in costs.items()},
        "cpu_seconds_per_image": {name: spread(cost.cpu / batch for cost in one) for name, one in costs.items()},
        "share_of_step": {name: ratios(costs[name], costs["step"]) for name in ("usual", "everything")},
    }


def show_figures(figures: dict[str, Any]) -> None:
    labels = {
        "usual": "augmentation, default settings",
        "everything": "augmentation, everything on",
        "step": f"{figures['backbone']} training step",
    }
    rows = []
    for size, made in figures["sizes"].items():
        for name, label in labels.items():
            seconds, share = made["seconds_per_image"][name], made["share_of_step"].get(name)
            last = ranged(share, scale=100, form=".1f") + " %" if share else ""
            from_to = f"{made['store_size']} to {size}"
            rows.append((label, from_to, ranged(seconds, scale=1e6), f"{1 / seconds['median']:,.0f}", last))
    title = f"batches of {figures['batch']}, {figures['precision']} on {figures['device']}, goal on a CPU"
    show(f"{title}: under {GOAL:.0%} of the step", ("", "pixels", "us per image", "images/s", "of the step"), rows)


if __name__ == "__main__":
    cyclopts.run(main)
