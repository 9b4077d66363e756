"""Measures training steps: `python -m tests.benchmarks.step [--compile]`.

Images per second of whole optimiser steps, by turns: with real data (store, gathering, upload, augmentation, as `train`
does it) and with one augmented batch that stays on the device. The ratio is what the way of the data leaves of the
device's speed. `--compile` measures the same network compiled, and after how many steps the compilation has paid.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from cyclopts import Parameter
from torch import Tensor

from folds.pixels.store import PixelStore
from folds.settings import COMMA_LIST
from models.backbones import build_network, resolve_backbone
from models.device import choose_device, choose_precision
from models.recipes import full_settings
from models.settings import TrainSettings
from models.sizes import store_size_for, train_size
from models.train.trainer import FoldTrainer
from tests.benchmarks.measure import (
    by_turns,
    finish,
    ranged,
    ratios,
    show,
    spread,
    synthetic_folds,
    synthetic_store,
    wait_for,
)

CLASSES, GOAL = 103, 0.95
ROWS = 4096  # of the store: 1 GB at 288 pixels, far more than a processor's caches hold
EPOCHS = 1000  # more than are ever begun: the schedule must not end


def main(
    *,
    backbone: Annotated[
        tuple[str, ...], COMMA_LIST, Parameter(help="resnet18,resnet50; on a GPU resnet50,resnet101,inception")
    ] = (),
    size: Annotated[int | None, Parameter(help="side of the input; 64, on a GPU 224 and 299 for inception")] = None,
    batch: Annotated[int | None, Parameter(help="images per step; 32, on a GPU 256")] = None,
    steps: Annotated[int | None, Parameter(help="steps per turn; 4, on a GPU 30")] = None,
    repeats: int = 3,
    compile: Annotated[bool, Parameter(help="also the compiled network, and when that pays")] = False,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    device = choose_device("auto")
    is_gpu = device.type == "cuda"
    names = backbone or (("resnet50", "resnet101", "inception") if is_gpu else ("resnet18", "resnet50"))
    settings = TrainSettings(
        backbone=names, pretrained=False, image_size=size or (None if is_gpu else 64), epochs=EPOCHS,
        batch_size=batch or (256 if is_gpu else 32), head="random",
    )  # fmt: skip
    per_turn = steps or (30 if is_gpu else 4)
    figures: dict[str, Any] = {
        "device": str(device),
        "precision": str(choose_precision("auto", device)),
        "steps": per_turn,
    }
    variants = [(name, False) for name in names] + [(name, True) for name in names if compile]
    figures["networks"] = {
        f"{name}{', compiled' if compiled else ''}": measure(
            name, dataclasses.replace(settings, compile=compiled), steps=per_turn, repeats=repeats, device=device
        )
        for name, compiled in variants
    }
    for name in names if compile else ():
        add_payback(figures["networks"][name], figures["networks"][f"{name}, compiled"])
    show_figures(figures)
    finish("step", figures, keep=record)


def measure(name: str, settings: TrainSettings, *, steps: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds per image of both kinds of steps, and the seconds until the first step was done."""
    backbone = resolve_backbone(name)
    size = train_size(settings, backbone)
    with tempfile.TemporaryDirectory() as temporary:
        rows = max(ROWS, settings.batch_size * 4) if device.type == "cuda" else settings.batch_size * (steps + 1) * 2
        store = synthetic_store(Path(temporary), rows, store_size_for(size))
        trainer = make_trainer(store, name, settings, device=device)
        fresh = endless(trainer)
        kept = next(fresh)
        first_seconds = seconds_of_first(trainer, kept, device=device)
        works = {
            "real": lambda: run_steps(trainer, fresh, steps),
            "kept": lambda: run_steps(trainer, iter([kept] * steps), steps),
        }
        costs = by_turns(works, repeats=repeats, device=device)
    n = steps * settings.batch_size
    return {
        "size": size,
        "store_size": store.size,
        "batch": settings.batch_size,
        "first_step_seconds": first_seconds,
        "seconds_per_image": {kind: spread(cost.wall / n for cost in one) for kind, one in costs.items()},
        "images_per_second": {kind: spread(n / cost.wall for cost in one) for kind, one in costs.items()},
        "real_over_kept": ratios(costs["kept"], costs["real"]),
        "peak_device_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }


def make_trainer(store: PixelStore, name: str, settings: TrainSettings, *, device: torch.device) -> FoldTrainer:
    """The trainer that `train` uses, on fold 0 of made-up folds."""
    backbone = resolve_backbone(name)
    network = build_network(backbone, CLASSES, size=train_size(settings, backbone))
    full = full_settings(settings, tag=backbone.tag, has_weights=False, n_train=len(store.image_id))
    trainer = FoldTrainer(
        network, synthetic_folds(store, n_classes=CLASSES), store, fold=0, backbone=backbone, settings=full,
        lr=1e-4, seed=0, device=device, precision=choose_precision("auto", device),
    )  # fmt: skip
    trainer.stepper.train_mode()
    return trainer


def endless(trainer: FoldTrainer) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches, epoch after epoch."""
    for epoch in range(EPOCHS):
        yield from trainer.batches(epoch)


def run_steps(trainer: FoldTrainer, batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> None:
    for _ in range(steps):
        trainer.stepper.step(1, *next(batches))


def seconds_of_first(trainer: FoldTrainer, batch: tuple[Tensor, Tensor], *, device: torch.device) -> float:
    """Of the first step, in which kernels are chosen and a compiled network is compiled."""
    start = time.perf_counter()
    trainer.stepper.step(0, *batch)
    wait_for(device)
    return time.perf_counter() - start


def add_payback(plain: dict[str, Any], compiled: dict[str, Any]) -> None:
    """Write into the compiled network's figures its gain, and after how many steps its first one is paid for."""
    was, now = (made["seconds_per_image"]["real"]["median"] * made["batch"] for made in (plain, compiled))
    compiled["times_plain"] = was / now
    paid = (compiled["first_step_seconds"] - plain["first_step_seconds"]) / (was - now) if now < was else None
    compiled["pays_after_steps"] = None if paid is None else round(paid)


def show_figures(figures: dict[str, Any]) -> None:
    rows = []
    for name, made in figures["networks"].items():
        real, kept = (ranged(made["images_per_second"][kind], form=",.0f") for kind in ("real", "kept"))
        pays = made.get("pays_after_steps")
        gain = (
            f"{made['times_plain']:.2f} x, {f'after {pays:,} steps' if pays else 'never'}"
            if "times_plain" in made
            else ""
        )
        per = ranged(made["seconds_per_image"]["real"], scale=1e3, form=".3f")
        share = ranged(made["real_over_kept"], scale=100, form=".1f") + " %"
        rows.append((name, f"{made['size']}", f"{made['batch']}", real, kept, share, per, gain))
    headings = (
        "network",
        "px",
        "batch",
        "images/s, real data",
        "batch kept on device",
        "of that",
        "ms per image",
        "compiling pays",
    )
    title = f"training steps, {figures['precision']} on {figures['device']}, goal on a GPU"
    show(f"{title}: real data at least {GOAL:.0%} of a kept batch", headings, rows)


if __name__ == "__main__":
    cyclopts.run(main)
