"""What differs between families of networks when they are fine-tuned; it needs no torch.

A setting that is not given comes from the first row of `FAMILIES` that fits the backbone's full tag; a flag or kit.toml
overrides each of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

from folds.base.errors import UserError
from models.settings import TrainSettings


@dataclass(frozen=True)
class Family:
    """Which tags a family has, what it sets, and where its numbers come from.

    pattern       found in the full tag, `architecture.weights`; the first row that fits counts
    probed_lr     the rate where a run starts as its probe
    frozen_share  of the layers, where such a run has at most FEW_IMAGES at the weights' own size
    """

    name: str
    pattern: str
    lr: float
    source: str
    probed_lr: float | None = None
    head: Literal["random", "probe"] = "probe"
    head_lr_scale: float = 1.0
    batch_norm: Literal["train", "frozen"] = "frozen"
    layer_decay: float = 1.0
    frozen_share: float = 0.0
    drop_path: float = 0.0
    start_share: float = 0.25
    stages: int = 2


SCRATCH = Family(
    name="from scratch",
    pattern="",
    lr=1e-3,
    head="random",  # features of random weights do not tell classes apart
    batch_norm="train",  # there are no statistics to keep
    start_share=0.0,
    stages=1,
    source="AdamW's usual rate for small networks from scratch; the statistics and the head have nothing to keep",
)
FAMILIES = (
    Family(
        name="ViT",
        pattern=r"^(vit|naflexvit|flexivit|samvit|deit|beit|eva|cait|xcit)|clip|dino",  # `clip` is in `siglip`, too
        lr=5e-5,
        layer_decay=0.7,
        drop_path=0.1,
        source=(
            "layer decay of 0.65 to 0.75 from BEiT (Bao et al. 2021) and MAE (He et al. 2022), rates of 5e-5 to 1e-4 "
            "with it, a probed head (Kumar et al. 2022). No weights that we had could prove this row"
        ),
    ),
    Family(
        name="ConvNeXt",
        pattern=(
            r"^(convnext|swin|maxvit|maxxvit|coatnet|davit|caformer|convformer|focalnet|hiera|mvitv2|nextvit).*\."
            r".*(12k|21k|22k)"
        ),
        lr=1e-4,
        layer_decay=0.85,
        drop_path=0.1,
        source="fine-tuning of ConvNeXt from ImageNet-22k (Liu et al. 2022); not measured here",
    ),
    Family(
        name="ImageNet CNN",
        pattern="",  # whatever is left
        lr=1e-4,
        probed_lr=3e-4,
        frozen_share=0.67,
        source=(
            "measured here: tf_efficientnet_lite0 at 128 pixels on two splits of Caltech-101, top-3 error on 2,512 and "
            "2,082 fresh images: frozen batch norm 0.0414 and 0.0283, trained 0.0589 and 0.0692; a random head with "
            "trained batch norm at 3e-4 0.0896 and 0.0941. start_share of 0, 0.25 and 0.5: 0.0451, 0.0410 and 0.0379 "
            "on photographs, 0.2419, 0.2425 and 0.2588 on drawings, 0.0100, 0.0096 and 0.0121 on CIFAR-10. All layers "
            "at 3e-4 instead of two thirds frozen: -0.0068 +- 0.0016, -0.0023 +- 0.0026, -0.0008 +- 0.0013 on three "
            "sets at 128 and 160 pixels, -0.0019 +- 0.0020 and +0.0007 +- 0.0019 on two at 224. stages 2 instead of 1: "
            "0.0138 instead of 0.0175 on two folds of Caltech-101 (docs/measured.md)"
        ),
    ),
)
RANDOM_HEAD_LR_SCALE = 10.0  # a random head has far more to learn than the body's weights

# Up to this number of images in a fold's training part layers may be frozen; measured on 980 and 5,500. With much data
# all layers have something to learn.
FEW_IMAGES = 10_000
# Below this share of the side that the weights were trained at, the first layers see everything at another scale, and
# all learn. Measured at 0.57 to 0.71, where that is better, and at 1, where it is not and takes 1.7 times the time.
OWN_SIZE = 0.75

# Epochs by the images that train a fold, between these points in the logarithm of their number. BiT's rule keeps the
# number of steps up to a size (Kolesnikov et al. 2020: 500 of 512 images below 20,000, 10,000 above); ours keeps the
# passes of images, about 16,000, for the sake of CPUs, and then gives more to those who have more than a CPU can do:
# six epochs instead of three of 13,732 images saved a quarter of the top-3 errors (docs/measured.md).
EPOCHS_BY_IMAGES = ((400, 15), (1_000, 12), (5_500, 3), (12_000, 6))
SCRATCH_EPOCHS_BY_IMAGES = ((400, 45), (1_000, 36), (5_500, 18), (90_000, 12))


@dataclass(frozen=True, kw_only=True)
class FullSettings(TrainSettings):
    """The settings of one run, with everything that they leave to the backbone's family filled in."""

    epochs: int = field()
    lr: float | Literal["find"] = field()
    head: Literal["random", "probe"] = field()
    head_lr_scale: float = field()
    layer_decay: float = field()
    frozen_share: float = field()
    batch_norm: Literal["train", "frozen"] = field()
    drop_path: float = field()
    start_share: float = field()
    stages: Literal[1, 2] = field()


