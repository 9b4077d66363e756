"""The settings of `train`, `predict`, trackers and engines; no torch, since `run.py --help` reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from folds.settings import COMMA_LIST, at_least

LEAST_SIDE, MOST_SIDE = 16, 1024  # of any input, in pixels
BY_FAMILY = "by family if not given"  # of the backbone, see models/recipes.py


def _is_rate(type_: Any, value: Any) -> None:
    if isinstance(value, int | float) and not 0 < value <= 1:
        raise ValueError("Must be above 0 and at most 1, or `find`.")


def _says(text: str) -> Parameter:
    return Parameter(help=text)


def _side(text: str) -> Parameter:
    """The flag of a side in pixels."""
    return at_least(LEAST_SIDE, at_most=MOST_SIDE, help=text)


@Parameter(name="*", group="train")
@dataclass(frozen=True)
class TrainSettings:
    backbone: Annotated[tuple[str, ...], COMMA_LIST, _says("short names or any of timm's, one run each")] = (
        "resnet50",
        "resnet101",
        "inception",
    )
    pretrained: Annotated[bool, _says("start from downloaded weights where --weights names no file")] = True
    weights: Annotated[tuple[str, ...], COMMA_LIST, _says("local weights: FILE, or BACKBONE=FILE of several")] = ()
    image_size: Annotated[int | None, _side("side of the input, in pixels; the weights' own if not given")] = None
    start_size: Annotated[int | None, _side("side in the first epoch; it grows to --image-size")] = None
    test_size: Annotated[int | None, _side("side of the views that name none, if not --image-size")] = None
    epochs: Annotated[int | None, at_least(1, help="by the number of training images if not given")] = None
    batch_size: Annotated[int, at_least(2, help="images per optimiser step")] = 64
    micro_batch: Annotated[
        int | None, at_least(1, help="images that pass the network at once; all of a batch, on a CPU 16")
    ] = None
    lr: Annotated[
        float | Literal["find"] | None,
        Parameter(validator=_is_rate, help=f"peak learning rate (AdamW), `find` runs lr-find; {BY_FAMILY}"),
    ] = None
    head: Annotated[
        Literal["random", "probe"] | None,
        _says(f"the new head's start: random, or fitted to frozen features (LP-FT); {BY_FAMILY}"),
    ] = None
    head_lr_scale: Annotated[float | None, at_least(0, help=f"the head's rate over the body's; {BY_FAMILY}")] = None
    layer_decay: Annotated[
        float | None, at_least(0.1, at_most=1, help=f"each earlier layer's rate over the next's, 1 is off; {BY_FAMILY}")
    ] = None
    frozen_share: Annotated[
        float | None,
        at_least(0, below=1, help=f"share of the layers, from the input on, that do not train, 0 is off; {BY_FAMILY}"),
    ] = None
    cycles: Annotated[int, at_least(1, at_most=100, help="cosine cycles, each from the peak rate (SGDR); 1 is off")] = 1
    cycle_mult: Annotated[float, at_least(1, at_most=10, help="the length of each cycle over the last one's")] = 1.0
    warmup_epochs: Annotated[float, at_least(0, help="epochs over which the rate rises to its peak")] = 1.0
    weight_decay: Annotated[float, at_least(0, help="AdamW's, on matrices and kernels only")] = 0.05
    clip_norm: Annotated[float, at_least(0, help="largest norm of the gradient; 0 for no clipping")] = 5.0
    batch_norm: Annotated[
        Literal["train", "frozen"] | None, _says(f"its statistics: trained, or the weights' own; {BY_FAMILY}")
    ] = None
    label_smoothing: Annotated[float, at_least(0, below=1, help="share of the target spread over all classes")] = 0.0
    dropout: Annotated[float, at_least(0, below=1, help="before the head")] = 0.0
    drop_path: Annotated[float | None, at_least(0, below=1, help=f"stochastic depth; {BY_FAMILY}")] = None
    ema_share: Annotated[float, at_least(0, at_most=1, help="share of the steps that are averaged; 0 for none")] = 0.0
    start_share: Annotated[
        float | None,
        at_least(
            0,
            below=1,
            help=f"share of the weights before training in those that predict (WiSE-FT), 0 is off; {BY_FAMILY}",
        ),
    ] = None
    stages: Annotated[
        Literal[1, 2] | None,
        _says(f"of the network, from the last on, whose means the classifier gets; 1 for timm's own head; {BY_FAMILY}"),
    ] = None
    sampling_power: Annotated[
        float, at_least(0, at_most=1, help="an image of a class of n is drawn with weight n^-power; 0 is natural")
    ] = 0.25
    restore_prior: Annotated[bool, _says("undo the class prior that sampling shifted, at prediction")] = True
    crop_scale: Annotated[float, at_least(0.01, at_most=1, help="least share of the picture in a crop")] = 0.35
    mirror: Annotated[bool, _says("mirror half of the training images")] = True
    rotate: Annotated[float, at_least(0, at_most=180, help="turn training images by at most this many degrees")] = 0.0
    colour_jitter: Annotated[float, at_least(0, below=1, help="most change of light, contrast, saturation")] = 0.0
    erase: Annotated[float, at_least(0, at_most=1, help="share of training images with a part erased")] = 0.0
    mixup: Annotated[float, at_least(0, at_most=10, help="Mixup's alpha, not in the last epochs; 0 is off")] = 0.0
    cutmix: Annotated[float, at_least(0, at_most=10, help="CutMix's alpha, not in the last epochs; 0 is off")] = 0.0
    compile: Annotated[bool, _says("torch.compile: pays on a GPU, over many steps of one size")] = False
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        _says("bf16 and fp16 are autocast; auto: what the hardware is fast in, measured on a CPU"),
    ] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], _says("where to train and to predict")] = "auto"


@Parameter(name="*", group="first")
@dataclass(frozen=True)
class FirstSettings:
    probe: Annotated[
        bool, _says("before training, probe each backbone that has weights: a first CSV, and members of the blend")
    ] = True
    knn: Annotated[bool, _says("after the probes, their nearest neighbours: one more member for each")] = True


@Parameter(name="*", group="predict")
@dataclass(frozen=True)
class PredictSettings:
    views: Annotated[
        tuple[str, ...] | None,
        COMMA_LIST,
        _says(
            "test-time augmentation, averaged as probabilities: centre, mirror, wide, ...; centre@288: at 288 pixels; "
            "centre, mirror if not given, of nets trained far below their own size one of them larger"
        ),
    ] = None
    predict_batch: Annotated[
        int, at_least(1, help="images per forward pass at prediction: at most 32 on a CPU, fewer where memory is short")
    ] = 128

    @property
    def plain_views(self) -> tuple[str, ...]:
        """As set, or the centre crop and its mirror image at the run's own size."""
        return self.views or ("centre", "mirror")


