"""Makes the demo's competition from scikit-learn's digits: a long tail, dirty files, labels kept aside."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from folds.base.workspace import write_bytes

SIDE = 40  # pixels of a rendered digit; the originals have 8
TEST_SHARE = 0.25
LARGEST, SMALLEST = 132, 30  # training images of the first and the last class: a tail of 4.4 to 1


def make_demo(folder: Path, *, seed: int) -> tuple[Path, Path]:
    """Write the competition once; returns its data folder and the CSV with the test labels that it keeps aside.

    `data/TrainVal/<digit>/*.jpg`, `data/Public/*.jpg`, `data/sample_submission.csv`, and beside them `kept-aside.csv`.
    """
    data, kept_aside = folder / "data", folder / "kept-aside.csv"
    if kept_aside.exists():  # written last
        return data, kept_aside
    rng = np.random.default_rng(seed)
    digits = load_digits()
    train: list[int] = []
    test: list[int] = []
    for label, most in enumerate(np.geomspace(LARGEST, SMALLEST, 10).round().astype(int)):
        rows = rng.permutation(np.flatnonzero(digits.target == label))
        n_test = round(len(rows) * TEST_SHARE)
        test += rows[:n_test].tolist()
        train += rows[n_test : n_test + most].tolist()
    names = {row: f"{zlib.crc32(row.to_bytes(4)):08x}" for row in (*train, *test)}
    for row in train:
        path = data / "TrainVal" / str(digits.target[row]) / f"{names[row]}.jpg"
        write_bytes(path, _render(digits.images[row], rng))
    for row in test:
        write_bytes(data / "Public" / f"{names[row]}.jpg", _render(digits.images[row], rng))
    zeros = [row for row in test if digits.target[row] == 0]
    _spoil(data, rng, unreadable=names[test[-1]], leaked=names[zeros[0]])
    ids = sorted((names[row], int(digits.target[row])) for row in test)
    write_bytes(data / "sample_submission.csv", _csv("id,predicted", [f"{name},0 1 2" for name, _ in ids]))
    write_bytes(kept_aside, _csv("id,label", [f"{name},{label}" for name, label in ids]))
    return data, kept_aside


def _render(image: np.ndarray, rng: np.random.Generator) -> bytes:
    """A JPEG of dark ink on light paper, each in a colour of its own. image: (8, 8) in 0..16."""
    paper, ink = rng.integers(190, 256, 3), rng.integers(0, 90, 3)
    strength = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    share = np.asarray(strength, dtype=np.float64)[..., None] / 255
    return _encoded(Image.fromarray((paper + (ink - paper) * share).round().astype(np.uint8)), "JPEG", quality=90)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _spoil(data: Path, rng: np.random.Generator, *, unreadable: str, leaked: str) -> None:
    """What real competition data has: a handful of files of each kind of dirt, and copies in the wrong places."""
    folder = data / "TrainVal" / "0"
    clean = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    image = [_noisy(Image.open(io.BytesIO(content)).convert("RGB"), rng) for content in clean[:9]]
    deep = Image.fromarray(np.asarray(image[2].convert("L")).astype(np.uint16) * 257)
    glass = image[3].copy()
    glass.putalpha(200)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    dirty = {
        "empty.jpg": b"",
        "letter.jpg": b"Dear organisers, this is no image.\n",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "cut-off.jpg": clean[8][: len(clean[8]) * 2 // 3],
        "really-a-png.jpg": _encoded(image[5], "PNG"),
        "really-a-gif.jpg": _encoded(image[6], "GIF"),
        "really-a-bmp.jpg": _encoded(image[7], "BMP"),
        "really-a-tiff.jpg": _encoded(image[8], "TIFF"),
        "print.jpg": _encoded(image[1].convert("CMYK"), "JPEG", quality=90),
        "deep.jpg": _encoded(deep, "PNG"),
        "glass.jpg": _encoded(glass, "PNG"),
        "turned.jpg": _encoded(image[4].transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=turned),
        "copy.jpg": clean[9],
        "saved-again.jpg": _encoded(Image.open(io.BytesIO(clean[5])).resize((44, 44)), "JPEG", quality=80),
        "leaked.jpg": (data / "Public" / f"{leaked}.jpg").read_bytes(),
    }
    for name, content in dirty.items():
        write_bytes(folder / name, content)
    write_bytes(data / "TrainVal" / "1" / "also-a-zero.jpg", clean[10])
    write_bytes(data / "Public" / f"{unreadable}.jpg", b"")  # it still needs a row in the submission


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another picture of the same digit: shifted and with some grain, so that it is no copy of its model."""
    grain = rng.normal(0, 12, (SIDE, SIDE, 1))
    moved = np.roll(np.asarray(image, dtype=np.float64), rng.integers(-3, 4, 2), axis=(0, 1))
    return Image.fromarray((moved + grain).clip(0, 255).astype(np.uint8))


def _csv(header: str, lines: list[str]) -> bytes:
    return ("\n".join([header, *lines]) + "\n").encode()
