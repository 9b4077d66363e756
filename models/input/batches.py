"""Brings batches from the pixel store to the device: one prefetch thread, reused buffers, no worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from folds.base.errors import UserError
from folds.pixels.store import Pixels

DEPTH = 3  # buffers: one in use, one ready, one being filled


def gather_batches(pixels: Pixels, batches: Sequence[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """Yield the store's rows of each batch on the device, (B, S, S, 3) uint8; valid until the next one is asked for.

    pixels   (n, S, S, 3) uint8 of a pixel store, raw or JPEGs
    batches  arrays of (B,) int rows, which `PixelStore.rows` has checked
    """
    largest = max((len(rows) for rows in batches), default=0)
    buffers = [_Buffer(largest, pixels.shape[1:], device) for _ in range(min(DEPTH, len(batches)))]
    # OMP_NUM_THREADS holds here too: it is what a job on a shared machine has.
    with ThreadPoolExecutor(torch.get_num_threads()) as decoders, ThreadPoolExecutor(1) as thread:

        def start(i: int) -> Future[_Buffer]:
            return thread.submit(buffers[i % DEPTH].fill, pixels, batches[i], decoders)

        filling = deque(start(i) for i in range(min(DEPTH - 1, len(batches))))
        for i in range(len(batches)):
            batch = filling.popleft().result().upload()
            if i + DEPTH - 1 < len(batches):  # its buffer is that of batch i - 1, which the caller has left
                filling.append(start(i + DEPTH - 1))
            yield batch


class _Buffer:
    """Host memory for one batch, pinned where the device is a GPU, and the event after which it may be filled again."""

    def __init__(self, batch: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.device = device
        is_gpu = device.type == "cuda"
        self.host = torch.empty((batch, *shape), dtype=torch.uint8, pin_memory=is_gpu)
        self.uploaded = torch.cuda.Event() if is_gpu else None
        self.n_rows = 0

    def fill(self, pixels: Pixels, rows: np.ndarray, decoders: ThreadPoolExecutor) -> _Buffer:
        if self.uploaded is not None:
            self.uploaded.synchronize()
        self.n_rows = len(rows)
        _read(pixels, rows, self.host.numpy()[: self.n_rows], decoders)
        return self

    def upload(self) -> Tensor:
        batch = self.host[: self.n_rows].to(self.device, non_blocking=True)
        if self.uploaded is not None:
            self.uploaded.record()
        return batch


def _read(pixels: Pixels, rows: np.ndarray, out: np.ndarray, decoders: ThreadPoolExecutor) -> None:
    """Copy rows of a raw store, or decode JPEGs, which Pillow does outside of the interpreter's lock."""
    if isinstance(pixels, np.ndarray):
        np.take(pixels, rows, axis=0, out=out, mode="clip")  # "clip" writes straight into `out`; the default copies
        return

    def decode(row: int, place: np.ndarray) -> None:
        try:
            place[:] = pixels[row]
        except OSError as err:
            raise UserError(
                f"the JPEG in row {row} of the pixel store does not decode: {err}",
                hint="remove its `folds/pixels-*.json`, then `python run.py prepare DATA`",
            ) from err

    list(decoders.map(decode, rows.tolist(), out))  # raises what a thread has raised
