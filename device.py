"""The machine that computes: which device, in which arithmetic, and what is known of it."""

from errors import UserError

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

import torch


def pick_device(name) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    here = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if not here[name]():
        raise UserError(f"device {name} is not available here; use --device=auto")
    return torch.device(name)


def pick_arithmetic(name, device):
    """(dtype, autocast, scaler): the weights stay float32, autocast casts them where dtype is another."""
    if name == "auto":
        if device.type == "cuda":
            name = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        elif device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
            name = "bfloat16"
        else:
            name = "float32"
    dtype = getattr(torch, name)
    autocast = contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
    return dtype, autocast, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def keep_freed_memory():
    """Have malloc (of glibc) keep what one step frees for the next: on virtual machines a fresh page is dear."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD; older ones take no more
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def set_up(device):
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
        keep_freed_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def device_name(device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # Linux knows more
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads"


def peak_memory(device) -> tuple[int, str]:
    """(bytes, of what) in use at most: of the GPU, or else of the process; 0 where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "of the GPU"
    if os.name != "posix":
        return 0, ""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "of the process, with its libraries"
