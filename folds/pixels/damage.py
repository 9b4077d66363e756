"""Judges damaged files: what a file was by its first bytes, whether it was cut off, how much decoded."""

from __future__ import annotations

import io
import struct
from typing import IO

import numpy as np
from PIL import Image

# Formats by their first bytes: (offset, bytes, Pillow's name).
SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
)
# ISO base media files begin with a box `ftyp` of brands, the main one first; the general ones (mif1 ..) tell no codec.
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),  # one picture, a sequence
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
}
GENERAL_BRANDS = frozenset({b"mif1", b"msf1", b"mif2", b"mif3", b"miaf"})
JPEG_FILL = (127, 128)  # what libjpeg leaves where no data came: no light difference from grey; 127 if inverted (CMYK)


def what_it_is(start: bytes) -> str | None:
    """The format that a file claims by its first bytes, or None."""
    for offset, signature, name in SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return name
    return _brand(start) if start[4:8] == b"ftyp" else None


def _brand(start: bytes) -> str | None:
    """The format of an ISO base media file that holds pictures: AVIF, HEIC, or HEIF of an unknown codec."""
    length = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, min(length, len(start) - 3), 4))]
    named = next((BRANDS[brand] for brand in brands if brand in BRANDS), None)
    return named or ("HEIF" if GENERAL_BRANDS.intersection(brands) else None)


def is_cut_off(stream: IO[bytes], form: str) -> bool:
    """Whether the file lacks its end, by what its format says of ends; True where the format says nothing."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, length - 64))
    tail = stream.read()
    stream.seek(0)
    start = stream.read(8)
    stream.seek(0)
    if form in ("JPEG", "MPO"):
        return b"\xff\xd9" not in tail
    if form == "PNG":
        return b"IEND" not in tail
    if form == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    if form == "WEBP":
        return len(start) < 8 or struct.unpack("<I", start[4:8])[0] + 8 > length
    if form == "BMP":
        return len(start) < 6 or struct.unpack("<I", start[2:6])[0] > length
    return True


def share_decoded(picture: Image.Image) -> float:
    """The share of rows that are not what the decoder leaves where no data came. In [0, 1].

    Rows count wherever they lie, since BMP comes bottom up and GIF and PNG may come interlaced; a row that is truly
    of the fill's colour counts as lacking, so the share is a lower bound.
    """
    fill = JPEG_FILL if picture.format in ("JPEG", "MPO") else (0,)
    lacking = 0
    for top in range(0, picture.height, 256):  # in strips, for the memory of a huge picture
        strip = picture.crop((0, top, picture.width, min(top + 256, picture.height)))
        rows = np.asarray(strip).reshape(strip.height, -1)
        lacking += int(np.isin(rows.min(axis=1), fill) @ np.isin(rows.max(axis=1), fill).astype(int))
    return 1.0 - lacking / picture.height
