import io

import imagehash
import numpy as np
import pytest
from PIL import Image

from folds.manifest.duplicates import find_copies
from folds.manifest.hashes import close_hashes, difference, perceptual_hashes, thumbnail


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


def saved_again(picture, *, quality=70, scale=0.9):
    smaller = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    smaller.save(content, "JPEG", quality=quality)
    return Image.open(content)


def test_the_hash_is_imagehashs_of_the_shrunken_picture(picture):
    for seed in range(20):
        square = squares([picture(seed)])[0]
        shrunken = square.reduce(3)
        mirrored = shrunken.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = tuple(int(str(imagehash.phash(image)), 16) for image in (shrunken, mirrored))
        assert perceptual_hashes(square) == expected


def test_exact_copies_are_found(picture):
    assert copies_of([picture(1), picture(2), picture(1)]).upright.tolist() == [0, 1, 0]


def test_a_picture_saved_again_and_shrunk_is_a_near_copy(picture):
    pictures = [picture(seed, width=300, height=200) for seed in range(10)]
    found = copies_of(pictures + [saved_again(p) for p in pictures])
    assert found.upright.tolist() == [*range(10), *range(10)]


def test_a_mirrored_copy_shares_the_group_and_not_the_picture(picture):
    mirrored = picture(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found = copies_of([picture(1), picture(2), saved_again(mirrored)])
    assert found.upright.tolist() == [0, 1, 2]
    assert found.mirrored.tolist() == [0, 1, 0]


def test_different_pictures_are_no_copies(picture):
    assert copies_of([picture(seed) for seed in range(50)]).mirrored.tolist() == list(range(50))


def test_small_objects_on_white_are_told_apart():
    pictures = []
    for at in (40, 44, 48):
        image = Image.new("RGB", (96, 96), (255, 255, 255))
        image.paste((0, 0, 0), (at, at, at + 6, at + 6))
        pictures.append(image)
    assert copies_of(pictures, near_bits=16).upright.tolist() == [0, 1, 2]


def test_blank_pictures_of_different_colours_are_no_copies():
    blanks = [Image.new("RGB", (50, 40), (level, level, level)) for level in range(0, 250, 5)]
    assert copies_of(blanks).upright.tolist() == list(range(50))


def test_difference_is_a_share_of_the_contrast():
    one = np.array([100, 120, 100, 120], dtype=np.uint8)  # variance 100
    others = np.array([[100, 120, 100, 120], [120, 100, 120, 100]], dtype=np.uint8)
    assert difference(one, others).tolist() == [0.0, 2.0]  # 20 levels apart over a contrast of 10


def test_no_image_is_no_copy():
    nothing = np.empty(0, dtype=np.uint64)
    found = find_copies(nothing.astype(str), nothing, nothing, lambda rows: rows, near_bits=6)
    assert (found.upright.tolist(), found.mirrored.tolist()) == ([], [])


@pytest.mark.parametrize("near_bits", [0, 1, 4, 6, 7, 8, 12])
def test_all_close_hashes_are_found(near_bits):
    rng = np.random.default_rng(near_bits)
    one = rng.integers(0, 2**63, 60).astype(np.uint64)
    flips = np.zeros(60, dtype=np.uint64)
    for row, count in enumerate(rng.integers(0, 14, 60)):
        for bit in rng.choice(64, count, replace=False):
            flips[row] |= np.uint64(1) << np.uint64(bit)
    other = one ^ flips
    slow = [(i, j) for i in range(60) for j in range(60) if (int(one[i]) ^ int(other[j])).bit_count() <= near_bits]
    i, j = close_hashes(one, other, near_bits=near_bits)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == slow
    assert slow


def test_close_hashes_do_not_depend_on_the_block(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**20, 500).astype(np.uint64)  # crowded: three bands are equal
    whole = close_hashes(hashes, hashes, near_bits=6)
    monkeypatch.setattr("folds.manifest.hashes.BLOCK", 1000)
    cut = close_hashes(hashes, hashes, near_bits=6)
    assert all((a == b).all() for a, b in zip(whole, cut, strict=True))
