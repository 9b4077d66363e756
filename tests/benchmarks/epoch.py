"""Measures the pause between two epochs: `python -m tests.benchmarks.epoch`.

The seconds from the end of an epoch's last step to the start of the next one's first, evaluation aside, at 88,220
images: the old epoch's thread ends, the next epoch is drawn, its targets go to the device, the first batch is gathered
and augmented. The store is sparse (what is read does not matter here, but how many rows there are does).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import cyclopts
import torch

from models.device import choose_device
from models.settings import TrainSettings
from models.train.trainer import FoldData, FoldTrainer
from tests.benchmarks.measure import finish, ranged, show, spread, synthetic_store, wait_for
from tests.benchmarks.step import make_trainer

GOAL = 0.2
STEPS_BEFORE_THE_END = 3


def main(*, rows: int = 110_275, repeats: int = 7, record: bool = True) -> None:
    """Measure, print the table, and append the figures to results.jsonl. rows: of the store; four fifths train."""
    device = choose_device("auto")
    size, batch = (224, 256) if device.type == "cuda" else (64, 64)
    settings = TrainSettings(
        pretrained=False, image_size=size, batch_size=batch, epochs=repeats + 2, head="random"
    )  # fmt: skip
    figures = {"device": str(device), "rows": rows, "batch": batch, **measure(rows, settings, device)}
    title = f"{figures['training_images']:,} training images, batches of {batch}, {device}, goal {GOAL * 1e3:.0f} ms"
    names = {"pause_seconds": "last step to first step", "draw_seconds": "of which drawing the epoch"}
    show(title, ("", "ms"), [(words, ranged(figures[name], scale=1e3)) for name, words in names.items()])
    finish("epoch", figures, keep=record)


def measure(rows: int, settings: TrainSettings, device: torch.device) -> dict[str, Any]:
    """Seconds of the pause and of its parts."""
    with tempfile.TemporaryDirectory() as temporary:
        store = synthetic_store(Path(temporary), rows, 288 if device.type == "cuda" else 80, sparse=True)
        trainer = make_trainer(store, "test_resnet", settings, device=device)
        data = trainer.data
        whole, keep = data.epoch, STEPS_BEFORE_THE_END * data.batch_size

        def short(number: int) -> Any:
            drawn = whole(number)
            return type(drawn)(drawn.rows[-keep:], drawn.target[-keep:], drawn.draws[slice(-keep, None)])

        data.epoch = short  # type: ignore[method-assign]  # the epoch is drawn whole, and its last steps are shown
        pauses = [pause(trainer, epoch, device) for epoch in range(settings.epochs - 1)][1:]  # the first one warms up
        draws = [seconds_of_drawing(data, epoch) for epoch in range(settings.epochs)][1:]
    return {"training_images": len(data.train_rows), "pause_seconds": spread(pauses), "draw_seconds": spread(draws)}


def pause(trainer: FoldTrainer, epoch: int, device: torch.device) -> float:
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


if __name__ == "__main__":
    cyclopts.run(main)
