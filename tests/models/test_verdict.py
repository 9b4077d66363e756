"""This file checks the sentence on a fold: overfitting, underfitting or fine."""

import pytest

from models.events import EpochRow
from models.verdict import judge


def rows(*valid_losses, error=0.10):
    return [
        EpochRow(
            epoch=i + 1,
            lr=1e-3,
            image_size=64,
            train_loss=1.0,
            valid_loss=loss,
            valid_top1_error=0.3,
            valid_top3_error=error,
            images_per_second=100,
            seconds=1,
        )
        for i, loss in enumerate(valid_losses)
    ]


@pytest.mark.parametrize(
    ("losses", "train_error", "kind", "says"),
    [
        ((2.0, 1.2, 1.0, 1.1), 0.05, "overfitting", "risen by 10% since epoch 3: fewer epochs (`--epochs 3`)"),
        ((2.0, 1.5, 1.2, 1.0), 0.08, "underfitting", "took 17% off the valid loss: more of them (`--epochs 6`)"),
        ((2.0, 1.1, 1.01, 1.0), 0.01, "overfitting", "known by heart"),
        ((2.0, 1.1, 1.01, 1.0), 0.08, "fine", "has settled"),
        ((1.0,), 0.08, "fine", "has settled"),
    ],
)
def test_a_fold_is_judged_by_its_valid_loss_and_its_own_training_images(losses, train_error, kind, says):
    verdict = judge("x", 0, rows(*losses), train_loss=0.5, train_top3_error=train_error)
    assert verdict.kind == kind
    assert says in verdict.advice


def test_the_figures_are_those_of_the_last_epoch():
    verdict = judge("x", 2, rows(2.0, 1.0, 1.0), train_loss=0.5, train_top3_error=0.04)
    assert (verdict.fold, verdict.valid_loss, verdict.train_loss) == (2, 1.0, 0.5)
    assert (verdict.valid_top3_error, verdict.train_top3_error, verdict.gained) == (0.10, 0.04, 0.0)