@Parameter(name="*", group="follow")
@dataclass(frozen=True)
class TrackSettings:
    tensorboard: Annotated[bool, _says("curves for TensorBoard below work/tensorboard")] = False
    wandb: Annotated[bool, _says("curves for Weights & Biases; local files where no account is set up")] = False


@Parameter(name="*", group="engine")
@dataclass(frozen=True)
class EngineSettings:
    engine: Annotated[
        Literal["sequential", "ray"],
        _says("jobs one after another in this process, or side by side on Ray, on all GPUs or cores"),
    ] = "sequential"
    address: Annotated[str | None, _says("HOST:PORT of a Ray cluster that runs the jobs; implies ray")] = None
    gpus_per_job: Annotated[float, at_least(0.01, at_most=1, help="share of a GPU that a job on Ray gets")] = 1.0
    cpus_per_job: Annotated[
        int | None,
        at_least(1, help="cores of a job, and its threads; torch's own number (beside a GPU of Ray: 1) if not given"),
    ] = None
    cache: Annotated[
        Path | None, _says("folder on each machine's own disk; training reads a copy of the pixel store there")
    ] = None

    @property
    def is_ray(self) -> bool:
        return self.engine == "ray" or self.address is not None

    @property
    def cache_root(self) -> Path | None:
        """`cache` as processes on Ray find it, which have another current folder."""
        return self.cache and self.cache.absolute()


SEQUENTIAL = EngineSettings()
