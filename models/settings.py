"""This file declares the settings of `train` and `predict`; it imports no torch, since `run.py --help` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from folds.settings import COMMA_LIST, at_least


@dataclass(frozen=True)
class TrainSettings:
    backbone: Annotated[
        tuple[str, ...], COMMA_LIST, Parameter(help="short names or any of timm's, one run each; see the README")
    ] = ("resnet50", "resnet101", "inception")
    pretrained: Annotated[bool, Parameter(help="start from downloaded weights where --weights names no file")] = True
    weights: Annotated[
        tuple[str, ...], COMMA_LIST, Parameter(help="local weights: FILE, or BACKBONE=FILE where there are several")
    ] = ()
    image_size: Annotated[
        int | None,
        at_least(16, at_most=1024, help="side of the network's input, in pixels; the weights' own if not given"),
    ] = None
    epochs: Annotated[int, at_least(1, help="passes over as many images as the fold's training part has")] = 10
    batch_size: Annotated[int, at_least(2, help="images per step")] = 64
    lr: Annotated[float, at_least(0, at_most=1, help="peak learning rate of the body (AdamW)")] = 3e-4
    head_lr_scale: Annotated[float, at_least(0, help="the new head learns this many times faster than the body")] = 10.0
    weight_decay: Annotated[float, at_least(0, help="AdamW's, on matrices and kernels only")] = 0.05
    warmup_epochs: Annotated[float, at_least(0, help="epochs over which the rate rises to its peak")] = 1.0
    label_smoothing: Annotated[float, at_least(0, below=1, help="share of the target spread over all classes")] = 0.1
    clip_norm: Annotated[float, at_least(0, help="largest norm of the gradient; 0 for no clipping")] = 5.0
    dropout: Annotated[float, at_least(0, below=1, help="before the head")] = 0.0
    ema_share: Annotated[
        float, at_least(0, at_most=1, help="the parameters are averaged over about this share of all steps; 0 for none")
    ] = 0.05
    sampling_power: Annotated[
        float, at_least(0, at_most=1, help="an image of a class of n is drawn with weight n^-power; 0 is natural")
    ] = 0.5
    max_repeats: Annotated[float, at_least(1, help="most draws of one image in an epoch, on average")] = 4.0
    restore_prior: Annotated[bool, Parameter(help="undo the class prior that sampling shifted, at prediction")] = True
    crop_scale: Annotated[float, at_least(0.01, at_most=1, help="smallest share of the picture in a training crop")] = (
        0.35
    )
    mirror: Annotated[bool, Parameter(help="mirror half of the training images")] = True
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Parameter(help="bf16 is autocast; auto takes it where the hardware has it")
    ] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="where to train and to predict")] = "auto"


@dataclass(frozen=True)
class PredictSettings:
    views: Annotated[
        tuple[str, ...],
        COMMA_LIST,
        Parameter(
            help="test-time augmentation, averaged as probabilities: centre, mirror, whole, whole-mirror, wide, ..."
        ),
    ] = ("centre", "mirror")
    predict_batch: Annotated[int, at_least(1, help="images per forward pass at prediction")] = 128
