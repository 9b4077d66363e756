"""Makes a tiny real competition for tests: coloured JPEGs in class folders, a test folder, a sample; and its flags."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from folds.base.errors import UserError
from folds.find.reasons import reason_text

SCRATCH = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--batch-size", "8"]
TRAIN = [*SCRATCH, "--precision", "fp32", "--device", "cpu"]
QUICK = [*TRAIN, "--epochs", "1", "--store-size", "32", "--n-folds", "2"]
COLOURS = {"2": (200, 40, 40), "10": (40, 200, 40), "1": (40, 40, 200), "0": (180, 180, 40)}


def jpeg(colour: tuple[int, int, int], rng: np.random.Generator, *, size: tuple[int, int] = (40, 30)) -> bytes:
    """A JPEG of one colour with coarse blotches, so that no two are alike to a perceptual hash."""
    blotches = rng.integers(-60, 61, (5, 6, 3)) + np.array(colour)
    image = Image.fromarray(blotches.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def make_picture(seed: int, *, width: int = 64, height: int = 48) -> Image.Image:
    """Smooth coloured noise: no two seeds look alike, and it survives saving as JPEG."""
    cells = np.random.default_rng(seed).integers(0, 256, size=(5, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def make_competition(folder: Path, *, per_class: int = 8, n_test: int = 6, seed: int = 0) -> Path:
    """`TrainVal/<label>/*.jpg`, `Public/*.jpg` ids such as 000, `sample_submission.csv`; returns the folder."""
    rng = np.random.default_rng(seed)
    for label, colour in COLOURS.items():
        (folder / "TrainVal" / label).mkdir(parents=True)
        for i in range(per_class):
            (folder / "TrainVal" / label / f"{label}-{i}.jpg").write_bytes(jpeg(colour, rng))
    (folder / "Public").mkdir()
    ids = [f"{i:03d}" for i in range(n_test)]
    for i, name in enumerate(ids):
        (folder / "Public" / f"{name}.jpg").write_bytes(jpeg(list(COLOURS.values())[i % 4], rng))
    rows = "".join(f"{name},0 1 2\n" for name in reversed(ids))
    (folder / "sample_submission.csv").write_text("id,predicted\n" + rows)
    return folder


def write_files(data: Path, *paths: str, **csvs: str) -> Path:
    """Files of one byte, and CSVs of these texts: `train` is train.csv, `sample` sample_submission.csv."""
    contents = dict.fromkeys(paths, b"x")
    contents |= {f"{'sample_submission' if name == 'sample' else name}.csv": csvs[name].encode() for name in csvs}
    for path, content in contents.items():
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(content)
    return data


def fingerprint(folder: Path) -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Content, and mode and modification time, of every file below a folder, by path."""
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(path.relative_to(folder)): (path.read_bytes(), (stat.st_mode, stat.st_mtime_ns))
        for path, stat in found.items()
    }


def by_image(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest by image_id, its reasons as people read them."""
    return manifest.assign(reasons=manifest["reasons"].map(reason_text)).set_index("image_id")


def refusal(call: Callable[..., object], *args, **options) -> tuple[str, str | None]:
    """Message and hint of the UserError that a call ends in."""
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return caught.value.message, caught.value.hint
