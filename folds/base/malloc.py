"""Tunes glibc's malloc, which by default gives freed memory back to the system and has it zeroed for the next use."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping

# The parameters of mallopt, by their names in glibc's malloc.h; it takes 32-bit numbers.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8


def tune_malloc(parameters: Mapping[int, int]) -> bool:
    """Set these parameters. False, and perhaps only some of them set, without glibc or where it refuses one."""
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  absent from other C libraries, whose mallopt may mean something else
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    answers = [mallopt(parameter, value) for parameter, value in parameters.items()]  # 0 where one is refused
    return all(answers)
