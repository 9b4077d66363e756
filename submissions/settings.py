"""The settings of `submit` and `report`, and those of all rooms; no numpy, since `run.py --help` reads it."""

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from ensemble.settings import BlendSettings
from folds.base.command_line import Top
from folds.engine import EngineSettings
from folds.settings import LimitSettings, PrepareSettings, SplitSettings, at_least
from models.settings import FirstSettings, PredictSettings, TrackSettings, TrainSettings


def _is_name(type_: Any, value: Any) -> None:
    if value is not None and (value.startswith(".") or not value or any(one in value for one in "/\\:")):
        raise ValueError("must be a name, not a path")


@Parameter(name="*", group="submit")
@dataclass(frozen=True)
class SubmitSettings:
    csv_name: Annotated[
        str | None,
        Parameter(validator=_is_name, help="name of the CSV in work/submissions; `blend` or the run's name by default"),
    ] = None


@Parameter(name="*", group="report")
@dataclass(frozen=True)
class ReportSettings:
    contact_pictures: Annotated[int, at_least(0, at_most=100, help="pictures of each class on its contact sheet")] = 6
    thumbnail_pixels: Annotated[int, at_least(32, at_most=512, help="longer side of the report's pictures")] = 112
    confused_pairs: Annotated[int, at_least(0, at_most=100, help="most confused pairs of classes that are shown")] = 8
    hardest_images: Annotated[
        int, at_least(0, at_most=500, help="images shown of each kind: hardest, least certain")
    ] = 18
    suspects: Annotated[int, at_least(0, at_most=500, help="suspected label errors that are shown; all are listed")] = (
        24
    )


@dataclass(frozen=True)
class Every:
    """All settings: what `all` and `settings` take, and what kit.toml may say."""

    top: Top = Top()
    prepare: PrepareSettings = PrepareSettings()
    split: SplitSettings = SplitSettings()
    first: FirstSettings = FirstSettings()
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    follow: TrackSettings = TrackSettings()
    blend: BlendSettings = BlendSettings()
    submit: SubmitSettings = SubmitSettings()
    report: ReportSettings = ReportSettings()
    limit: LimitSettings = LimitSettings()
    engine: EngineSettings = EngineSettings()
