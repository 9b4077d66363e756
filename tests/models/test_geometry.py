"""Checks the batch resampling against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.input.resample import resample


def smooth_picture(rng, size=96):
    """A picture with soft edges, as photographs have; (size, size, 3) uint8."""
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).copy()


BOXES = [(0.0, 0.0, 96.0, 96.0), (10.3, 5.7, 60.1, 80.9), (40.0, 40.0, 52.5, 47.5), (0.0, 30.2, 95.9, 96.0)]


def shares(boxes, size=96):
    return np.array(boxes, dtype=np.float32) / np.float32(size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [24, 64, 128])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_a_batch_of_boxes_equals_pillow_within_two_grey_levels(size, kernel, dtype):
    pixels = np.stack([smooth_picture(np.random.default_rng(i)) for i in range(len(BOXES))])
    got = resample(torch.from_numpy(pixels), shares(BOXES), size=size, kernel=kernel, dtype=dtype)
    for picture, box, ours in zip(pixels, BOXES, got, strict=True):
        pillow = Image.fromarray(picture).resize((size, size), Image.Resampling[kernel.upper()], box=box)
        difference = np.abs(ours.permute(1, 2, 0).numpy().clip(0, 255) - np.asarray(pillow, dtype=float))
        assert difference.max() <= 2


def test_a_box_with_its_sides_exchanged_is_the_mirror_image():
    pixels = torch.from_numpy(smooth_picture(np.random.default_rng(0))[None])
    plain = resample(pixels, shares([[10.0, 5.0, 70.0, 90.0]]), size=32)
    mirrored = resample(pixels, shares([[70.0, 5.0, 10.0, 90.0]]), size=32)
    torch.testing.assert_close(mirrored, plain.flip(3), atol=1e-3, rtol=0)


def test_the_whole_square_at_its_own_size_is_the_picture_itself():
    pixels = smooth_picture(np.random.default_rng(0))
    same = resample(torch.from_numpy(pixels[None]), shares([[0.0, 0.0, 96.0, 96.0]]), size=96)
    np.testing.assert_allclose(same[0].permute(1, 2, 0).numpy(), pixels, atol=1e-3)


def test_the_result_is_channels_last_in_memory():
    pixels = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    out = resample(pixels, shares([[0.0, 0.0, 16.0, 16.0]] * 2, 16), size=8)
    assert out.shape == (2, 3, 8, 8)
    assert out.is_contiguous(memory_format=torch.channels_last)
