import io

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from folds.manifest import duplicates
from folds.manifest.duplicates import Copies, find_copies
from folds.manifest.hashes import close_hashes, difference, perceptual_hashes, thumbnail
from folds.settings import PrepareSettings
from tests.competition import make_picture


def squares(pictures):
    return [picture.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC) for picture in pictures]


def copies_of(pictures, *, near_bits=6):
    images = squares(pictures)
    hashes = np.array([perceptual_hashes(image) for image in images], dtype=np.uint64)
    digests = np.array([str(hash(image.tobytes())) for image in images])
    pixels = np.stack([np.asarray(image) for image in images])

    def thumbnails(rows):
        return np.stack([thumbnail(pixels[row]) for row in rows])

    return find_copies(digests, hashes[:, 0], hashes[:, 1], thumbnails, near_bits=near_bits)


def saved_again(picture):
    """A JPEG of nine tenths of the picture's size."""
    smaller = picture.resize((round(picture.width * 0.9), round(picture.height * 0.9)), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    smaller.save(content, "JPEG", quality=70)
    return Image.open(content)


def test_the_hash_is_imagehashs_of_the_shrunken_picture(picture):
    for seed in range(20):
        square = squares([picture(seed)])[0]
        shrunken = square.convert("L").resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=2.0)
        mirrored = shrunken.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = tuple(int(str(imagehash.phash(image)), 16) for image in (shrunken, mirrored))
        assert perceptual_hashes(square) == expected


@pytest.mark.parametrize("size", [40, 112, 288, 299])
def test_a_mirror_image_has_the_mirrored_hash_and_thumbnail_at_any_size_of_the_store(picture, size):
    """At 112 pixels both were shifted: of the mirrored copies of Caltech-101 less than a third was found."""
    for seed in range(20):
        square = picture(seed, width=300, height=200).resize((size, size), Image.Resampling.BICUBIC)
        mirrored = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert (perceptual_hashes(square)[1] ^ perceptual_hashes(mirrored)[0]).bit_count() <= 2
        one, other = (thumbnail(np.asarray(image)).astype(int) for image in (square, mirrored))
        assert np.abs(one[:, ::-1] - other).max() <= 1


def test_a_picture_saved_again_and_shrunk_is_a_near_copy(picture):
    pictures = [picture(seed, width=300, height=200) for seed in range(10)]
    found = copies_of(pictures + [saved_again(p) for p in pictures])
    assert found.upright.tolist() == [*range(10), *range(10)]


def test_a_mirrored_copy_shares_the_group_and_not_the_picture(picture):
    mirrored = picture(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found = copies_of([picture(1), picture(2), saved_again(mirrored)])
    assert found.upright.tolist() == [0, 1, 2]
    assert found.mirrored.tolist() == [0, 1, 0]


def test_small_objects_on_white_are_told_apart():
    pictures = []
    for at in (40, 44, 48):
        image = Image.new("RGB", (96, 96), (255, 255, 255))
        image.paste((0, 0, 0), (at, at, at + 6, at + 6))
        pictures.append(image)
    assert copies_of(pictures, near_bits=16).upright.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "make", [make_picture, lambda n: Image.new("RGB", (50, 40), (5 * n, 5 * n, 5 * n))], ids=["noise", "blanks"]
)
def test_different_pictures_are_no_copies_and_neither_are_blanks_of_different_colours(make):
    assert copies_of([make(n) for n in range(50)]).mirrored.tolist() == list(range(50))


def test_difference_is_a_share_of_the_contrast():
    one = np.array([100, 120, 100, 120], dtype=np.uint8)  # variance 100
    others = np.array([[100, 120, 100, 120], [120, 100, 120, 100]], dtype=np.uint8)
    assert difference(one, others).tolist() == [0.0, 2.0]  # 20 levels apart over a contrast of 10


def test_a_crowd_of_one_picture_is_marked_as_pair_by_pair(monkeypatch):
    rng, n = np.random.default_rng(0), 60
    copies = Copies(*(np.minimum(np.arange(n), edge) for edge in (50, 40, 30)))  # the last are exact, near, mirrored
    table = pd.DataFrame({"image_id": [f"i{row}" for row in range(n)], "split": rng.choice(["train", "test"], n)})
    table["label"], table["status"] = np.where(table["split"] == "train", rng.choice(["a", "b"], n), ""), "usable"
    monkeypatch.setattr(duplicates, "_copies_in", lambda *_, **__: copies)
    reasons = [[] for _ in range(n)]
    duplicates.mark_copies(table, reasons, None, PrepareSettings())
    split, label = table["split"].tolist(), table["label"].tolist()
    for row in range(n):
        expected = []
        alike = [o for o in range(n) if copies.upright[o] == copies.upright[row] and split[o] == "train"]
        if split[row] == "train" and len({label[o] for o in alike}) > 1:
            expected.append(("two labels", "a and b"))
        for where in ("train", "test"):
            kinds = [
                (rank, o)
                for rank, of_kind in enumerate((copies.exact, copies.upright, copies.mirrored))
                for o in range(n)
                if o != row and split[o] == where and of_kind[o] == of_kind[row]
            ]
            if kinds:
                rank, other = min(kinds)
                expected.append((f"{('exact', 'near', 'mirrored')[rank]} copy in {where}", f"i{other}"))
        assert list(map(tuple, reasons[row])) == expected


def test_no_image_is_no_copy():
    nothing = np.empty(0, dtype=np.uint64)
    found = find_copies(nothing.astype(str), nothing, nothing, lambda rows: rows, near_bits=6)
    assert (found.upright.tolist(), found.mirrored.tolist()) == ([], [])


def turned(hashes, bits, rng):
    """These hashes, each with so many of its bits turned."""
    places = rng.permuted(np.tile(np.arange(64, dtype=np.uint64), (len(hashes), 1)), axis=1)
    flips = np.where(np.arange(64) < bits[:, None], np.uint64(1) << places, np.uint64(0))
    return hashes ^ np.bitwise_or.reduce(flips, axis=1)


def close_by_looking_at_all(one, other, *, near_bits):
    return [pair.tolist() for pair in np.nonzero(np.bitwise_count(one[:, None] ^ other[None]) <= near_bits)]


@pytest.mark.parametrize("near_bits", [0, 1, 4, 6, 8, 16])
@pytest.mark.parametrize("cost_of_a_pair", [0.0, 0.5, 60.0])  # every pair is looked at; a few blocks; longer keys
def test_all_close_hashes_are_found_and_no_others(monkeypatch, near_bits, cost_of_a_pair):
    monkeypatch.setattr("folds.manifest.hashes.PAIR", cost_of_a_pair)
    rng = np.random.default_rng(near_bits)
    one = rng.integers(0, 2**63, 60).astype(np.uint64) * np.uint64(2)
    one[40:] = turned(one[:20], rng.integers(0, 20, 20), rng)
    other = turned(np.concatenate([one, one[:5]]), rng.integers(0, 20, 65), rng)
    for answering in (one, other):
        expected = close_by_looking_at_all(one, answering, near_bits=near_bits)
        assert [pair.tolist() for pair in close_hashes(one, answering, near_bits=near_bits)] == expected
        assert expected[0]


def test_crowded_hashes_do_not_depend_on_the_block(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**20, 500).astype(np.uint64)  # most blocks of bits are equal
    expected = close_by_looking_at_all(hashes, hashes, near_bits=6)
    monkeypatch.setattr("folds.manifest.hashes.BLOCK", 1000)
    assert [pair.tolist() for pair in close_hashes(hashes, hashes, near_bits=6)] == expected
