"""One fold's images: which of them train and which are kept out, and what each epoch shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.input.augment import Draws, draw
from models.input.mixing import batch_size_for
from models.input.sampling import draw_epoch, expected_repeats
from models.recipes import FullSettings


@dataclass(frozen=True)
class Epoch:
    """rows (n,) of the store, target (n,) int, and what is drawn for each; n is a multiple of the batch."""

    rows: np.ndarray
    target: np.ndarray
    draws: Draws


class FoldData:
    """The training part of a fold, and the fold itself; with fold None everything trains and nothing is kept out."""

    def __init__(self, folds: Folds, store: PixelStore, *, fold: int | None, settings: FullSettings, seed: int) -> None:
        self.store, self.settings = store, settings
        rows = store.rows(folds.image_id, split="train")
        valid = folds.fold == fold if fold is not None else np.zeros(len(rows), dtype=bool)
        self.train_rows, self.train_target = rows[~valid], folds.target[~valid]
        self.valid_rows, self.valid_target = rows[valid], folds.target[valid]
        self.seeds = [seed, folds.n_folds if fold is None else fold]
        self.repeats = expected_repeats(self.train_target, power=settings.sampling_power)
        self.batch_size = batch_size_for(settings, len(self.train_rows))
        self.epoch_steps = len(self.train_rows) // self.batch_size

    def epoch(self, number: int) -> Epoch:
        """What an epoch shows; a function of seed, fold and number."""
        rng = np.random.default_rng([*self.seeds, number])
        drawn = draw_epoch(self.repeats, rng)[: self.epoch_steps * self.batch_size]
        rows = self.train_rows[drawn]
        draws = draw(rng, self.settings, width=self.store.width[rows], height=self.store.height[rows])
        return Epoch(rows, self.train_target[drawn], draws)

    def some_training(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Store rows and targets of at most so many training images, drawn naturally. (n,), (n,)"""
        rng = np.random.default_rng([*self.seeds, self.settings.epochs + 1])
        chosen = np.sort(rng.permutation(len(self.train_rows))[:most])
        return self.train_rows[chosen], self.train_target[chosen]
