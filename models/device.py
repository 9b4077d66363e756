"""Device and precision, and what a process needs for them: threads, cuDNN, memory."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager
from functools import cache

import torch

from folds.base.errors import UserError
from folds.engine import EngineSettings

# Of glibc's malloc.h: parameters of mallopt, which takes 32-bit numbers. -1 as M_TRIM_THRESHOLD stands for never, and
# M_MMAP_MAX 0 keeps large blocks in the heap where some glibc refuse an M_MMAP_THRESHOLD above 32 MB.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
TOP_PAD = 1 << 28  # bytes by which the heap grows
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def set_threads(engine: EngineSettings) -> None:
    """Let torch use the threads that are asked for: what it computes on a CPU depends on their number, bit by bit."""
    if engine.cpus_per_job:
        torch.set_num_threads(engine.cpus_per_job)


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for here, and the process set up for it."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use on this machine", hint="`--device cpu`")
    if name == "cpu" or not torch.cuda.is_available():
        keep_memory()
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True  # every step has the same shape: let cuDNN pick its fastest kernels once
    torch.backends.cuda.matmul.allow_tf32 = True  # of what stays float32: `resample` then is within two grey levels
    return torch.device("cuda")


@cache
def keep_memory() -> bool:
    """Let malloc keep freed memory: glibc returns large blocks after every layer, and gets them zeroed again.

    True where that could be set: with glibc on Linux. Three steps of tf_efficientnet_lite0 on 32 images of 160 pixels,
    one core: 2.8 s in user mode and 0.04 to 0.13 in the kernel, without it 2.9 and 1.4 to 1.9; 0.2 GB more at the peak.
    One arena, since blocks of threads (a job on Ray) come from arenas of 64 MB, which are returned all the same.
    """
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  absent from other C libraries, whose mallopt may mean something else
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: TOP_PAD, M_ARENA_MAX: 1}
    answers = [mallopt(parameter, value) for parameter, value in wanted.items()]  # 0 where one is refused
    return all(answers)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that a name stands for; `auto` is bfloat16 where the hardware has it, else float16 on a GPU, or float32.

    What `auto` is for a run on a CPU is measured: see `models/precision.py`.
    """
    if name == "auto":
        name = "bf16" if has_bf16(device) else "fp16" if device.type == "cuda" else "fp32"
    return PRECISIONS[name]


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware has instructions for bfloat16; without them it is possible, but emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """The autocast context of a precision; none for float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
