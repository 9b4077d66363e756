"""Makes the report's small pictures, as long as they fit into the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from folds.pixels.store import PixelStore
from submissions.report.source import Picture, Source

TAG = 200  # bytes of a picture's element beside its content
QUALITY = 62  # of WebP: a picture of 112 pixels takes about 2 KB


@dataclass(frozen=True)
class Thumbnail:
    uri: str
    width: int
    height: int


class Album:
    """Hands out pictures until `most_bytes` of text are spent; counts what it had to refuse."""

    def __init__(self, source: Source, *, side: int, most_bytes: int) -> None:
        self.source = source
        self.side = side
        self.left = most_bytes
        self.refused = 0

    def thumbnail(self, picture: Picture) -> Thumbnail | None:
        """The picture as a data URI; None where none was kept (a file that is no picture), or the page is full."""
        image = self._find(picture) if self.left > 0 else None
        if image is None:
            self.refused += self.left <= 0
            return None
        image.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=QUALITY)
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) + TAG > self.left:
            self.refused += 1
            return None
        self.left -= len(uri) + TAG
        return Thumbnail(uri, image.width, image.height)

    def _find(self, wanted: Picture) -> Image.Image | None:
        row, store = self.source.store_row(wanted), self.source.store
        return None if row is None or store is None else picture(store, row)


def picture(store: PixelStore, row: int) -> Image.Image:
    """The picture in one row of the store, in its true aspect ratio."""
    return _unsquashed(np.asarray(store.pixels[row]), width=int(store.width[row]), height=int(store.height[row]))


def _unsquashed(pixels: np.ndarray, *, width: int, height: int) -> Image.Image:
    """A square picture brought back to the aspect ratio of width and height; its longer side stays."""
    longer = max(width, height, 1)
    side = pixels.shape[0]
    size = max(1, round(side * width / longer)), max(1, round(side * height / longer))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
