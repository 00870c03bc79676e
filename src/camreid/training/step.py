"""How a step is computed: precision, memory format and compilation."""

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camreid.errors import InputError
from camreid.models.network import ReIDNetwork, ReIDOutput
from camreid.models.pixels import PixelNorm


def has_bf16(device: str) -> bool:
    """Whether a device, `cpu` or `cuda`, has instructions for bfloat16."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu: Any = torch.cpu
    return device == "cpu" and (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def resolve_precision(precision: str, device: str, training: bool = True) -> str:
    """`auto` is `bf16-mixed` to train on a device that has it; InputError on a GPU without it."""
    if precision == "auto":
        return "bf16-mixed" if training and has_bf16(device) else "32-true"
    if str(precision).startswith("bf16") and device == "cuda" and not has_bf16(device):
        name = torch.cuda.get_device_name()
        raise InputError(f"precision={precision}: {name} has no bf16.", precision="32-true")
    return precision


def memory_format(network: nn.Module) -> torch.memory_format:
    """Channels-last, faster for the convolutions of a network; not for one of a transformer."""
    convolutional = sum(isinstance(part, nn.Conv2d) for part in network.modules()) > 1
    return torch.channels_last if convolutional else torch.contiguous_format


def keep_freed_memory() -> None:
    """Let glibc keep large blocks for the next step: page faults are a tenth of a step on a CPU."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            libc.mallopt(option, value)


def compiled(network: ReIDNetwork, mode: str = "default") -> Callable[..., ReIDOutput]:
    """The forward pass by `torch.compile`; InputError for no such mode, or no C++ compiler."""
    modes = torch._inductor.list_mode_options()
    if mode not in modes:
        raise InputError(f"compile={mode}: expected true or {', '.join(modes)}.", compile=True)
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        found = f"compile={mode} needs a C++ compiler; {compiler} is missing (CXX names another)."
        raise InputError(found, compile=False)
    forward: Callable[..., ReIDOutput] = torch.compile(network.forward, mode=mode)
    norms = [part for part in network.modules() if isinstance(part, PixelNorm)]

    def run(images: Tensor, *labels: Any) -> ReIDOutput:
        for norm in norms:
            norm.check(images)  # reads values, which a compiled network does not
        return forward(images, *labels)

    return run
