"""Measures training on the device: `python -m tests.benchmarks.training steps|pause|augmentation`.

steps         images a second of whole optimiser steps, by turns: with real data (store, gathering, augmentation) and
              with one augmented batch that stays on the device; the ratio is what the way of the data leaves of the
              device's speed. `--compile` measures the same network compiled, and after how many steps it has paid
pause         from the end of an epoch's last step to the start of the next one's first, evaluation aside, at 88,220
              images of a sparse store: the next epoch is drawn, its first batch gathered and augmented
augmentation  per image of a batch that lies on the device: crop, mirror and scaling, and with everything on, beside a
              resnet18's step at the same size and batch
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import cyclopts
import numpy as np
import torch
from torch import Tensor

from folds.pixels.store import PixelStore
from folds.settings import COMMA_LIST
from models.backbones import build_network, resolve_backbone
from models.device import Way, choose_device, choose_precision
from models.input.augment import Mixer, draw, training_input
from models.input.sizes import store_size_for, train_size
from models.recipes import full_settings
from models.runs import RunPlan
from models.settings import TrainSettings
from models.train.stepper import Stepper
from models.train.trainer import FoldData, FoldTrainer, Job
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

app = cyclopts.App()
CLASSES, GOAL = 103, 0.95
ROWS = 4096  # of the store: 1 GB at 288 pixels, far more than a processor's caches hold
EPOCHS = 1000  # more than are ever begun: the schedule must not end


@app.command
def steps(
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
        networks[name] = measure_steps(name, settings, steps=per_turn, repeats=repeats, device=device)
        if compile:
            compiled = dataclasses.replace(settings, compile=True)
            made = measure_steps(name, compiled, steps=per_turn, repeats=repeats, device=device)
            add_payback(networks[name], made)
            networks[f"{name}, compiled"] = made
    rows = [
        (
            f"{name} at {made['size']}, batches of {made['batch']}",
            *(ranged(made["images_per_second"][kind], form=",.0f") for kind in ("real", "kept")),
            ranged(made["real_over_kept"], scale=100) + " %",
            f"{made['times_plain']:.2f} x, after {made['pays_after_steps']} steps" if "times_plain" in made else "",
        )
        for name, made in networks.items()
    ]
    precision = str(choose_precision("auto", device))
    title = f"training steps, {precision} on {device}, goal on a GPU: real data at least {GOAL:.0%} of a kept batch"
    show(title, ("", "images/s, real data", "batch kept on device", "of that", "compiling pays"), rows)
    figures = {"device": str(device), "precision": precision, "steps": per_turn, "networks": networks}
    finish("step", figures, keep=record)


def measure_steps(
    name: str, settings: TrainSettings, *, steps: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Seconds per image of both kinds of steps, and the seconds until the first step was done."""
    size, batch = train_size(settings, resolve_backbone(name)), settings.batch_size
    with tempfile.TemporaryDirectory() as temporary:
        rows = max(ROWS, batch * 4) if device.type == "cuda" else batch * (steps + 1) * 2
        store = synthetic_store(Path(temporary), rows, store_size_for(size))
        trainer = make_trainer(store, name, settings, device=device)
        fresh = (one for epoch in range(EPOCHS) for one in trainer.batches(epoch))
        kept = next(fresh)
        start = time.perf_counter()
        trainer.stepper.step(0, *kept)  # in which kernels are chosen and a compiled network is compiled
        wait_for(device)
        first_seconds = time.perf_counter() - start
        works = {
            "real": lambda: run_steps(trainer, fresh, steps),
            "kept": lambda: run_steps(trainer, iter([kept] * steps), steps),
        }
        costs = by_turns(works, repeats=repeats, device=device)
    n = steps * batch
    return {
        "size": size,
        "store_size": store.size,
        "batch": batch,
        "first_step_seconds": first_seconds,
        "seconds_per_image": {kind: spread(cost / n for cost in one) for kind, one in costs.items()},
        "images_per_second": {kind: spread(n / cost for cost in one) for kind, one in costs.items()},
        "real_over_kept": ratios(costs["kept"], costs["real"]),
        "peak_device_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }


def make_trainer(store: PixelStore, name: str, settings: TrainSettings, *, device: torch.device) -> FoldTrainer:
    """The trainer that `train` uses, on fold 0 of made-up folds."""
    backbone = resolve_backbone(name)
    network = build_network(backbone, CLASSES, size=train_size(settings, backbone))
    full = full_settings(settings, tag=backbone.tag, has_weights=False, n_train=len(store.image_id))
    trainer = FoldTrainer(
        network, Job(RunPlan(name, name, None, settings), full, backbone, None, 0, 0, {}),
        synthetic_folds(store, n_classes=CLASSES), store,
        lr=1e-4, device=device, precisions=dict.fromkeys(get_args(Way), choose_precision("auto", device)),
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


GOAL_PAUSE = 0.2
STEPS_BEFORE_THE_END = 3


@app.command
def pause(*, rows: int = 110_275, repeats: int = 7, record: bool = True) -> None:
    """Measure, print the table, and append the figures to results.jsonl. rows: of the store; four fifths train."""
    device = choose_device("auto")
    size, batch = (224, 256) if device.type == "cuda" else (64, 64)
    settings = TrainSettings(pretrained=False, image_size=size, batch_size=batch, epochs=repeats + 2, head="random")
    figures = {"device": str(device), "rows": rows, "batch": batch, **measure_pause(rows, settings, device)}
    n, goal = figures["training_images"], f"{GOAL_PAUSE * 1e3:.0f} ms"
    title = f"{n:,} training images, batches of {batch}, {device}, goal {goal}"
    names = {"pause_seconds": "last step to first step", "draw_seconds": "of which drawing the epoch"}
    show(title, ("", "ms"), [(words, ranged(figures[name], scale=1e3)) for name, words in names.items()])
    finish("epoch", figures, keep=record)


def measure_pause(rows: int, settings: TrainSettings, device: torch.device) -> dict[str, Any]:
    """Seconds of the pause and of its parts."""
    with tempfile.TemporaryDirectory() as temporary:
        store = synthetic_store(Path(temporary), rows, 288 if device.type == "cuda" else 80, sparse=True)
        trainer = make_trainer(store, "test_resnet", settings, device=device)
        data = trainer.data
        whole, keep = data.epoch, STEPS_BEFORE_THE_END * data.batch_size

        def short(number: int) -> Any:
            return tuple(drawn[slice(-keep, None)] for drawn in whole(number))  # rows, targets, draws

        data.epoch = short  # type: ignore[method-assign]  # the epoch is drawn whole, and its last steps are shown
        pauses = [seconds_of_pause(trainer, epoch, device) for epoch in range(settings.epochs - 1)]
        draws = [seconds_of_drawing(data, epoch) for epoch in range(settings.epochs)]
    figures = {"pause_seconds": spread(pauses[1:]), "draw_seconds": spread(draws[1:])}  # the first ones warm up
    return {"training_images": len(data.train_rows), **figures}


def seconds_of_pause(trainer: FoldTrainer, epoch: int, device: torch.device) -> float:
    """Run an epoch's last steps; the seconds from then until the next epoch's first batch is on the device."""
    for images, target in trainer.batches(epoch):
        trainer.stepper.step(1, images, target)
        wait_for(device)
        start = time.perf_counter()
    following = trainer.batches(epoch + 1)
    next(following)
    wait_for(device)
    seconds = time.perf_counter() - start
    following.close()
    return seconds


def seconds_of_drawing(data: FoldData, epoch: int) -> float:
    start = time.perf_counter()
    FoldData.epoch(data, epoch)
    return time.perf_counter() - start


GOAL_AUGMENT = 0.1
USUAL = TrainSettings()
EVERYTHING = dataclasses.replace(USUAL, rotate=10.0, colour_jitter=0.2, erase=0.25, mixup=0.2, cutmix=1.0)


@app.command
def augmentation(*, backbone: str = "resnet18", repeats: int = 5, record: bool = True) -> None:
    """Measure, print the table, and append the figures to results.jsonl. backbone: whose step is measured beside it."""
    device = choose_device("auto")
    sizes, batch = ((224,), 256) if device.type == "cuda" else ((64, 128, 224), 16)
    made_at = {str(size): measure_augmentation(backbone, size, batch, repeats=repeats, device=device) for size in sizes}
    machine = {"device": str(device), "precision": str(choose_precision("auto", device))}
    rows = [
        (name, size, ranged(made["seconds_per_image"][name], scale=1e6), ranged(share, scale=100) + " %")
        for size, made in made_at.items()
        for name, share in made["share_of_step"].items()
    ]
    title = f"batches of {batch}, {machine['precision']} on {device}, goal on a CPU: < {GOAL_AUGMENT:.0%} of the step"
    show(title, ("augmentation", "pixels", "us per image", "of the step"), rows)
    finish("augment", {**machine, "backbone": backbone, "batch": batch, "sizes": made_at}, keep=record)


def measure_augmentation(
    backbone_name: str, size: int, batch: int, *, repeats: int, device: torch.device
) -> dict[str, Any]:
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
        "seconds_per_image": {name: spread(cost / batch for cost in one) for name, one in costs.items()},
        "share_of_step": {name: ratios(costs[name], costs["step"]) for name in ("usual", "everything")},
    }


if __name__ == "__main__":
    app()
