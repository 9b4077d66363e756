"""Turns one file into an upright RGB picture and the facts about it, whatever is wrong with the file."""

from __future__ import annotations

import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, features

from folds.manifest.likeness import perceptual_hashes
from folds.pixels.colours import to_rgb
from folds.pixels.damage import is_cut_off, share_decoded, what_it_is

MAX_PIXELS = 200_000_000  # RGB at Pillow's 4 bytes a pixel: 0.8 GB; beyond it only a JPEG that can be decoded smaller
LARGE_PIXELS = 16_000_000  # above this a picture is shrunk by a whole factor before it is converted, turned and hashed
DRAFT_ROOM = 2  # a JPEG is decoded at 1/2, 1/4, 1/8 as long as both sides keep this many times the store's
REDUCING_GAP = 3.0  # Pillow shrinks by whole factors first, down to 3 times the target: no visible difference
THIN = 10  # from this ratio of the sides on, or below this many pixels a side, a picture is named as extreme
SHRINKABLE = frozenset({"L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"})  # modes that `reduce` can average
STRIP_BYTES = 1 << 24
ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
# Without EPS, whose decoder starts Ghostscript, and formats that Pillow identifies but cannot decode itself.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF", "FPX", "MIC"})
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

with suppress(ImportError):  # without it HEIC files are named, with what reads them
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1  # the other cores have files of their own
    pillow_heif.register_heif_opener()
# What reads a format, by its name in Pillow and what to install.
DECODERS = {"AVIF": ("AVIF", "--upgrade pillow"), "HEIC": ("HEIF", "pillow-heif"), "HEIF": ("HEIF", "pillow-heif")}
NO_DECODER = "no decoder"  # the clause in the manifest's `reason` begins with it

Image.init()
if not features.check("avif"):
    Image.OPEN.pop("AVIF", None)
