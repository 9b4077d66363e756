"""Makes pictures of a few hundred kilobytes whose decoding takes all the memory or time that there is."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SIDE = 10_000  # 100 megapixels
NAMES = {
    "see-through.png": ("RGBA", "PNG", {"compress_level": 1}),
    "palette.png": ("P", "PNG", {"compress_level": 1, "transparency": 0}),
    "progressive.jpg": ("L", "JPEG", {"progressive": True}),
    "lines.gif": ("L", "GIF", {}),
    "grey.png": ("L", "PNG", {"compress_level": 1}),
    "deep.png": ("I;16", "PNG", {"compress_level": 1}),
    "plain.jpg": ("L", "JPEG", {}),
    "ink.jpg": ("CMYK", "JPEG", {}),
    "bits.bmp": ("1", "BMP", {}),
    "packed.tif": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "float.tif": ("F", "TIFF", {"compression": "tiff_adobe_deflate"}),
}


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def flat(mode: str, *, side: int = SIDE) -> Image.Image:
    return Image.new(mode, (side, side), 1)


def hundred_megapixels(name: str) -> bytes:
    """One of `NAMES`, each of which uses memory in a way of its own."""
    mode, form, options = NAMES[name]
    picture = flat(mode)
    if mode == "P":
        picture.putpalette([200, 10, 10] * 256)
    return saved(picture, form, **options)


def many_scans(scans: int) -> bytes:
    """A progressive JPEG of 81 megapixels whose last scan comes again and again: 30 ms and 120 bytes each."""
    whole = saved(flat("L", side=9000), "JPEG", progressive=True)
    at = whole.rfind(b"\xff\xda")
    return whole[:at] + whole[at:-2] * scans + whole[at:]


def bombs() -> dict[str, bytes]:
    """Small files that promise or unpack to much more than a picture needs."""
    small = flat("RGB", side=40)
    text = PngInfo()
    text.add_text("Comment", "a" * 60_000_000, zip=True)
    profile = zlib.compress(bytes(100_000_000), 9)
    chunk = b"iCCPx\0\0" + profile
    length, png = struct.pack(">I", len(chunk) - 4), saved(small, "PNG")
    frames = [Image.new("L", (40, 40), n % 256) for n in range(3000)]
    return {
        "pixels.png": png[:16] + struct.pack(">II", 60_000, 60_000) + png[24:29] + _crc(png, 60_000) + png[33:],
        "text.png": saved(small, "PNG", pnginfo=text),
        "profile.png": png[:33] + length + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:],
        "frames.gif": saved(small, "GIF", save_all=True, append_images=frames),
        "wide.gif": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + saved(small, "GIF")[13:],
        "exif.jpg": saved(small, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000),
        "loop.tif": _loop(),
        "icons.ico": struct.pack("<HHH", 0, 1, 65_535) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 100, 22) * 65_535,
    }


def _crc(png: bytes, side: int) -> bytes:
    return struct.pack(">I", zlib.crc32(b"IHDR" + struct.pack(">II", side, side) + png[24:29]))


def _loop() -> bytes:
    """A TIFF whose list of directories leads back to its first one."""
    whole = bytearray(saved(flat("L", side=40), "TIFF"))
    first = struct.unpack("<I", whole[4:8])[0]
    entries = struct.unpack("<H", whole[first : first + 2])[0]
    at = first + 2 + 12 * entries
    whole[at : at + 4] = struct.pack("<I", first)
    return bytes(whole)
