"""Turns one file into an upright RGB picture and the facts about it, whatever is wrong with the file."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile

from folds.find.reasons import DAMAGED, NO_DECODER, TRUNCATED, UNREAD, Reason
from folds.manifest.hashes import perceptual_hashes
from folds.pixels.formats import DECODERS, FORMATS, is_cut_off, what_it_is, wrong_extension

MAX_PIXELS = 200_000_000  # RGB at Pillow's 4 bytes a pixel: 0.8 GB; beyond it only a JPEG that can be decoded smaller
LARGE_PIXELS = 16_000_000  # above this a picture is shrunk by a whole factor before it is converted, turned and hashed
# A JPEG is decoded at 1/2, 1/4, 1/8 as long as both sides keep this many times the store's: 99% of the levels of a
# photograph are within 2 of the whole one's (docs/speed.md); with 1 instead of 2 within 4 to 6.
DRAFT_ROOM = 2
PLAIN_HEADERS = ("JPEG", "PNG", "GIF", "BMP", "TIFF")  # read in Python: none can crash the process
READ_SHARE = 0.9  # of the files asked
REDUCING_GAP = 3.0  # Pillow shrinks by whole factors first, down to 3 times the target: no visible difference
THIN = 10  # from this ratio of the sides on, or below this many pixels a side, a picture is named as extreme
SHRINKABLE = frozenset({"L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"})  # modes that `reduce` can average
ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
DEEP_MODES = {**dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "16-bit"), "I": "32-bit", "F": "float"}
JPEG_FILL = (127, 128)  # what libjpeg leaves where no data came: no light difference from grey; 127 if inverted (CMYK)
ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = None  # the limit is MAX_PIXELS here, and says so in the manifest


@dataclass(frozen=True)
class Facts:
    """What decoding found out about one file.

    format, mode   of the file by its content, Pillow's names; empty where nothing was recognised
    width, height  pixels, upright, before any shrinking; 0 where nothing was recognised
    digest         CRC-32 of the square's pixels, 8 hexadecimal digits
    phash          perceptual hash, 16 hexadecimal digits; mirror_phash: of the mirror image
    decoded        share of the rows that decoded, in [0, 1]; 0 means unreadable
    """

    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    digest: str = ""
    phash: str = ""
    mirror_phash: str = ""
    decoded: float = 0.0
    reasons: tuple[Reason, ...] = ()


def longest_side(paths: Sequence[Path]) -> int | None:
    """The longest side of these pictures in pixels, by their headers; None where too few of them can be read so."""
    sides = []
    for path in paths:
        with suppress(Exception), warnings.catch_warnings():  # `decode` says what is wrong with the file
            warnings.simplefilter("ignore")
            with Image.open(path, formats=PLAIN_HEADERS) as picture:
                sides.append(max(picture.size))
    return max(sides) if sides and len(sides) >= READ_SHARE * len(paths) else None


class _UnreadableError(Exception):
    """Nothing of the file can be shown; its arguments are those of the Reason."""


def decode(path: Path, *, size: int) -> tuple[Facts, np.ndarray | None]:
    """The facts about one file and its picture squashed to size x size; None for the pixels of an unreadable file.

    Returns (facts, (size, size, 3) uint8 or None). Reads the file only; never raises for what is in it.
    """
    try:
        with open(path, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of broken EXIF and the like; the reasons say what matters
            return _decode(stream, path, size=size)
    except _UnreadableError as err:
        reason = Reason(*err.args)
    except MemoryError:
        reason = Reason("too large", "it needs more memory than one picture may have")
    except OSError as err:
        reason = Reason(UNREAD, err.strerror or type(err).__name__)
    return Facts(reasons=(reason,)), None


def _decode(stream: IO[bytes], path: Path, *, size: int) -> tuple[Facts, np.ndarray | None]:
    picture = _open(stream)
    mode, form, (width, height) = picture.mode, picture.format or "", picture.size
    reasons = [wrong_extension(path.name, form), _first_frame(picture, form)]
    reasons.append(_shrink_while_decoding(picture, size=size))
    picture, decoded, damage = _load(picture, path)
    rgb, colours = _small_rgb(picture)
    rgb, orientation, turned = _upright(rgb, picture)
    if orientation >= 5:  # sides are swapped
        width, height = height, width
    is_extreme = max(width, height) >= THIN * min(width, height) or min(width, height) < THIN
    reasons += [damage, colours, turned, Reason("extreme shape", f"{width} x {height}") if is_extreme else None]
    square = rgb.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    pixels = square.tobytes()
    phash, mirror_phash = perceptual_hashes(square)
    facts = Facts(
        format=form,
        mode=mode,
        width=width,
        height=height,
        digest=f"{zlib.crc32(pixels):08x}",
        phash=f"{phash:016x}",
        mirror_phash=f"{mirror_phash:016x}",
        decoded=decoded,
        reasons=tuple(reason for reason in reasons if reason),
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
            raise _UnreadableError(NO_DECODER, f"{known}, which `pip install {package}` reads") from err
        kind = TRUNCATED if is_cut_off(stream, known) else DAMAGED
        raise _UnreadableError(kind, f"0% decoded, {known} header") from err
    width, height = picture.size
    if width < 1 or height < 1:
        raise _UnreadableError(DAMAGED, f"{width} x {height} pixels")
    return picture


def _first_frame(picture: Image.Image, form: str) -> Reason | None:
    """Go to the first frame of an animation, which is what is used; of HEIF, that which the file names."""
    if form == "HEIF":
        return None
    try:
        animated = form in ANIMATED and getattr(picture, "is_animated", False)
        picture.seek(0)
    except Exception:  # a broken second frame must not cost the first
        return Reason("animated", "broken after the first frame")
    return Reason("animated", "first frame") if animated else None


def _shrink_while_decoding(picture: Image.Image, *, size: int) -> Reason | None:
    """Let libjpeg decode at 1/2, 1/4 or 1/8; refuse what is too large for one worker's memory even so."""
    width, height = picture.size
    # A progressive JPEG keeps all its coefficients in memory, at 6 bytes a pixel, however small the result.
    limit = MAX_PIXELS // 2 if picture.info.get("progressive") else MAX_PIXELS
    if picture.format in ("JPEG", "MPO"):
        picture.draft(None, (size * DRAFT_ROOM, size * DRAFT_ROOM))
        if not picture.info.get("progressive"):
            limit = MAX_PIXELS * 64
    if width * height > limit or picture.width * picture.height > MAX_PIXELS:
        raise _UnreadableError("too large", f"{width} x {height} pixels")
    return Reason("large", f"{width} x {height} pixels") if width * height > MAX_PIXELS else None