# The usual ones first: Pillow asks one plugin after the other, and there are forty.
USUAL = tuple(name for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF") if name in Image.OPEN)
FORMATS = (*USUAL, *sorted(name for name in Image.OPEN if name not in REFUSED_FORMATS and name not in USUAL))
EXTENSIONS = Image.registered_extensions()  # `.jpg` -> `JPEG`
Image.MAX_IMAGE_PIXELS = None  # the limit is MAX_PIXELS here, and says so in the manifest


@dataclass(frozen=True)
class Facts:
    """What decoding found out about one file.

    format, mode   of the file by its content, Pillow's names; empty where nothing was recognised
    width, height  pixels, upright, before any shrinking; 0 where nothing was recognised
    digest         CRC-32 of the upright RGB pixels and CRC-32 of the square, 8 hexadecimal digits each
    phash          perceptual hash, 16 hexadecimal digits; mirror_phash: of the mirror image
    decoded        share of the rows that decoded, in [0, 1]; 0 means unreadable
    notes          clauses `kind` or `kind: detail`, joined by `; `
    """

    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    digest: str = ""
    phash: str = ""
    mirror_phash: str = ""
    decoded: float = 0.0
    notes: str = ""


class _UnreadableError(Exception):
    """Nothing of the file can be shown; the text is the clause for the manifest."""


def decode(path: Path, *, size: int) -> tuple[Facts, np.ndarray | None]:
    """The facts about one file and its picture squashed to size x size; None for the pixels of an unreadable file.

    Returns (facts, (size, size, 3) uint8 or None). Reads the file only; never raises for what is in it.
    """
    try:
        with open(path, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of broken EXIF and the like; the notes say what matters
            return _decode(stream, path, size=size)
    except _UnreadableError as err:
        return Facts(notes=str(err)), None
    except MemoryError:
        return Facts(notes="too large: it needs more memory than one picture may have"), None
    except OSError as err:
        return Facts(notes=f"cannot be read: {err.strerror or type(err).__name__}"), None


def _decode(stream: IO[bytes], path: Path, *, size: int) -> tuple[Facts, np.ndarray | None]:
    picture = _open(stream)
    mode, form = picture.mode, picture.format or ""
    notes = [_wrong_extension(path.name, form), _frames(picture, form)]
    true_size = picture.size
    notes += _shrink_while_decoding(picture, size=size)
    picture, decoded, damage = _load(picture, path)
    notes += [damage]
    rgb, tone_notes = _small_rgb(picture)
    rgb, turn_note = _upright(rgb, picture)
    width, height = true_size[::-1] if turn_note and _swaps_sides(turn_note) else true_size
    notes += [*tone_notes, turn_note, _extreme_shape(width, height)]
    square = rgb.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    pixels = square.tobytes()
    phash, mirror_phash = perceptual_hashes(square)
    facts = Facts(
        format=form,
        mode=mode,
        width=width,
        height=height,
        digest=f"{_checksum(rgb):08x}{zlib.crc32(pixels):08x}",
        phash=f"{phash:016x}",
        mirror_phash=f"{mirror_phash:016x}",
        decoded=decoded,
        notes="; ".join(note for note in notes if note),
    )
    return facts, np.frombuffer(pixels, dtype=np.uint8).reshape(size, size, 3)


def _open(stream: IO[bytes]) -> Image.Image:
    """The picture by its content, not yet decoded."""
    start = stream.read(64)
    if not start:
        raise _UnreadableError("zero-byte")
    stream.seek(0)
    try:
        picture = Image.open(stream, formats=FORMATS)
    except MemoryError:
        raise
    except Exception as err:  # decoders meet arbitrary bytes here and raise whatever they like
        known = what_it_is(start)
        if known is None:
            raise _UnreadableError("not an image") from err
        decoder, package = DECODERS.get(known, (known, ""))
        if package and decoder not in FORMATS:
            raise _UnreadableError(f"{NO_DECODER}: {known}, which `pip install {package}` reads") from err
        kind = "truncated" if is_cut_off(stream, known) else "damaged"
        raise _UnreadableError(f"{kind}: 0% decoded, {known} header") from err
    width, height = picture.size
    if width < 1 or height < 1:
        raise _UnreadableError(f"damaged: {width} x {height} pixels")
    return picture


def _shrink_while_decoding(picture: Image.Image, *, size: int) -> list[str]:
    """Let libjpeg decode at 1/2, 1/4 or 1/8; refuse what is too large for one worker's memory even so."""
    width, height = picture.size
    # A progressive JPEG keeps all its coefficients in memory, at 6 bytes a pixel, however small the result.
    limit = MAX_PIXELS // 2 if picture.info.get("progressive") else MAX_PIXELS
    if picture.format in ("JPEG", "MPO"):
        picture.draft(None, (size * DRAFT_ROOM, size * DRAFT_ROOM))
        if not picture.info.get("progressive"):
            limit = MAX_PIXELS * 64
    if width * height > limit or picture.width * picture.height > MAX_PIXELS:
        raise _UnreadableError(f"too large: {width} x {height} pixels")
    return [f"large: {width} x {height} pixels"] if width * height > MAX_PIXELS else []


def _load(picture: Image.Image, path: Path) -> tuple[Image.Image, float, str]:
    """The decoded picture, the share of its rows that decoded, and a clause about damage (empty if there is none)."""
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception:  # as in `_open`
        with open(path, "rb") as stream:  # anew: some decoders have closed the first one
            return _load_damaged(picture, stream)
    return picture, 1.0, ""


def _load_damaged(broken: Image.Image, stream: IO[bytes]) -> tuple[Image.Image, float, str]:
    form = broken.format or ""
    kind = "truncated" if is_cut_off(stream, form) else "damaged"
    stream.seek(0)
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # the rest of the picture becomes grey or black, and is measured below
    try:
        picture = Image.open(stream, formats=FORMATS)
        picture.draft(None, broken.size)
        picture.load()
    except MemoryError:
        raise
    except Exception as err:  # as in `_open`
        raise _UnreadableError(f"{kind}: 0% decoded, {form} header") from err
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    decoded = share_decoded(picture)
    if decoded == 0:
        raise _UnreadableError(f"{kind}: 0% decoded, {form} header")
    if kind == "truncated" and picture.info.get("progressive"):
        return picture, decoded, f"{kind}: {decoded:.0%} of the rows decoded, coarsely"
    percent = min(int(decoded * 100), 99) if kind == "truncated" else int(decoded * 100)  # cut off: something lacks
    return picture, decoded, f"{kind}: {percent}% decoded"


def _small_rgb(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """In RGB, and of no more than LARGE_PIXELS: shrunk by a whole factor, before the conversion where the mode can."""
    factor = _whole_factor(picture)
    shrinks_first = picture.mode in SHRINKABLE and "transparency" not in picture.info
    try:
        rgb, notes = to_rgb(picture.reduce(factor) if factor > 1 and shrinks_first else picture)
    except ValueError as err:  # a mode that Pillow reads and cannot convert
        raise _UnreadableError(f"damaged: 0% decoded, {picture.mode} pixels that cannot be converted") from err
    factor = _whole_factor(rgb)
    return (rgb.reduce(factor) if factor > 1 else rgb), notes


def _wrong_extension(name: str, form: str) -> str:
    extension = Path(name).suffix.lower()
    same = {form, "JPEG"} if form == "MPO" else {form}
    if not extension or EXTENSIONS.get(extension) in same or (form, extension) == ("PPM", ".pgm"):
        return ""
    return f"wrong extension: {form} named {extension}"


def _frames(picture: Image.Image, form: str) -> str:
    """A note on animations; the first frame is what is used, and of HEIF the one that the file names as its picture."""
    if form == "HEIF":
        return ""
    try:
        animated = form in ANIMATED and getattr(picture, "is_animated", False)
        picture.seek(0)
    except Exception:  # a broken second frame must not cost the first
        return "animated: broken after the first frame"
    return "animated: first frame" if animated else ""


def _upright(rgb: Image.Image, picture: Image.Image) -> tuple[Image.Image, str]:
    """Turn as EXIF says. Asked after decoding: Pillow turns TIFF by itself, and PNG may tell it behind the pixels."""
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF must not cost the picture
        return rgb, "broken EXIF"
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return (rgb, "") if turn is None else (rgb.transpose(turn), f"turned: EXIF {orientation}")


def _swaps_sides(turn_note: str) -> bool:
    return turn_note[-1] in "5678"


def _extreme_shape(width: int, height: int) -> str:
    extreme = max(width, height) >= THIN * min(width, height) or min(width, height) < THIN
    return f"extreme shape: {width} x {height}" if extreme else ""


def _whole_factor(picture: Image.Image) -> int:
    """By how much to shrink first, so that conversions and turns of a huge picture stay small. 1 is not at all."""
    factor = 1
    while picture.width * picture.height > LARGE_PIXELS * factor**2:
        factor += 1
    return min(factor, *picture.size)


def _checksum(rgb: Image.Image) -> int:
    """CRC-32 of all pixels, taken in strips: a copy of a large picture would double its memory.

    Chance makes two of a million pictures equal in this and in the sum of their squares once in 10^7 data sets; a
    cryptographic digest would take 5% of the time of the whole decoding.
    """
    total = 0
    rows = max(1, STRIP_BYTES // (3 * rgb.width))
    for top in range(0, rgb.height, rows):
        strip = rgb if rows >= rgb.height else rgb.crop((0, top, rgb.width, min(top + rows, rgb.height)))
        total = zlib.crc32(strip.tobytes(), total)
    return total
