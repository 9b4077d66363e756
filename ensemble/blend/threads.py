"""Works on pieces side by side: reading, digests and numpy let other threads run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

MOST_THREADS = 4  # each holds one piece of all members; beyond that the disk or the memory bus is the limit

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in the order of the items, whatever finishes first, so that sums come out the same every time."""
    n_threads = min(MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_threads) as pool:
        rest = iter(items)
        waiting = [pool.submit(work, item) for item in islice(rest, 2 * n_threads)]
        while waiting:
            result = waiting.pop(0).result()
            waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
            yield result
