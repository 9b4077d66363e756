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
from torch import Tensor

from folds.pixels.store import PixelStore
from folds.settings import COMMA_LIST
from models.backbones import build_network, resolve_backbone
from models.device import choose_device, choose_precision
from models.input.sizes import store_size_for, train_size
from models.recipes import full_settings
from models.runs import RunPlan
from models.settings import TrainSettings
from models.train.trainer import FoldTrainer, Job
from tests.benchmarks import measure as shared

CLASSES, GOAL = 103, 0.95
ROWS = 4096  # of the store: 1 GB at 288 pixels, far more than a processor's caches hold
EPOCHS = 1000  # more than are ever begun: the schedule must not end


def main(
    *,
    backbone: Annotated[tuple[str, ...], COMMA_LIST] = (),
    steps: int | None = None,
    repeats: int = 3,
    compile: bool = False,
    record: bool = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl. compile: also the compiled networks."""
    device = choose_device("auto")
    is_gpu = device.type == "cuda"
    names = backbone or (("resnet50", "resnet101", "inception") if is_gpu else ("resnet18", "resnet50"))
    settings = TrainSettings(
        backbone=names, pretrained=False, image_size=None if is_gpu else 64, epochs=EPOCHS,
        batch_size=256 if is_gpu else 32, head="random",
    )  # fmt: skip
    per_turn, networks = steps or (30 if is_gpu else 4), {}
    for name in names:
        networks[name] = measure(name, settings, steps=per_turn, repeats=repeats, device=device)
        if compile:
            compiled = dataclasses.replace(settings, compile=True)
            made = measure(name, compiled, steps=per_turn, repeats=repeats, device=device)
            add_payback(networks[name], made)
            networks[f"{name}, compiled"] = made
    rows = [
        (
            f"{name} at {made['size']}, batches of {made['batch']}",
            *(shared.ranged(made["images_per_second"][kind], form=",.0f") for kind in ("real", "kept")),
            shared.ranged(made["real_over_kept"], scale=100) + " %",
            f"{made['times_plain']:.2f} x, after {made['pays_after_steps']} steps" if "times_plain" in made else "",
        )
        for name, made in networks.items()
    ]
    precision = str(choose_precision("auto", device))
    title = f"training steps, {precision} on {device}, goal on a GPU: real data at least {GOAL:.0%} of a kept batch"
    shared.show(title, ("", "images/s, real data", "batch kept on device", "of that", "compiling pays"), rows)
    figures = {"device": str(device), "precision": precision, "steps": per_turn, "networks": networks}
    shared.finish("step", figures, keep=record)


def measure(name: str, settings: TrainSettings, *, steps: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds per image of both kinds of steps, and the seconds until the first step was done."""
    size, batch = train_size(settings, resolve_backbone(name)), settings.batch_size
    with tempfile.TemporaryDirectory() as temporary:
        rows = max(ROWS, batch * 4) if device.type == "cuda" else batch * (steps + 1) * 2
        store = shared.synthetic_store(Path(temporary), rows, store_size_for(size))
        trainer = make_trainer(store, name, settings, device=device)
        fresh = (one for epoch in range(EPOCHS) for one in trainer.batches(epoch))
        kept = next(fresh)
        start = time.perf_counter()
        trainer.stepper.step(0, *kept)  # in which kernels are chosen and a compiled network is compiled
        shared.wait_for(device)
        first_seconds = time.perf_counter() - start
        works = {
            "real": lambda: run_steps(trainer, fresh, steps),
            "kept": lambda: run_steps(trainer, iter([kept] * steps), steps),
        }
        costs = shared.by_turns(works, repeats=repeats, device=device)
    n = steps * batch
    return {
        "size": size,
        "store_size": store.size,
        "batch": batch,
        "first_step_seconds": first_seconds,
        "seconds_per_image": {kind: shared.spread(cost.wall / n for cost in one) for kind, one in costs.items()},
        "images_per_second": {kind: shared.spread(n / cost.wall for cost in one) for kind, one in costs.items()},
        "real_over_kept": shared.ratios(costs["kept"], costs["real"]),
        "peak_device_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }


def make_trainer(store: PixelStore, name: str, settings: TrainSettings, *, device: torch.device) -> FoldTrainer:
    """The trainer that `train` uses, on fold 0 of made-up folds."""
    backbone = resolve_backbone(name)
    network = build_network(backbone, CLASSES, size=train_size(settings, backbone))
    full = full_settings(settings, tag=backbone.tag, has_weights=False, n_train=len(store.image_id))
    trainer = FoldTrainer(
        network, Job(RunPlan(name, name, None, settings), full, backbone, None, 0, 0, {}),
        shared.synthetic_folds(store, n_classes=CLASSES), store,
        lr=1e-4, device=device, precision=choose_precision("auto", device),
    )  # fmt: skip
    trainer.stepper.train_mode()
    return trainer


def run_steps(trainer: FoldTrainer, batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> None:
    for _ in range(steps):
        trainer.stepper.step(1, *next(batches))


def add_payback(plain: dict[str, Any], compiled: dict[str, Any]) -> None:
    """Write into the compiled network's figures its gain, and after how many steps its first one is paid for."""
    was, now = (made["seconds_per_image"]["real"]["median"] * made["batch"] for made in (plain, compiled))
    compiled["times_plain"] = was / now
    paid = (compiled["first_step_seconds"] - plain["first_step_seconds"]) / (was - now) if now < was else None
    compiled["pays_after_steps"] = None if paid is None else round(paid)


if __name__ == "__main__":
    cyclopts.run(main)
