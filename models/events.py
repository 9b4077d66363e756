"""This file names what happens while folds are trained; whoever trains yields it, and `run.py` shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRow:
    """One line of `log.jsonl` and of the screen. Losses in nats, errors in [0, 1], rate in images per second."""

    epoch: int
    lr: float
    train_loss: float
    valid_loss: float
    valid_top1_error: float
    valid_top3_error: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class FoldStarted:
    run: str
    tag: str
    fold: int
    n_train: int
    n_valid: int
    image_size: int
    store_size: int
    device: str
    precision: str


@dataclass(frozen=True)
class FoldDone:
    """trained is False where the fold had been done before; `views` are those that it was predicted under."""

    run: str
    fold: int
    top3_error: float
    seconds: float
    trained: bool
    views: tuple[str, ...]


Event = FoldStarted | EpochRow | FoldDone
