"""Sizes in pixels: of each epoch, of prediction, of the store that serves them; and larger ones that may pay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import timm

from folds.base.errors import UserError
from folds.pixels.store import STORE_GRID
from models.backbones import Backbone, refuse_input, resolve_backbone
from models.input.views import check_views, mirrored, split_view, view_size
from models.recipes import OWN_SIZE, FullSettings
from models.runs import RunPlan
from models.settings import PredictSettings, TrainSettings

GROW_SHARE = 0.75  # the last quarter of the epochs sees the final size
GRID = 16  # sizes in between are multiples of it: few sizes, so that cuDNN and torch.compile tune few shapes
STORE_MARGIN = 7 / 6  # crops are cut out of the store: 288 serves 224, 352 serves 299 (within 1 dB of the originals)
# Far below the weights' own size one of two views is this much larger: what the weights know of larger pictures is not
# lost, and crops of training show objects larger, too (Touvron et al. 2019). It is a multiple of 32, the stride of most
# networks: asked at 160 or 192 pixels a net trained at 128 has a lower log loss than at 144 or 176 (docs/measured.md).
LARGER = 1.25
STRIDE = 32


def train_size(settings: TrainSettings, backbone: Backbone) -> int:
    """The side of the network's input at the end of training: as set, or the weights' own."""
    return settings.image_size or backbone.size


def predict_size(settings: TrainSettings, backbone: Backbone) -> int:
    """The side of the views that name none: as set, or that of training."""
    return settings.test_size or train_size(settings, backbone)


def run_views(
    predict: PredictSettings, settings: TrainSettings, backbone: Backbone, has_weights: bool
) -> tuple[str, ...]:
    """The views of a run: as set, or two, the first of them at a larger side where the weights know larger pictures.

    That side is within the run's store. Nothing is larger where the user names a side to predict at.
    """
    size = train_size(settings, backbone)
    larger = min(int(size * LARGER / STRIDE + 0.5) * STRIDE, store_size_for(size))
    is_small = has_weights and not backbone.fixed_size and size < OWN_SIZE * backbone.size
    if predict.views or settings.test_size or not is_small or larger <= size:
        return predict.plain_views
    return (f"centre@{larger}", "mirror")


def epoch_sizes(settings: FullSettings, *, size: int) -> list[int]:
    """The side in each epoch: from `start_size` to `size` in equal steps, rounded, the last quarter at `size`."""
    start, last = settings.start_size, GROW_SHARE * (settings.epochs - 1)
    if start is None:
        return [size] * settings.epochs
    shares = [min(1.0, epoch / last) if last else 1.0 for epoch in range(settings.epochs)]
    between = [max(GRID, round((start + (size - start) * share) / GRID) * GRID) for share in shares]
    return [size if share == 1.0 else rounded for share, rounded in zip(shares, between, strict=True)]


def refuse_odd_sizes(settings: TrainSettings, backbone: Backbone) -> None:
    """Refuse sizes that shrink, and a second size for a network whose input has a fixed size."""
    size, start = train_size(settings, backbone), settings.start_size
    if start and start > size:
        raise UserError(f"`--start-size {start}` is larger than the final size, {size}", hint=f"`--image-size {start}`")
    if backbone.fixed_size and {start or size, predict_size(settings, backbone)} != {size}:
        raise UserError(
            f"{backbone.tag} works on one size only, {size} pixels", hint="leave out `--start-size` and `--test-size`"
        )


def refuse_views(views: Sequence[str], backbone: Backbone, *, own: int) -> None:
    """Refuse views that are none or the same, and sides that the network does not take. own: of views that name none"""
    check_views(views)
    seen: dict[tuple[str, int], str] = {}
    for view in views:
        plain, size = split_view(view)[0], view_size(view, own)
        twin = seen.setdefault((plain, size), view)
        if twin != view:
            raise UserError(
                f"`{twin}` and `{view}` are one view of {backbone.tag}, whose own size is {own} pixels here",
                hint=f"leave out `{plain}@{size}`",
            )
        if size != own:
            hint = f"leave out `{view}`"
            if backbone.fixed_size:
                raise UserError(f"{backbone.tag} works on one size only, {own} pixels, and not on `{view}`", hint=hint)
            refuse_input(backbone, size=size, hint=hint)


def largest_size(views: Sequence[str], own: int) -> int:
    """The largest side of the input under these views, in pixels."""
    return max(view_size(view, own) for view in views)


def needed_store_size(plans: Iterable[RunPlan], views: Sequence[str] = ()) -> int:
    """The side of a store from which crops can be cut for the inputs of all these runs, in pixels.

    views  a side that one of them names is that of the store itself at least: it often comes after the store is made,
           and the sixth that crops of training need is not worth a second store
    """
    sizes = []
    for part in (part for plan in plans for part in plan.parts):
        backbone = resolve_backbone(part.backbone)
        sizes += [train_size(part.settings, backbone), predict_size(part.settings, backbone)]
    named = largest_size([*views, "centre"], own=1)
    return max(store_size_for(max(sizes)), math.ceil(named / STORE_GRID) * STORE_GRID)


def store_size_for(size: int) -> int:
    """The side of a store that serves inputs of a size: a sixth more, rounded up."""
    return math.ceil(size * STORE_MARGIN / STORE_GRID) * STORE_GRID


def larger_views(
    plans: Sequence[RunPlan],
    views: Sequence[str],
    *,
    size_of: Callable[[TrainSettings, Backbone], int],
    command: Callable[[RunPlan], str],
) -> Iterator[str]:
    """For each run at its weights' own size: the larger one at which timm says they were tested, and how to try it.

    size_of  the side of a run's views that name none     command  that predicts a run, without `--views`
    It is proposed and never applied: a weak net of 64 pixels on Caltech-101 erred 0.2663 at 80, 0.1705 at 64.
    """
    if any(split_view(view)[1] for view in views):
        return  # sizes are being tried already
    for plan in (plan for plan in plans if len(plan.parts) == 1):
        backbone = resolve_backbone(plan.backbone)
        cfg = timm.get_pretrained_cfg(backbone.tag) if plan.has_weights and not backbone.fixed_size else None
        size = cfg.test_input_size[1] if cfg and cfg.test_input_size else 0
        if cfg is None or size <= backbone.size or size_of(plan.settings, backbone) != backbone.size:
            continue
        plain = "wide" if cfg.test_crop_pct == 1 else "centre"
        more = [plain, *([mirrored(plain)] if "mirror" in views else [])]
        yield (
            f"{backbone.tag} was trained at {backbone.size} pixels and tested at {size} by its authors: `python run.py"
            f" {command(plan)} --views {','.join([*views, *(f'{view}@{size}' for view in more)])}`, then `python run.py"
            " views` says whether that pays here"
        )
