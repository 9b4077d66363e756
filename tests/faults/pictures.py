"""Makes broken pictures (real files of every format, changed at random from a seed), and small files of huge ones."""

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.competition import make_picture

WIDTH, HEIGHT = 61, 47  # odd enough to be found again as numbers in a header
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "PA")
SAVED = (
    *("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "BLP", "DDS", "DIB", "ICNS", "ICO", "IM", "JPEG2000"),
    *("MSP", "PCX", "PPM", "QOI", "SGI", "SPIDER", "TGA", "XBM"),
)
USUAL = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # what competitions hold: drawn as often as all others together
SIDES = (0, 1, 2, 255, 10_000, 16_383, 32_767, 32_768, 65_535, 65_536, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
ENDINGS = (".jpg", ".JPG", ".png", ".gif", ".webp", ".bmp", ".tif", ".jpeg", "", ".txt")


def mutants(n: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of n broken pictures; the first ones are the same whatever n is."""
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        mutate = KINDS[number % len(KINDS)]
        form, content = _draw(rng)
        yield f"{number:05d}-{mutate.__name__}-{form}{rng.choice(ENDINGS)}", mutate(content, rng)


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, mostly among the first ones."""
    changed = bytearray(content)
    reach = len(changed) if rng.random() < 0.4 else min(len(changed), int(rng.choice([32, 128, 700])))
    for _ in range(int(rng.integers(1, 12))):
        changed[rng.integers(reach)] = rng.integers(256)
    return bytes(changed)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """Without its end, its beginning or a piece of its middle."""
    start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    return [content[:start], content[start:], content[:start] + content[stop:]][rng.choice(3, p=[0.6, 0.1, 0.3])]


def splice(content: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of one file and the end of another."""
    other = _draw(rng)[1]
    return content[: rng.integers(len(content))] + other[rng.integers(len(other)) :]


def behead(content: bytes, rng: np.random.Generator) -> bytes:
    """A header on top of another file's body, of noise, or of one byte repeated."""
    length = int(rng.choice([4, 8, 12, 16, 32, 64, 128, 512]))
    other = _draw(rng)[1]
    body = [other[length:], rng.bytes(int(rng.integers(1, 4000))), bytes([rng.integers(256)]) * 3000]
    return content[:length] + body[rng.integers(3)]


def lie(content: bytes, rng: np.random.Generator) -> bytes:
    """Width or height, wherever they stand in the header, replaced by another number; checksums put right."""
    places = _places(content)
    if not places:
        return flip(content, rng)
    for at, code in places if rng.random() < 0.5 else [places[rng.integers(len(places))]]:
        side = int(rng.choice(SIDES)) & ((1 << 8 * struct.calcsize(code)) - 1)
        content = content[:at] + struct.pack(code, side) + content[at + struct.calcsize(code) :]
    return _with_checksum(content)


def stretch(content: bytes, rng: np.random.Generator) -> bytes:
    """A number of four bytes, as lengths and offsets are, set to an extreme; PNG checksums are not put right."""
    at = int(rng.integers(max(1, min(len(content), 400) - 4)))
    return content[:at] + struct.pack(rng.choice(["<I", ">I"]), int(rng.choice(SIDES))) + content[at + 4 :]


def repeat(content: bytes, rng: np.random.Generator) -> bytes:
    """A piece of it twice or many times."""
    start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    stop = min(stop, start + 3000)
    return content[:start] + content[start:stop] * int(rng.choice([2, 3, 50])) + content[stop:]


KINDS = (flip, cut, splice, behead, lie, stretch, repeat)


@cache
def originals() -> dict[str, tuple[bytes, ...]]:
    """Whole files by format: in every mode that Pillow saves, and written by hand where it reads only."""
    files = {form: tuple(dict.fromkeys(_saved(form))) for form in SAVED}
    return {form: found for form, found in files.items() if found} | {name: (file,) for name, file in by_hand()}


def picture(mode: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Smooth coloured noise in any mode."""
    smooth = make_picture(len(mode), width=size[0], height=size[1])
    wide = {"I;16": "u2", "I": "i4", "F": "f4"}
    if mode in wide:
        return Image.fromarray((np.asarray(smooth.convert("L")) * 200.0).astype(wide[mode]))
    if mode == "LAB":
        return Image.frombytes("LAB", size, smooth.tobytes())
    return smooth.convert("P").convert("PA") if mode == "PA" else smooth.convert("RGB").convert(mode)


def _saved(form: str) -> Iterator[bytes]:
    variants = {
        "JPEG": [{}, {"progressive": True}, {"exif": _turned_exif()}, {"subsampling": 0, "optimize": True}],
        "PNG": [{}, {"pnginfo": _texts()}, {"save_all": True, "append_images": [picture("RGB")] * 2}],
        "TIFF": [
            {"compression": one} for one in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4")
        ],
        "GIF": [{}, {"save_all": True, "append_images": [picture("P"), picture("L")], "transparency": 0}],
        "WEBP": [{}, {"lossless": True}, {"save_all": True, "append_images": [picture("RGB")], "exif": _turned_exif()}],
        "DDS": [{}, {"pixel_format": "DXT1"}, {"pixel_format": "BC5"}],
        "PPM": [{}, {"form": "PFM"}],
    }
    size = (64, 64) if form == "ICNS" else (WIDTH, HEIGHT)
    for mode in MODES:
        for options in variants.get(form, [{}]):
            try:
                content = saved(picture(mode, size), **{"form": form, **options})
            except (OSError, ValueError, KeyError, TypeError, SystemError, RuntimeError):
                continue  # a mode that the format does not know
            if content:
                yield content


def _turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return exif


def _texts() -> PngInfo:
    texts = PngInfo()
    texts.add_text("Comment", "words " * 50, zip=True)
    texts.add_itxt("Title", "title", zip=True)
    return texts


def by_hand() -> Iterator[tuple[str, bytes]]:
    """Files of formats that Pillow reads and does not write: one of each kind of decoder."""
    grey, colour = picture("L").tobytes(), picture("RGB").tobytes()
    w, h = WIDTH, HEIGHT
    frame = struct.pack("<IHH8x", 16 + 6 + h * w + 8, 0xF1FA, 1) + struct.pack("<IH", 6 + h * w, 16) + grey
    yield "FLI", struct.pack("<IHHHHHHI108x", 128 + len(frame), 0xAF11, 1, w, h, 8, 3, 5) + frame + bytes(20)
    yield "FTEX", b"FTEX" + struct.pack("<7I", 0x104, w, h, 1, 1, 1, 32) + struct.pack("<I", len(colour)) + colour
    yield "PCD", bytes(2048) + b"PCD_" + bytes(1534) + b"\0" + bytes(96 * 2048 - 3587) + bytes(768 * 512 * 3 // 2)
    yield "PSD", b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, h, w, 8, 3) + bytes(12) + b"\0\0" + colour
    lines = [f'"{w} {h} 2 1 ",', '"a c #ff0000",', '"b c #00ff00",', *[f'"{"ab" * (w // 2)}a",'] * h, "};"]
    yield "XPM", ("/* XPM */\nstatic char *x[] = {\n" + "\n".join(lines) + "\n").encode()


def _draw(rng: np.random.Generator) -> tuple[str, bytes]:
    files = originals()
    form = str(rng.choice(USUAL if rng.random() < 0.5 else list(files)))
    return form, files[form][rng.integers(len(files[form]))]


def _places(content: bytes) -> list[tuple[int, str]]:
    """(offset, struct code) of what may be a width or a height among the first bytes."""
    found: list[tuple[int, str]] = []
    for side in (WIDTH, HEIGHT, WIDTH - 1, HEIGHT - 1):  # WebP writes one less
        for code in ("<I", ">I", "<H", ">H"):
            at = content[:1200].find(struct.pack(code, side))
            if at > 0 and not any(at in range(a, a + struct.calcsize(c)) for a, c in found):
                found.append((at, code))
    return found


def _with_checksum(content: bytes) -> bytes:
    """A PNG whose IHDR has its right checksum; other files as they are."""
    if content[12:16] != b"IHDR":
        return content
    return content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]


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
    small, text = flat("RGB", side=40), PngInfo()
    text.add_text("Comment", "a" * 60_000_000, zip=True)
    chunk = b"iCCPx\0\0" + zlib.compress(bytes(100_000_000), 9)
    length, png = struct.pack(">I", len(chunk) - 4), saved(small, "PNG")
    frames = [Image.new("L", (40, 40), n % 256) for n in range(3000)]
    return {
        "pixels.png": lying_png(60_000),
        "text.png": saved(small, "PNG", pnginfo=text),
        "profile.png": png[:33] + length + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:],
        "frames.gif": saved(small, "GIF", save_all=True, append_images=frames),
        "wide.gif": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + saved(small, "GIF")[13:],
        "exif.jpg": saved(small, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000),
        "loop.tif": _loop(),
        "icons.ico": struct.pack("<HHH", 0, 1, 65_535) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 100, 22) * 65_535,
    }


def lying_png(side: int) -> bytes:
    """A PNG of a few bytes whose header promises a square of this side."""
    png = saved(flat("RGB", side=40), "PNG")
    return _with_checksum(png[:16] + struct.pack(">II", side, side) + png[24:])


def _loop() -> bytes:
    """A TIFF whose list of directories leads back to its first one."""
    whole = saved(flat("L", side=40), "TIFF")
    first = struct.unpack("<I", whole[4:8])[0]
    entries = struct.unpack("<H", whole[first : first + 2])[0]
    at = first + 2 + 12 * entries
    return whole[:at] + whole[4:8] + whole[at + 4 :]
