"""The machine that computes: which device, in which precision, and what is known of it."""

import contextlib
import copy
import ctypes
import dataclasses
import os
import platform
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from lib.errors import UserError, is_out_of_memory
from lib.generation import Sampling, stream
from lib.machine import distributed

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


def pick_device(name, make_model, config, dtype) -> torch.device:
    """The device of this process: auto, cuda, cuda:1, mps or cpu. Raises UserError if it is not there, or not fit.

    No device is trusted before it `computes_like_cpu`, whose parameters the others are. auto takes the first that does.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and not here[name.partition(":")[0]]:
        raise UserError(f"device {name} is not available here; use --device=auto")
    candidates = [kind for kind in here if here[kind]] if name == "auto" else [name]
    for candidate in candidates:
        device = local_device(candidate)
        try:
            if device.type == "cuda":
                refuse_old_gpu(device)
            if device.type != "cpu":
                computes_like_cpu(device, make_model, config, dtype)
            return device
        except UserError as error:
            if name != "auto":
                raise UserError(f"{error}; use --device=cpu") from None
            print(f"warning: {error}; going on without it", file=sys.stderr)


def local_device(name) -> torch.device:
    """The device of that name, under torchrun the GPU of this process. Raises UserError if there is none."""
    if not distributed.is_torchrun or name == "cpu":
        device = torch.device(name)
    elif name == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        other = "cpu" if name == "mps" else "cuda"
        raise UserError(f"device {name} is for one process; use --device={other}, or start without torchrun")
    if device.index is not None:
        gpus = torch.cuda.device_count()
        if device.index >= gpus and distributed.is_torchrun:
            processes = os.environ["LOCAL_WORLD_SIZE"]
            raise UserError(f"{platform.node()} has {gpus} GPUs for {processes} processes; use --nproc_per_node={gpus}")
        if device.index >= gpus:
            raise UserError(f"device {device} is not available here: there are {gpus} GPUs, the first is cuda:0")
        torch.cuda.set_device(device)
    return device


def refuse_old_gpu(device):
    """Raise UserError if this torch has no kernels for it."""
    known = [int(arch.removeprefix("sm_")) for arch in torch.cuda.get_arch_list() if re.fullmatch(r"sm_\d+", arch)]
    major, minor = torch.cuda.get_device_capability(device)
    if known and 10 * major + minor < min(known):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, and torch"
            f" {torch.__version__} needs {min(known) / 10} or newer (an older torch may know it)"
        )


def computes_like_cpu(device, make_model, config, dtype) -> str:
    """Let a small model learn and write on a device and on the CPU. Returns how far apart they are, as a line.

    The model has two layers, with heads as in the config. The device makes a training step in the precision of a run,
    and writes tokens with the cache. The CPU makes the same step in float32, and judges the tokens. Compared are the
    loss before and after the step; each gradient, by the norm of the difference; and the logit of each token with the
    highest one, in standard deviations, since rounding may choose between two that are as likely.

    make_model: called with a config and the size of the vocabulary. dtype: see `pick_precision`. Raises UserError if
    the device fails, or is further off than rounding explains. On a CPU rounding changed a gradient by up to 3.6% in
    bfloat16 and 0.4% in float16, a loss by 0.6%; operations that compute something else, a gradient by over 20%.
    """
    n_kv_head = min(config.n_kv_head, 2)
    heads = {"n_head": config.n_head // config.n_kv_head * n_kv_head, "n_kv_head": n_kv_head}
    sizes = {"n_layer": 2, "n_embd": 128, "head_dim": config.head_size, "intermediate_size": 256}
    block_size = max(64, min(config.block_size, 1024))
    small = dataclasses.replace(config, dropout=0.0, block_size=block_size, **heads, **sizes)
    rng = torch.Generator().manual_seed(0)
    text = torch.randint(500, (2, block_size + 1), generator=rng)
    found = []

    def compare(what, distance, at_most):
        found.append(f"{what} off by {distance:.2%}")
        if not distance <= at_most:  # Not-a-number is too far.
            raise UserError(f"device {device} does not compute what the CPU computes ({found[-1]})")

    try:
        model, precision = make_model(small, 500), pick_precision(dtype, device)
        for weight in model.parameters():  # They are larger than those of a new model, so that all parts count.
            torch.nn.init.normal_(weight, float(weight.dim() == 1), 0.15, rng)
        there = copy.deepcopy(model).to(device)
        loss, grads, loss_after = one_step(model, text, contextlib.nullcontext())
        loss_there, grads_there, loss_after_there = one_step(there, text, precision.autocast)
        compare("loss", abs(loss_there / loss - 1), 0.03)
        distances = torch.stack([(a - b).norm() / b.norm() for a, b in zip(grads_there, grads, strict=True)])
        worst = [name for name, _ in model.named_parameters()][distances.argmax()]
        compare(f"gradient of {worst}", distances.max().item(), 0.15 if precision.dtype == torch.bfloat16 else 0.05)
        compare("loss after a step", abs(loss_after_there / loss_after - 1), 0.03)

        # With top_k=1 all that draws a token is computed, and there is only one to draw.
        prompt = text[:, :16]
        tokens = stream(there, prompt.to(device), 32, Sampling(top_k=1))
        written = torch.cat((prompt, torch.stack(list(tokens), dim=1)), dim=1)
        model.load_state_dict(there.state_dict())  # The steps have rounded them differently.
        with torch.inference_mode():
            logits = model.lm_head(model.hidden(written[:, :-1]))[:, 15:]
        gaps = (logits.amax(dim=-1) - logits.gather(2, written[:, 16:, None])[..., 0]) / logits.std()
        compare("logits", gaps.max().item(), 0.05)
        return f"{', '.join(found)}; {(gaps == 0).sum()} of {gaps.numel()} tokens equal"
    except UserError:
        raise
    except Exception as error:
        why = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(f"device {device} fails where the CPU computes ({why})") from error


def one_step(model, text, autocast):
    """A training step on a batch. Returns (loss, gradients on the CPU, loss after it)."""
    x, y = (part.to(model.embedding.weight.device) for part in (text[:, :-1], text[:, 1:]))
    with autocast:
        loss = model(x, y)
    (1024 * loss).backward()  # so that float16 can hold the smallest gradients
    grads = [parameter.grad.cpu() for parameter in model.parameters()]
    torch.optim.AdamW(model.parameters(), lr=0.01, fused=True).step()
    with autocast:
        return loss.item(), grads, model(x, y).item()


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


def peak_memory(device) -> tuple[int, str]:
    """(bytes, of what) in use at most: of the GPU, or else of the process; 0 where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "of the GPU"
    if os.name != "posix":
        return 0, ""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "of the process, with its libraries"
