"""This file answers whether a fold overfits: by its own training images under the eyes that see the valid ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from models.events import EpochRow, Verdict

LAST_SHARE = 0.25  # of the epochs: what they gained tells whether more of them would
STILL_GAINING = 0.04  # a relative fall of the valid loss over them; a finished cosine's last quarter gains less
RISING = 0.02  # a relative rise of the valid loss above its best epoch; less is noise of one fold
MEMORISED = 0.25  # training error below this share of the valid error, with nothing gained at the end


def judge(run: str, fold: int, rows: Sequence[EpochRow], *, train_loss: float, train_top3_error: float) -> Verdict:
    """One plain sentence on a fold: overfitting, underfitting or fine, and which setting to turn.

    rows                        every epoch's; valid losses in nats, errors in [0, 1]
    train_loss, train_top3_error  of training images, drawn as they occur, under the view and network of the last row
    The loss tells more than the error: it still moves where the third guess is right anyway.
    """
    last, best = rows[-1], min(rows, key=lambda row: row.valid_loss)
    before = rows[max(0, len(rows) - 1 - max(1, round(LAST_SHARE * len(rows))))]
    gained = 1 - last.valid_loss / before.valid_loss if len(rows) > 1 else 0.0
    rose = last.valid_loss / best.valid_loss - 1
    kind, advice = _sentence(last, best, gained=gained, rose=rose, train_top3_error=train_top3_error)
    return Verdict(
        run=run,
        fold=fold,
        kind=kind,
        advice=advice,
        train_loss=train_loss,
        valid_loss=last.valid_loss,
        train_top3_error=train_top3_error,
        valid_top3_error=last.valid_top3_error,
        gained=gained,
    )


def _sentence(
    last: EpochRow, best: EpochRow, *, gained: float, rose: float, train_top3_error: float
) -> tuple[Literal["overfitting", "underfitting", "fine"], str]:
    more = round(last.epoch * 1.5) or 1
    if rose > RISING:
        return "overfitting", (
            f"the valid loss has risen by {rose:.0%} since epoch {best.epoch}: fewer epochs (`--epochs {best.epoch}`) "
            "or a smaller `--lr`"
        )
    if gained > STILL_GAINING:
        return "underfitting", (
            f"the last epochs still took {gained:.0%} off the valid loss: more of them (`--epochs {more}`) "
            "or a higher `--lr`"
        )
    if train_top3_error < MEMORISED * last.valid_top3_error:
        return "overfitting", (
            "the valid loss has settled while the training images are all but known by heart: better weights, a larger "
            f"`--image-size`, or more chance over many more epochs (`--epochs {4 * last.epoch} --cutmix 1`)"
        )
    return "fine", "the valid loss has settled, and the training images are not known by heart"
