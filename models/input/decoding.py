"""Reads batches out of a pixel store: rows of a raw one are copied, JPEGs are decoded by torchcodec.

Both give uint8 pixels of the same shape, so that everything behind them is the same. On the CPU each thread decodes
its part of a batch; on a GPU nvJPEG decodes a whole batch in one call, from bytes that the host has read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from folds.base.errors import UserError
from folds.pixels.jpeg import JpegPixels, refuse_without_decoder
from folds.pixels.store import Pixels, PixelStore

Read: TypeAlias = Callable[[np.ndarray, np.ndarray], None]  # rows (n,), and where their pixels go: (n, S, S, 3) uint8


@contextmanager
def reading(pixels: Pixels) -> Iterator[Read]:
    """A function that brings rows of the store into a buffer, with the threads that it needs."""
    if not isinstance(pixels, JpegPixels):
        yield lambda rows, out: _copy(pixels, rows, out)
        return
    refuse_without_decoder()
    n_threads = torch.get_num_threads()  # OMP_NUM_THREADS holds here too: it is what a job on a shared machine has
    with ThreadPoolExecutor(n_threads, thread_name_prefix="decode") as threads:
        yield lambda rows, out: _decode_in_parts(pixels, rows, out, threads, n_threads)


def decoded_by(store: PixelStore, decoder: str, device: torch.device) -> PixelStore:
    """The store whose JPEGs are decoded by `cpu` or `gpu`; a raw one as it is."""
    if decoder == "cpu" or not isinstance(store.pixels, JpegPixels):
        return store
    if device.type != "cuda":
        raise UserError("`--jpeg-decoder gpu` needs a GPU, and the device is the CPU", hint="`--jpeg-decoder cpu`")
    return replace(store, pixels=replace(store.pixels, on_gpu=True))


def batches_on_gpu(pixels: JpegPixels, batches: Sequence[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """Yield each batch decoded on the device, (B, S, S, 3) uint8, while a thread reads the JPEGs of the next one."""
    refuse_without_decoder()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        following = thread.submit(_encoded, pixels, batches[0]) if batches else None
        for i, rows in enumerate(batches):
            assert following is not None, "a batch was not asked for"
            jpegs = following.result()
            if i + 1 < len(batches):
                following = thread.submit(_encoded, pixels, batches[i + 1])
            yield torch.stack(_decode(jpegs, rows, device)).permute(0, 2, 3, 1).contiguous()  # (B, 3, S, S) before


def _encoded(pixels: JpegPixels, rows: np.ndarray) -> list[bytes]:
    return [pixels.encoded(row) for row in rows.tolist()]


def _copy(pixels: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    # mode="clip" writes straight into `out`; the default goes through a copy.
    np.take(pixels, rows, axis=0, out=out, mode="clip")


def _decode_in_parts(
    pixels: JpegPixels, rows: np.ndarray, out: np.ndarray, threads: ThreadPoolExecutor, n_threads: int
) -> None:
    """Every thread takes each n-th row: pictures differ in their cost, and neighbours may be alike."""
    parts = [slice(first, None, n_threads) for first in range(min(n_threads, len(rows)))]
    for _ in threads.map(lambda part: _decode_rows(pixels, rows[part], out[part]), parts):
        pass  # an exception of a thread is raised here


def _decode_rows(pixels: JpegPixels, rows: np.ndarray, out: np.ndarray) -> None:
    for row, place in zip(rows.tolist(), out, strict=True):
        (picture,) = _decode([pixels.encoded(row)], [row], torch.device("cpu"))
        place[:] = picture.permute(1, 2, 0).numpy()  # decoded as (S, S, 3), shown as (3, S, S)


def _decode(jpegs: list[bytes], rows: Sequence[int] | np.ndarray, device: torch.device) -> list[Tensor]:
    """Each (3, S, S) uint8. Raises UserError for a JPEG that is damaged."""
    from torchcodec.decoders import decode_jpeg  # two seconds that work on a raw store does not need

    try:
        decoded: list[Tensor] = decode_jpeg(jpegs, device=device)
    except RuntimeError as err:
        raise UserError(
            f"a JPEG of the pixel store does not decode, in row {rows[0]} or one that was asked for with it: {err}",
            hint="remove its `folds/pixels-*.json`, then `python run.py prepare DATA`",
        ) from err
    return decoded
