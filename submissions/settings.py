"""The settings of `submit` and `report`, and those of all rooms; no numpy, since `run.py --help` reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ensemble.settings import BlendSettings
from folds.base.command_line import Top
from folds.settings import LimitSettings, PrepareSettings, SplitSettings, at_least
from models.runs import RunPlan
from models.settings import EngineSettings, FirstSettings, PredictSettings, TrackSettings, TrainSettings


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
    match_test: Annotated[
        bool, Parameter(help="weigh the classes by the mix of the test images where it is estimated to be another one")
    ] = False


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


@Parameter(name="*")
@dataclass(frozen=True)
class PackSettings:
    """The flags of `pack`."""

    out: Annotated[Path | None, Parameter(help="the file to write; work/submissions/blend.pack.zip if not given")] = (
        None
    )
    blend: Annotated[Path | None, Parameter(help="a blend.json; the last one if not given")] = None
    half: Annotated[
        bool, Parameter(help="float16, where every run's out-of-fold error stays the same to four decimals")
    ] = False
    onnx: Annotated[bool, Parameter(help="each network as ONNX too, for other runtimes")] = False
    limit_mb: Annotated[
        float | None, at_least(0.001, help="the largest part of the ensemble that fits into so many megabytes")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class InferSettings:
    """The flags of `infer`."""

    out: Annotated[Path, Parameter(help="the CSV to write")]
    sample: Annotated[
        Path | None, Parameter(help="sample submission: the ids, in its order; the names of the pictures if not given")
    ] = None
    max_hours: Annotated[
        float | None,
        at_least(0, help="leave out views, then members, as far as needed; the CSV is written before the time is up"),
    ] = None
    predict_batch: Annotated[int, at_least(1, help="images per forward pass")] = 128
    workers: Annotated[int | None, at_least(1, help="decoding processes; all cores if not given")] = None
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="where to predict")] = "auto"


@Parameter(name="*")
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


@dataclass(frozen=True)
class Wanted:
    """What is looked for in a work folder.

    runs   names of the runs that should be done
    plans  what the settings ask for now, by which a run that was begun with others is known
    folds  the same for the folds, as `refuse_other_folds` takes it
    """

    runs: Sequence[str]
    plans: Sequence[RunPlan] = ()
    folds: Mapping[str, Any] = field(default_factory=dict)
