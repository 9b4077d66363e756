"""Device and precision, and what a process needs for them: threads, cuDNN, memory, convolutions on a CPU.

`--precision auto` on a CPU is measured, once for each machine, network and size.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from folds.base.errors import CannotWriteError, UserError
from folds.base.malloc import M_ARENA_MAX, M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, tune_malloc
from folds.base.workspace import read_json_if_whole, write_bytes
from models.backbones import Backbone, build_network

TOP_PAD = 1 << 28  # bytes by which the heap grows
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Way = Literal["train", "forward"]  # forward and backward pass, or the forward pass alone
IMAGES, STEPS = 16, 2  # of each measurement, after one step that warms up
ALIKE = 1e-3  # of the largest logit: rounding moves logits by 1e-5 of it, a batch norm in the wrong place by all of it
CLEARLY = 0.85  # of float32's time is what bfloat16 may take to be chosen: less than that is within the noise


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
    # -1 stands for never; no mmap keeps large blocks in the heap where some glibc refuse a threshold above 32 MB.
    return tune_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: TOP_PAD, M_ARENA_MAX: 1})


def return_memory(device: torch.device) -> None:
    """Give back what `keep_memory` keeps: between training and evaluation, whose blocks are of other sizes."""
    if device.type == "cpu" and keep_memory():
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(err: RuntimeError) -> bool:
    """Whether torch raised it since the device's memory is short."""
    return isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in str(err)  # the CPU's own is no type


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that a name stands for; `auto` is bfloat16 where the hardware has it, else float16 on a GPU, or float32.

    What `auto` is for a run on a CPU is measured: see `run_precision`.
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


@contextmanager
def fused(network: nn.Module, *, size: int, device: torch.device, learns: bool = False) -> Iterator[None]:
    """On a CPU, meanwhile each convolution and the batch norm behind it are one convolution, where neither learns.

    Forward passes of tf_efficientnet_lite0 at 224 pixels, one thread of an Intel Xeon with AMX: 16.3 ms an image
    instead of 21.6, in bfloat16 9.5 instead of 12.7; of resnet50 76.7 instead of 81.6, and 23.6 instead of 31.8. The
    network is put into evaluation mode; names and tensors of its state stay as they are. Not measured on a GPU, and
    not done there.

    learns  whether parameters that want a gradient get one: only the others are fused
    """
    changed: list[nn.Module] = []
    try:
        if device.type == "cpu" and network._compiled_call_impl is None:
            _fuse(network.eval(), changed, size=size, learns=learns)
        yield
    finally:
        _unfuse(changed)


@torch.no_grad()
def _fuse(network: nn.Module, changed: list[nn.Module], *, size: int, learns: bool) -> None:
    """Give convolutions and batch norms another `forward`, and note them; none keeps it where the logits change."""
    pairs: list[tuple[nn.Module, nn.Module]] = []
    conv, made = nn.Module(), torch.empty(0)

    def look(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        nonlocal conv, made
        if isinstance(module, nn.Conv2d):
            conv, made = module, answer
        elif given[0] is made:
            pairs.append((conv, module))

    known = (nn.Conv2d, Conv2dSame, nn.BatchNorm2d, BatchNormAct2d)  # and none of the classes made of these
    hooks = [module.register_forward_hook(look) for module in network.modules() if type(module) in known]
    seen = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        before = network(seen)
    finally:
        for hook in hooks:
            hook.remove()
    if not pairs:
        return
    if learns:  # a batch norm without parameters may, by its statistics
        frozen = [pair for pair in pairs if not any(own.requires_grad for one in pair for own in one.parameters())]
        pairs = [pair for pair in frozen if pair[1].affine]
    for conv, norm in pairs:
        given = conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        weight, bias = fuse_conv_bn_weights(*given)  # type: ignore[arg-type]
        joined = copy.copy(conv)
        joined._parameters = {"weight": weight, "bias": bias}
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        changed += conv, norm
        vars(conv)["forward"], vars(norm)["forward"] = joined.forward, rest.forward
    # They differ where a convolution's output also goes elsewhere, as in networks that normalise first.
    if not ((network(seen) - before).abs() <= ALIKE * before.abs().max()).all():  # or one is NaN
        _unfuse(changed)


def _unfuse(changed: Sequence[nn.Module]) -> None:
    for module in changed:
        vars(module).pop("forward", None)


def run_precision(
    name: str, device: torch.device, backbone: Backbone, *, size: int, way: Way, before: Mapping[str, str]
) -> torch.dtype:
    """The precision of a run: as set; else on a CPU what the run was begun with, or what is measured to be faster.

    before  what the run's settings.json records, by way: `fp32` or `bf16`
    """
    if name != "auto" or device.type != "cpu":
        return choose_precision(name, device)
    if way in before:
        return choose_precision(before[way], device)
    if not has_bf16(device):
        return torch.float32
    return choose_precision(_kept_choice(backbone, size=size, way=way), device)


def short_name(precision: torch.dtype) -> str:
    """What `--precision` calls a type."""
    return next(name for name, one in PRECISIONS.items() if one == precision)


def _kept_choice(backbone: Backbone, *, size: int, way: Way) -> str:
    """The choice that this machine made before, else a new one, which is kept if that is possible."""
    threads, version = torch.get_num_threads(), torch.__version__
    key = f"{_cpu()}; {threads} threads; torch {version}; {backbone.tag}; {size} px; {way}"
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foldblend" / "precision.json"
    if (kept := read_json_if_whole(path).get(key)) in ("fp32", "bf16"):
        return str(kept)
    seconds = _measure(backbone, size=size, way=way)
    choice = "bf16" if seconds["bf16"] < CLEARLY * seconds["fp32"] else "fp32"
    known = read_json_if_whole(path)
    if known.get(key) in ("fp32", "bf16"):  # another process has measured meanwhile
        return str(known[key])
    with suppress(CannotWriteError):
        write_bytes(path, (json.dumps({**known, key: choice}, indent=2, sort_keys=True) + "\n").encode())
    return choice


def _cpu() -> str:
    """The CPU's model name; Python knows it on some systems only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def _measure(backbone: Backbone, *, size: int, way: Way) -> dict[str, float]:
    """Seconds of a step in each precision, the shortest of some that alternate; no random number is drawn by it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(backbone, 16, size=size).to(memory_format=torch.channels_last)
        images = torch.randn(IMAGES, 3, size, size).contiguous(memory_format=torch.channels_last)
        network.train(way == "train")
        taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
        with nullcontext() if way == "train" else fused(network, size=size, device=images.device):
            for name, seconds in list(taken.items()) * (1 + STEPS):
                began = time.perf_counter()
                with torch.set_grad_enabled(way == "train"):
                    with autocast(images.device, PRECISIONS[name]):
                        answer = network(images)
                    if way == "train":
                        answer.float().square().mean().backward()
                        network.zero_grad(set_to_none=True)
                seconds.append(time.perf_counter() - began)
    return {name: min(seconds[1:]) for name, seconds in taken.items()}
