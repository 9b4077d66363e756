"""The views of test-time augmentation: each is a box per image, as is every augmentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from folds.base.errors import UserError
from models.settings import LEAST_SIDE, MOST_SIDE

Boxes = np.ndarray  # (n, 4) float32: left, top, right, bottom as shares of the picture; right < left mirrors


def view_boxes(view: str, *, width: np.ndarray, height: np.ndarray, crop_share: float) -> Boxes:
    """The boxes of one view. (n, 4) float32 in shares of the picture's true width and height.

    view           a known one; the side of the input that it may name does not change what is seen
    width, height  (n,) true size in pixels, upright
    crop_share     the weights' own share of the short side that the centre crop takes (timm's crop_pct), in (0, 1]
    """
    view = split_view(view)[0]
    plain = "centre" if view == "mirror" else view.removesuffix("-mirror")
    boxes = VIEWS[plain](width.astype(np.float64), height.astype(np.float64), crop_share)
    return (boxes if plain == view else boxes[:, [2, 1, 0, 3]]).astype(np.float32)


def known_views() -> tuple[str, ...]:
    """The names of all views, plain ones first."""
    return (*VIEWS, *map(mirrored, VIEWS))


def mirrored(view: str) -> str:
    """The name of the mirror image of a view that names no size and is none itself."""
    return "mirror" if view == "centre" else f"{view}-mirror"


def split_view(view: str) -> tuple[str, int | None]:
    """A view without the side of its input, and that in pixels: None, the run's own, where it names none."""
    plain, _, side = view.partition("@")
    return plain, int(side) if side else None


def view_size(view: str, own: int) -> int:
    """The side of a view's input in pixels. own: of views that name none"""
    return split_view(view)[1] or own


def check_views(views: Sequence[str]) -> None:
    """Refuse unknown and repeated views, by name, and sides that are no number of pixels."""
    for plain, at, side in (view.partition("@") for view in views):
        is_side = re.fullmatch("[1-9][0-9]{1,3}", side) and LEAST_SIDE <= int(side) <= MOST_SIDE
        if at and not is_side:
            raise UserError(
                f"`{plain}@{side}` names no side in pixels: {LEAST_SIDE} to {MOST_SIDE} are possible",
                hint=f"`{plain}@288`",
            )
    unknown = [view for view in views if split_view(view)[0] not in known_views()]
    if unknown or not views:
        raise UserError(
            f"there is no view `{', '.join(unknown)}`; there are {', '.join(known_views())}",
            hint="`--views centre,mirror`",
        )
    if len(set(views)) < len(views):
        raise UserError(f"`--views {','.join(views)}` names a view twice", hint="name each view once")


def _crop(share: float | None, *, across: float = 0.5, down: float = 0.5) -> Callable[..., Boxes]:
    """A square of `share` of the short side (None: the weights' own); across 0 is left, down 0 is the top."""

    def boxes(width: np.ndarray, height: np.ndarray, crop_share: float) -> Boxes:
        side = np.minimum(width, height) * (crop_share if share is None else share)
        left, top = (width - side) * across, (height - side) * down
        return np.stack([left / width, top / height, (left + side) / width, (top + side) / height], axis=1)

    return boxes


# A new view is one line here; its mirror image comes by itself as NAME-mirror.
VIEWS: dict[str, Callable[[np.ndarray, np.ndarray, float], Boxes]] = {
    "centre": _crop(None),
    "whole": lambda width, height, crop_share: np.tile([0.0, 0.0, 1.0, 1.0], (len(width), 1)),  # squashed into a square
    "wide": _crop(1.0),
    "zoom": _crop(0.75),
    "top-left": _crop(0.8, across=0.0, down=0.0),
    "top-right": _crop(0.8, across=1.0, down=0.0),
    "bottom-left": _crop(0.8, across=0.0, down=1.0),
    "bottom-right": _crop(0.8, across=1.0, down=1.0),
}
