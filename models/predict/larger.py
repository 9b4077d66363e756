"""Proposes the larger size at which the authors of a run's weights tested them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import timm

from models.backbones import Backbone, resolve_backbone
from models.input.views import mirrored, split_view
from models.runs import RunPlan
from models.settings import TrainSettings


def larger_views(
    plans: Sequence[RunPlan],
    views: Sequence[str],
    *,
    size_of: Callable[[TrainSettings, Backbone], int],
    command: Callable[[RunPlan], str],
) -> Iterator[str]:
    """For each run at its weights' own size: the larger one at which they were tested, and how to try it here.

    size_of  the side of a run's views that name none     command  that predicts a run, without `--views`
    It is proposed and never applied: a weak net of 64 pixels on Caltech-101 erred 0.2663 at 80, 0.1705 at 64.
    """
    if any(split_view(view)[1] for view in views):
        return  # sizes are being tried already
    for plan in (plan for plan in plans if len(plan.parts) == 1):
        backbone = resolve_backbone(plan.backbone)
        tested = tested_view(backbone) if plan.has_weights else None
        if tested is None or size_of(plan.settings, backbone) != backbone.size:
            continue
        plain, size = split_view(tested)
        more = [plain, *([mirrored(plain)] if "mirror" in views else [])]
        yield (
            f"{backbone.tag} was trained at {backbone.size} pixels and tested at {size} by its authors: `python run.py"
            f" {command(plan)} --views {','.join([*views, *(f'{view}@{size}' for view in more)])}`, then `python run.py"
            " views` says whether that pays here"
        )


def tested_view(backbone: Backbone) -> str | None:
    """The view of the authors' test at a larger side than that of training; None where there was none.

    Source: timm's `test_input_size` and `test_crop_pct`.
    """
    cfg = timm.get_pretrained_cfg(backbone.tag)
    if cfg is None or cfg.test_input_size is None or cfg.test_input_size[1] <= backbone.size or backbone.fixed_size:
        return None
    return f"{'wide' if cfg.test_crop_pct == 1 else 'centre'}@{cfg.test_input_size[1]}"
