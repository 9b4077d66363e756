"""Measures augmentation on the training device: `python -m tests.benchmarks.augment`.

Per image of a batch that lies on the device as uint8: crop, mirror and scaling with the default settings, and with
everything on (turns, colours, erasing, Mixup and CutMix); beside a resnet18's training step at the same size and batch,
with the precision that `auto` chooses. On a CPU the whole is to stay under a tenth of the step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cyclopts
import numpy as np
import torch
from torch import Tensor

from models.backbones import build_network, resolve_backbone
from models.device import choose_device, choose_precision
from models.input.augment import draw, training_input
from models.input.mixing import Mixer
from models.input.sizes import store_size_for
from models.recipes import full_settings
from models.settings import TrainSettings
from models.train.stepper import Stepper
from tests.benchmarks.measure import by_turns, finish, ranged, ratios, show, spread

CLASSES, GOAL = 103, 0.1
USUAL = TrainSettings()
EVERYTHING = dataclasses.replace(USUAL, rotate=10.0, colour_jitter=0.2, erase=0.25, mixup=0.2, cutmix=1.0)


def main(*, backbone: str = "resnet18", repeats: int = 5, record: bool = True) -> None:
    """Measure, print the table, and append the figures to results.jsonl. backbone: whose step is measured beside it."""
    device = choose_device("auto")
    sizes, batch = ((224,), 256) if device.type == "cuda" else ((64, 128, 224), 16)
    figures = {
        "device": str(device),
        "precision": str(choose_precision("auto", device)),
        "backbone": backbone,
        "batch": batch,
        "sizes": {str(size): measure(backbone, size, batch, repeats=repeats, device=device) for size in sizes},
    }
    rows = [
        (name, size, ranged(made["seconds_per_image"][name], scale=1e6), ranged(share, scale=100) + " %")
        for size, made in figures["sizes"].items()  # type: ignore[attr-defined]
        for name, share in made["share_of_step"].items()
    ]
    title = f"batches of {batch}, {figures['precision']} on {device}, goal on a CPU: under {GOAL:.0%} of the step"
    show(title, ("augmentation", "pixels", "us per image", "of the step"), rows)
    finish("augment", figures, keep=record)


def measure(backbone_name: str, size: int, batch: int, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds per image of both augmentations and of the step, by turns."""
    backbone, precision = resolve_backbone(backbone_name), choose_precision("auto", device)
    full = {
        settings: full_settings(settings, tag=backbone.tag, has_weights=False, n_train=1000)
        for settings in (USUAL, EVERYTHING)
    }
    rng, store_size = np.random.default_rng(0), store_size_for(size)
    pixels = torch.from_numpy(rng.integers(0, 256, (batch, store_size, store_size, 3), dtype=np.uint8)).to(device)
    target = torch.from_numpy(rng.integers(0, CLASSES, batch)).to(device)

    def augment(settings: TrainSettings) -> Tensor:
        draws = draw(rng, settings, width=np.full(batch, 500), height=np.full(batch, 375))
        images = training_input(pixels, draws, size=size, backbone=backbone, precision=precision)
        return Mixer(full[settings], n_classes=CLASSES, device=device)(images, target, epoch=0)[0]

    network = build_network(backbone, CLASSES, size=size)
    stepper = Stepper(
        network, full[USUAL], lr=1e-4, epoch_steps=1000, batch_size=batch, device=device, precision=precision
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
        "share_of_step": {name: ratios(costs[name], costs["step"]) for name in ("usual", "everything")},
    }


if __name__ == "__main__":
    cyclopts.run(main)