def _load(picture: Image.Image, path: Path) -> tuple[Image.Image, float, Reason | None]:
    """The decoded picture, the share of its rows that decoded, and what is damaged."""
    try:
        picture.load()
        return picture, 1.0, None
    except MemoryError:
        raise
    except Exception:  # as in `_open`
        size, form = picture.size, picture.format or ""
    with open(path, "rb") as stream:  # anew: some decoders have closed the first one
        kind = TRUNCATED if is_cut_off(stream, form) else DAMAGED
        ImageFile.LOAD_TRUNCATED_IMAGES = True  # the rest of the picture becomes grey or black, and is measured below
        try:
            picture = Image.open(stream, formats=FORMATS)
            picture.draft(None, size)
            picture.load()
        except MemoryError:
            raise
        except Exception as err:  # as in `_open`
            raise _UnreadableError(kind, f"0% decoded, {form} header") from err
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    decoded = _share_decoded(picture)
    if decoded == 0:
        raise _UnreadableError(kind, f"0% decoded, {form} header")
    if kind == TRUNCATED and picture.info.get("progressive"):
        return picture, decoded, Reason(kind, f"{decoded:.0%} of the rows decoded, coarsely")
    percent = min(int(decoded * 100), 99) if kind == TRUNCATED else int(decoded * 100)  # cut off: something lacks
    return picture, decoded, Reason(kind, f"{percent}% decoded")


def _share_decoded(picture: Image.Image) -> float:
    """The share of rows that are not what the decoder leaves where no data came. In [0, 1].

    Rows count wherever they lie, since BMP comes bottom up and GIF and PNG may come interlaced; a row that is truly
    of the fill's colour counts as lacking, so the share is a lower bound.
    """
    fill = JPEG_FILL if picture.format in ("JPEG", "MPO") else (0,)
    lacking = 0
    for _, strip in _strips(picture):
        rows = strip.reshape(len(strip), -1)
        lacking += int(np.isin(rows.min(axis=1), fill) @ np.isin(rows.max(axis=1), fill).astype(int))
    return 1.0 - lacking / picture.height


def _small_rgb(picture: Image.Image) -> tuple[Image.Image, Reason | None]:
    """In RGB, and of no more than LARGE_PIXELS: shrunk by a whole factor, before the conversion where the mode can."""
    factor = _whole_factor(picture)
    shrinks_first = picture.mode in SHRINKABLE and "transparency" not in picture.info
    try:
        rgb, reason = _to_rgb(picture.reduce(factor) if factor > 1 and shrinks_first else picture)
    except ValueError as err:  # a mode that Pillow reads and cannot convert
        raise _UnreadableError(DAMAGED, f"0% decoded, {picture.mode} pixels that cannot be converted") from err
    factor = _whole_factor(rgb)
    return (rgb.reduce(factor) if factor > 1 else rgb), reason


def _to_rgb(picture: Image.Image) -> tuple[Image.Image, Reason | None]:
    """The picture in RGB, without losing what a person would see, and what was done to it."""
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
    extremes = [(values.min(), values.max()) for values in (_finite(strip) for _, strip in _strips(picture))]
    low, high = float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))
    if picture.mode.startswith("I;16") or (picture.mode == "I" and low >= 0 and 255 < high <= 65535):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if picture.mode == "F" and high <= 1 else 255.0
    scale = 255.0 / max(high - low, 1e-30)
    grey = Image.new("L", picture.size)
    for top, strip in _strips(picture):
        levels = np.clip(np.rint((_finite(strip) - low) * scale), 0, 255).astype(np.uint8)
        grey.paste(Image.fromarray(levels), (0, top))
    return grey


def _strips(picture: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """(top, its pixels) of strips of 256 rows, (256, width, ...), for the memory of a huge picture."""
    for top in range(0, picture.height, 256):
        yield top, np.asarray(picture.crop((0, top, picture.width, min(top + 256, picture.height))))


def _finite(levels: np.ndarray) -> np.ndarray:
    return np.nan_to_num(levels.astype(np.float64), posinf=0.0, neginf=0.0)


def _whole_factor(picture: Image.Image) -> int:
    """By how much to shrink first, so that conversions and turns of a huge picture stay small. 1 is not at all."""
    factor = 1
    while picture.width * picture.height > LARGE_PIXELS * factor**2:
        factor += 1
    return min(factor, *picture.size)


def _upright(rgb: Image.Image, picture: Image.Image) -> tuple[Image.Image, int, Reason | None]:
    """Turned as EXIF says, and the orientation it says.

    Asked after decoding: Pillow turns TIFF by itself, and PNG may tell it behind the pixels.
    """
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF must not cost the picture
        return rgb, 1, Reason("broken EXIF")
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return rgb, 1, None
    return rgb.transpose(turn), orientation, Reason("turned", f"EXIF {orientation}")