FROM_FAMILY = tuple(FullSettings.__annotations__)  # the settings whose None means: not given


def find_family(tag: str, *, has_weights: bool) -> Family:
    """The row for a backbone by its full tag, such as `convnext_tiny.in12k_ft_in1k`."""
    if not has_weights:
        return SCRATCH
    return next(family for family in FAMILIES if re.search(family.pattern, tag))


def epochs_for(n_train: int, *, has_weights: bool) -> int:
    """How many epochs a fold trains, by the images in its training part."""
    points = EPOCHS_BY_IMAGES if has_weights else SCRATCH_EPOCHS_BY_IMAGES
    images = min(max(n_train, points[0][0]), points[-1][0])
    fewer, most, more, least = next((*a, *b) for a, b in pairwise(points) if images <= b[0])
    return round(most + (least - most) * math.log(images / fewer) / math.log(more / fewer))


def full_settings(
    settings: TrainSettings,
    *,
    tag: str,
    has_weights: bool,
    n_train: int,
    size_share: float = 1.0,
    has_drop_path: bool = True,
    takes_head: bool = True,
) -> FullSettings:
    """The settings of a run of one backbone; those that are not given come from its family.

    n_train        images in a fold's training part
    size_share     side of the input, as a share of the one that the weights were trained at
    has_drop_path  whether the network supports stochastic depth: one that does not gets none unless it is asked for
    takes_head     whether a fitted head can be put into the network: otherwise it starts from a random one
    Raises UserError where `start_share` is given to a run that starts from a random head.
    """
    values: dict[str, Any] = {one.name: getattr(settings, one.name) for one in fields(TrainSettings)}
    given = {key: value for key, value in values.items() if value is not None or key not in FROM_FAMILY}
    family = find_family(tag, has_weights=has_weights)
    defaults: dict[str, Any] = {key: getattr(family, key) for key in FROM_FAMILY if key != "epochs"}
    defaults["epochs"] = epochs_for(n_train, has_weights=has_weights)
    if not has_drop_path:
        defaults["drop_path"] = 0.0
    if not takes_head:
        defaults["head"] = "random"
    if has_weights and given.get("head", defaults["head"]) == "random":
        defaults["head_lr_scale"] = RANDOM_HEAD_LR_SCALE
    chosen = {**defaults, **given}
    # Between two nets is a good one only where one was trained from the other, under the same statistics.
    is_fitted = has_weights and takes_head and chosen["head"] == "probe"
    starts_as_probe = is_fitted and chosen["batch_norm"] == "frozen"
    if not starts_as_probe:
        chosen["start_share"] = given.get("start_share", 0.0)
    if not is_fitted:
        chosen["stages"] = given.get("stages", 1)
    if not starts_as_probe or n_train > FEW_IMAGES or size_share < OWN_SIZE:
        chosen["frozen_share"] = given.get("frozen_share", 0.0)
    if family.probed_lr and (starts_as_probe or chosen["frozen_share"]):
        chosen["lr"] = given.get("lr", family.probed_lr)
    if chosen["start_share"] and not is_fitted:
        raise UserError(
            f"`--start-share {chosen['start_share']}` mixes the trained weights with those before training, and "
            f"{tag} starts with a random head here",
            hint="`--head probe`, or `--start-share 0`" if has_weights and takes_head else "`--start-share 0`",
        )
    return FullSettings(**chosen)


def from_family(settings: TrainSettings, full: FullSettings) -> Mapping[str, Any]:
    """What the family gave to settings that lacked it, by name."""
    return {key: getattr(full, key) for key in FROM_FAMILY if getattr(settings, key) is None}
