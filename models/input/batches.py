"""Brings batches from the pixel store to the device: one prefetch thread, reused buffers, no workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from folds.pixels.store import Pixels

DEPTH = 3  # buffers: one in use, one ready, one being filled


def gather_batches(pixels: Pixels, batches: Sequence[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """Yield the store's rows of each batch on the device, (B, S, S, 3) uint8; valid until the next one is asked for.

    pixels   (n, S, S, 3) uint8 of a pixel store, raw or JPEGs
    batches  arrays of (B,) int rows, which `PixelStore.rows` has checked
    """
    largest = max((len(rows) for rows in batches), default=0)
    buffers = [_Buffer(largest, pixels.shape[1:], device) for _ in range(min(DEPTH, len(batches)))]
    with ThreadPoolExecutor(1, thread_name_prefix="gather") as thread:

        def start(i: int) -> Future[_Buffer]:
            return thread.submit(buffers[i % DEPTH].fill, pixels, batches[i])

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

    def fill(self, pixels: Pixels, rows: np.ndarray) -> _Buffer:
        if self.uploaded is not None:
            self.uploaded.synchronize()
        self.n_rows = len(rows)
        pixels.read(rows, self.host.numpy()[: self.n_rows])
        return self

    def upload(self) -> Tensor:
        batch = self.host[: self.n_rows].to(self.device, non_blocking=True)
        if self.uploaded is not None:
            self.uploaded.record()
        return batch
