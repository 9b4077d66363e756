"""Answers whether a fold overfits: by its own training images under the eyes that see the valid ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from models.settings import TrainSettings
from models.watch.events import AgainstProbe, EpochRow, Verdict

LAST_SHARE = 0.25  # of the epochs: what they gained tells whether more of them would
STILL_GAINING = 0.04  # a relative fall of the valid loss over them; a finished cosine's last quarter gains less
RISING = 0.02  # a relative rise of the valid loss above its best epoch; less is noise of one fold
MEMORISED = 0.25  # training error below this share of the valid error, with nothing gained at the end


def judge(
    run: str,
    fold: int,
    rows: Sequence[EpochRow],
    *,
    train_loss: float,
    train_top3_error: float,
    against_probe: AgainstProbe | None = None,
    remedy: str = "a smaller `--lr`",
) -> Verdict:
    """One plain sentence on a fold: no gain over its probe, overfitting, underfitting or fine; and what to turn.

    rows                        every epoch's; valid losses in nats, errors in [0, 1]
    train_loss, train_top3_error  of training images, drawn as they occur, under the view and network of the last row
    against_probe               the network beside its frozen probe, None where there is none
    remedy                      what to turn where the network is no better than that, from `remedy_for`
    The loss tells more than the error: it still moves where the third guess is right anyway.
    """
    last, best = rows[-1], min(rows, key=lambda row: row.valid_loss)
    before = rows[max(0, len(rows) - 1 - max(1, round(LAST_SHARE * len(rows))))]
    gained = 1 - last.valid_loss / before.valid_loss if len(rows) > 1 else 0.0
    rose = last.valid_loss / best.valid_loss - 1
    kind: Literal["no gain", "overfitting", "underfitting", "fine"]
    if against_probe is not None and not against_probe.is_better:
        kind, advice = _no_gain(against_probe, remedy, last, best, gained=gained, rose=rose)
    else:
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
        against_probe=against_probe,
    )


def remedy_for(settings: TrainSettings, *, lr: float, has_batch_norm: bool, takes_head: bool) -> str:
    """What to turn in a run that is no better than its frozen probe: what is not so already, in words.

    lr          the peak rate that the fold was trained with
    takes_head  whether a fitted head can be put into the network
    Statistics of batches of 64 crops, and a random head, each cost more than fine-tuning gains on small data sets
    (top-3 error of tf_efficientnet_lite0 on 411 images of 75 classes: 0.0535 with both, 0.0365 without, probe 0.0462).
    """
    flags = ["--batch-norm frozen"] if has_batch_norm and settings.batch_norm != "frozen" else []
    flags += ["--head probe"] if takes_head and settings.head != "probe" else []
    if flags:
        return f"`{' '.join(flags)}`, or a smaller `--lr`"
    smaller = f"a smaller rate (`--lr {lr / 3:.1g}`)"
    if settings.head == "probe" and (settings.head_lr_scale or 1) > 1:
        return f"`--head-lr-scale 1`, or {smaller}"
    return smaller


def _no_gain(
    against: AgainstProbe, remedy: str, last: EpochRow, best: EpochRow, *, gained: float, rose: float
) -> tuple[Literal["no gain"], str]:
    said = (
        f"no better than its own frozen probe (top-3 error {against.top3_error:.4f} against "
        f"{against.probe_top3_error:.4f}, log loss {against.loss:.4f} against {against.probe_loss:.4f}): {remedy}"
    )
    if rose > RISING:
        said += (
            f"; the valid loss has risen by {rose:.0%} since epoch {best.epoch}, so fewer epochs may help too "
            f"(`--epochs {best.epoch}`)"
        )
    elif gained > STILL_GAINING:
        said += (
            f"; the last epochs still took {gained:.0%} off the valid loss, so more of them may help too "
            f"(`--epochs {_more(last)}`)"
        )
    return "no gain", said


def _more(last: EpochRow) -> int:
    return round(last.epoch * 1.5) or 1


def _sentence(
    last: EpochRow, best: EpochRow, *, gained: float, rose: float, train_top3_error: float
) -> tuple[Literal["overfitting", "underfitting", "fine"], str]:
    if rose > RISING:
        return "overfitting", (
            f"the valid loss has risen by {rose:.0%} since epoch {best.epoch}: fewer epochs (`--epochs {best.epoch}`) "
            "or a smaller `--lr`"
        )
    if gained > STILL_GAINING:
        return "underfitting", (
            f"the last epochs still took {gained:.0%} off the valid loss: more of them (`--epochs {_more(last)}`) "
            "or a higher `--lr`"
        )
    if train_top3_error < MEMORISED * last.valid_top3_error:
        return "overfitting", (
            "the valid loss has settled while the training images are nearly memorised: more epochs would add little; "
            "better weights or a larger `--image-size` would help, and another backbone would help the blend"
        )
    return "fine", "the valid loss has settled, and the training images are not memorised"
