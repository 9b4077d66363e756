"""The image formats: which are read, what a file is by its first bytes, whether it lacks its end."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import IO

from PIL import Image, features

from folds.find.reasons import Reason

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
# What reads a format, by its name in Pillow and what to install.
DECODERS = {"AVIF": ("AVIF", "--upgrade pillow"), "HEIC": ("HEIF", "pillow-heif"), "HEIF": ("HEIF", "pillow-heif")}
# Without EPS, whose decoder starts Ghostscript, and formats that Pillow identifies but cannot decode itself.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF", "FPX", "MIC"})

with suppress(ImportError):  # without it HEIC files are named, with what reads them
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1  # the other cores have files of their own
    pillow_heif.register_heif_opener()

Image.init()
if not features.check("avif"):
    Image.OPEN.pop("AVIF", None)
# The usual ones first: Pillow asks one plugin after the other, and there are forty.
USUAL = tuple(name for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF") if name in Image.OPEN)
FORMATS = (*USUAL, *sorted(name for name in Image.OPEN if name not in REFUSED_FORMATS and name not in USUAL))
EXTENSIONS = Image.registered_extensions()  # `.jpg` -> `JPEG`


def what_it_is(start: bytes) -> str | None:
    """The format that a file claims by its first bytes, or None."""
    for offset, signature, name in SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return name
    if start[4:8] != b"ftyp":
        return None
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


def wrong_extension(name: str, form: str) -> Reason | None:
    """That a name has the extension of another format."""
    extension = Path(name).suffix.lower()
    same = {form, "JPEG"} if form == "MPO" else {form}
    is_right = not extension or EXTENSIONS.get(extension) in same or (form, extension) == ("PPM", ".pgm")
    return None if is_right else Reason("wrong extension", f"{form} named {extension}")
