"""The small pictures of the report, as many as fit into the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image as Pillow

from submissions.report.workfolder import Image, WorkFolder

TAG = 200  # bytes of a picture's element beside its content
QUALITY = 62  # of WebP: a picture of 112 pixels takes about 2 KB


class Thumbnails:
    """Makes thumbnails until `most_bytes` of text are used up, and counts those that it had to refuse.

    side: pixels of the longer side
    """

    def __init__(self, work: WorkFolder, *, side: int, most_bytes: int) -> None:
        self.work, self.side, self.bytes_left, self.refused = work, side, most_bytes, 0

    def __call__(self, image: Image) -> dict[str, Any] | None:
        """{"uri", "width", "height"}; None where no picture was kept (a file that is none), or the page is full."""
        picture = self._picture(image) if self.bytes_left > 0 else None
        if picture is None:
            self.refused += self.bytes_left <= 0
            return None
        picture.thumbnail((self.side, self.side), Pillow.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY)
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) + TAG > self.bytes_left:
            self.refused += 1
            return None
        self.bytes_left -= len(uri) + TAG
        return {"uri": uri, "width": picture.width, "height": picture.height}

    def _picture(self, image: Image) -> Pillow.Image | None:
        """From the pixel store, which keeps what `prepare` left out too."""
        row, store = self.work.store_row(image), self.work.store
        if row is None or store is None:
            return None
        width, height = int(store.width[row]), int(store.height[row])
        return _unsquashed(np.asarray(store.pixels[row]), width=width, height=height)


def _unsquashed(pixels: np.ndarray, *, width: int, height: int) -> Pillow.Image:
    """A square picture brought back to the aspect ratio of width and height; its longer side stays."""
    longer, side = max(width, height, 1), pixels.shape[0]
    size = max(1, round(side * width / longer)), max(1, round(side * height / longer))
    return Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BICUBIC)
