"""Fills in the settings of tests that train small nets from scratch."""

from models.recipes import FullSettings, full_settings
from models.settings import TrainSettings


def full(settings: TrainSettings | None = None, *, n_train: int = 16, **values) -> FullSettings:
    """The settings, or some values, of a small net from scratch."""
    settings = settings or TrainSettings(**values)
    return full_settings(settings, tag="test_resnet.r160_in1k", has_weights=False, n_train=n_train)
