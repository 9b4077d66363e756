"""Turns any of Pillow's modes into 8-bit RGB without losing what a person would see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from folds.find.reasons import Reason

ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
DEEP_MODES = {**dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "16-bit"), "I": "32-bit", "F": "float"}


def to_rgb(picture: Image.Image) -> tuple[Image.Image, Reason | None]:
    """The picture in RGB and what was done to it; `picture` is decoded and not changed."""
    mode = picture.mode
    if mode in DEEP_MODES:
        return _scaled(picture).convert("RGB"), Reason(DEEP_MODES[mode])
    if mode in ALPHA_MODES or "transparency" in picture.info:
        return _on_white(picture), Reason("alpha", "on white")
    if mode == "RGB":
        return picture, None
    return picture.convert("RGB"), Reason("CMYK") if mode == "CMYK" else None


def _on_white(picture: Image.Image) -> Image.Image:
    """Composite on white: a transparent pixel keeps a hidden colour, which `convert` would bring to light."""
    try:
        rgba = picture.convert("RGBA")
    except ValueError:  # a transparency entry that does not fit its palette or mode
        return picture.convert("RGB")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _scaled(picture: Image.Image) -> Image.Image:
    """Deep grey levels scaled to 8 bits, in strips; `convert` would clip all but the lowest 256 of them.

    16 bits: by 257. 32 bits and float: as they are up to 255 (floats up to 1: by 255), by 257 up to 65,535, else from
    the least to the greatest value.
    """
    extremes = [(values.min(), values.max()) for values in (_finite(strip) for _, strip in strips(picture))]
    low, high = float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))
    if picture.mode.startswith("I;16") or (picture.mode == "I" and low >= 0 and 255 < high <= 65535):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if picture.mode == "F" and high <= 1 else 255.0
    scale = 255.0 / max(high - low, 1e-30)
    grey = Image.new("L", picture.size)
    for top, strip in strips(picture):
        levels = np.clip(np.rint((_finite(strip) - low) * scale), 0, 255).astype(np.uint8)
        grey.paste(Image.fromarray(levels), (0, top))
    return grey


def strips(picture: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """(top, its pixels) of strips of 256 rows, (256, width, ...), for the memory of a huge picture."""
    for top in range(0, picture.height, 256):
        yield top, np.asarray(picture.crop((0, top, picture.width, min(top + 256, picture.height))))


def _finite(levels: np.ndarray) -> np.ndarray:
    return np.nan_to_num(levels.astype(np.float64), posinf=0.0, neginf=0.0)
