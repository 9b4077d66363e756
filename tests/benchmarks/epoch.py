"""Measures the pause between two epochs: `python -m tests.benchmarks.epoch`.

The seconds from the end of an epoch's last step to the start of the next one's first, evaluation aside, at 88,220
images: the old epoch's thread ends, the next epoch is drawn, its targets go to the device, the first batch is gathered
and augmented. The store is sparse (what is read does not matter here, but how many rows there are does).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from cyclopts import Parameter

from models.device import choose_device
from models.input.fold_data import FoldData
from models.settings import TrainSettings
from models.train.trainer import FoldTrainer
from tests.benchmarks.measure import finish, ranged, show, spread, synthetic_store, wait_for
from tests.benchmarks.step import make_trainer

GOAL = 0.2
STEPS_BEFORE_THE_END = 3


def main(
    *,
    rows: Annotated[int, Parameter(help="images of the store; four fifths of them train")] = 110_275,
    size: Annotated[int | None, Parameter(help="of the input; 64, on a GPU 224")] = None,
    batch: Annotated[int | None, Parameter(help="64, on a GPU 256")] = None,
    repeats: int = 7,
    record: Annotated[bool, Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl."""
    device = choose_device("auto")
    is_gpu = device.type == "cuda"
    settings = TrainSettings(
        pretrained=False, image_size=size or (224 if is_gpu else 64), batch_size=batch or (256 if is_gpu else 64),
        epochs=repeats + 2, head="random",
    )  # fmt: skip
    figures = {"device": str(device), "rows": rows, "batch": settings.batch_size, **measure(rows, settings, device)}
    show_figures(figures)
    finish("epoch", figures, keep=record)


def measure(rows: int, settings: TrainSettings, device: torch.device) -> dict[str, Any]:
    """Seconds of the pause and of its parts."""
    store_size = 288 if device.type == "cuda" else 80
    with tempfile.TemporaryDirectory() as temporary:
        store = synthetic_store(Path(temporary), rows, store_size, sparse=True)
        trainer = make_trainer(store, "test_resnet", settings, device=device)
        skip_to_the_end(trainer)
        pauses = [pause(trainer, epoch, device) for epoch in range(settings.epochs - 1)][1:]  # the first one warms up
        data = trainer.data
        draws = [seconds_of_drawing(data, epoch) for epoch in range(settings.epochs)][1:]
    return {"training_images": len(data.train_rows), "pause_seconds": spread(pauses), "draw_seconds": spread(draws)}


def skip_to_the_end(trainer: FoldTrainer) -> None:
    """Let the trainer's epochs be drawn whole, but show their last steps only."""
    whole, keep = trainer.data.epoch, STEPS_BEFORE_THE_END * trainer.data.batch_size

    def short(number: int) -> Any:
        drawn = whole(number)
        return type(drawn)(drawn.rows[-keep:], drawn.target[-keep:], drawn.draws[slice(-keep, None)])

    trainer.data.epoch = short  # type: ignore[method-assign]


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


def show_figures(figures: dict[str, Any]) -> None:
    rows = [
        ("last step to first step", ranged(figures["pause_seconds"], scale=1e3)),
        ("of which drawing the epoch", ranged(figures["draw_seconds"], scale=1e3)),
    ]
    title = f"{figures['training_images']:,} training images, batches of {figures['batch']}, {figures['device']}, goal"
    show(f"{title}: under {GOAL * 1e3:.0f} ms", ("between two epochs", "ms"), rows)


if __name__ == "__main__":
    cyclopts.run(main)
