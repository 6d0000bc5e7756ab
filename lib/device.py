"""The machine that computes: which device, in which precision, and what is known of it."""

import contextlib
import ctypes
import os
import platform
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from lib import distributed
from lib.errors import UserError

CGROUP = Path("/sys/fs/cgroup")
CONTAINER = (  # its limit, what is in use, and what of that are files that can be read again: cgroup v2 and v1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


class Precision(NamedTuple):
    """The weights stay float32. Under `autocast` matrix products are of type `dtype`; `scaler` is for float16."""

    dtype: torch.dtype
    autocast: contextlib.AbstractContextManager
    scaler: torch.amp.GradScaler


def pick_device(name) -> torch.device:
    """The device of this process: auto, cuda, cuda:1, mps or cpu. Raises UserError if it is not there."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(name for name, available in here.items() if available)
    kind = name.partition(":")[0]
    if not here[kind]:
        raise UserError(f"device {name} is not available here; use --device=auto")
    if not distributed.is_torchrun or kind == "cpu":
        device = torch.device(name)
    elif name == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        other = "cpu" if kind == "mps" else "cuda"
        raise UserError(f"device {name} is for one process; use --device={other}, or start without torchrun")
    if device.type == "cuda":
        use_gpu(device)
    return device


def use_gpu(device):
    """Make this GPU the one that torch uses. Raises UserError if it is not there, or too old for this torch."""
    gpus = torch.cuda.device_count()
    if device.index is not None:
        if device.index >= gpus and distributed.is_torchrun:
            processes = os.environ["LOCAL_WORLD_SIZE"]
            raise UserError(f"{platform.node()} has {gpus} GPUs for {processes} processes; use --nproc_per_node={gpus}")
        if device.index >= gpus:
            raise UserError(f"device {device} is not available here: there are {gpus} GPUs, the first is cuda:0")
        torch.cuda.set_device(device)
    known = [int(arch.removeprefix("sm_")) for arch in torch.cuda.get_arch_list() if re.fullmatch(r"sm_\d+", arch)]
    major, minor = torch.cuda.get_device_capability(device)
    if known and 10 * major + minor < min(known):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, and torch"
            f" {torch.__version__} needs {min(known) / 10} or newer; use --device=cpu, or an older torch"
        )


def pick_precision(name, device) -> Precision:
    """auto: bfloat16 where the hardware has it, else float16 on a GPU, else float32."""
    if name == "auto":
        if device.type == "cuda":
            name = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        elif device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
            name = "bfloat16"
        else:
            name = "float32"
    dtype = getattr(torch, name)
    autocast = contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
    return Precision(dtype, autocast, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16))


def set_up(device):
    """Settings of torch and of the C library for a long computation."""
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # It helps to find bugs, and costs time.
        keep_freed_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def keep_freed_memory():
    """Let malloc (of glibc) keep what one step frees for the next: on virtual machines a fresh page is expensive."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD; older ones take no more
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def device_name(device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # Linux knows more.
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads"


def hardware(device) -> dict:
    """What the log of a run says of the machine."""
    processes = {"processes": distributed.world_size, "torch": torch.__version__}
    return {"device": device.type, "name": device_name(device)} | processes


def free_memory(device) -> int:
    """Bytes that a process can still use: of the GPU, or of the machine or container. 0 where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError):
        info = Path("/proc/meminfo").read_text(encoding="utf-8")
        free = sum(int(size) << 10 for size in re.findall(r"^(?:MemAvailable|SwapFree):\s+(\d+) kB", info, re.M))
        for limit, used, files in CONTAINER:
            path = CGROUP / limit
            if path.exists() and (size := path.read_text(encoding="utf-8").strip()).isdigit():
                stat = path.with_name("memory.stat").read_text(encoding="utf-8")
                reclaimable = sum(map(int, re.findall(rf"^{files} (\d+)", stat, re.M)))
                free = min(free, int(size) - int((CGROUP / used).read_text(encoding="utf-8")) + reclaimable)
        return free
    return 0


def format_bytes(size) -> str:
    if size < 1e9:
        return f"{size / 1e6:,.0f} MB"
    return f"{size / 1e9:,.{1 if size < 1e10 else 0}f} GB"


def peak_memory(device) -> tuple[int, str]:
    """(bytes, of what) in use at most: of the GPU, or else of the process; 0 where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "of the GPU"
    if os.name != "posix":
        return 0, ""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "of the process, with its libraries"
