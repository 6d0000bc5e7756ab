"""torch.compile: when it pays, and what to do where it does not work."""

import sys
import time

import torch

from lib.errors import is_out_of_memory
from lib.machine import distributed
from lib.machine.device import peak_memory
from lib.machine.terminal import format_bytes


def flops_per_token(model) -> int:
    """Operations of a training step for one token (https://arxiv.org/abs/2204.02311, appendix B).

    Six for each weight, and the products of attention.
    """
    c = model.config
    return 6 * sum(model.parameter_counts()) + 12 * c.n_layer * c.n_head * c.head_size * c.block_size


def should_compile(model, device) -> bool:
    """auto: in runs so long that it pays. Compiling takes half a minute or more, the first time.

    On two CPU cores it then saves 13 to 17% of a step in bfloat16 and 5 to 9% in float32, and pays after some ten
    minutes. On a GPU it saves the host most of its work, of which each step of a small model has some 10 ms.
    """
    c = model.config
    if c.compile != "auto":
        return c.compile == "on"
    work = flops_per_token(model) * c.max_steps * c.batch_size * c.block_size
    if device.type == "cuda":
        return c.max_steps > 2000 or work > 1e16
    return device.type == "cpu" and work > 2e14  # ten minutes on two cores with bfloat16


def compile_and_wrap(model, precision):
    """The model as train_step calls it: compiled where that pays, one of several processes under torchrun."""
    config, device = model.config, model.embedding.weight.device
    if should_compile(model, device):
        micro_batch_size = distributed.micro_batch_size(config)
        blocks = torch.zeros(micro_batch_size, config.block_size + 1, dtype=torch.int64, device=device)
        # When a CUDA graph is launched again, it overwrites the gradients of the pass before. So it is of use only
        # where a step is one pass of one process: neither are its gradients added up, nor are others waited for.
        cuda_graphs = device.type == "cuda" and micro_batch_size == config.batch_size
        model = compile_model(model, blocks[:, :-1], blocks[:, 1:], precision.autocast, cuda_graphs)
    return distributed.wrap(model)


def compile_model(model, x, y, autocast, cuda_graphs):
    """torch.compile(model), or the model itself where that does not work.

    x, y: a batch for the first passes, whose gradients are thrown away. cuda_graphs: whether the kernels of a pass are
    launched as one. What the pass leaves must then be used before the next one.
    """
    compiled = torch.compile(model, mode="reduce-overhead" if cuda_graphs else "default")
    stream = torch.cuda.current_stream() if x.is_cuda else None
    start = time.perf_counter()
    print("compiling, which takes a minute or less …", flush=True)
    try:
        # The second pass records the graphs, and the third launches them.
        for _ in range(3 if cuda_graphs else 1):
            with autocast:
                loss = compiled(x, y)
            loss.backward()
            model.zero_grad(set_to_none=True)
    except Exception as error:  # There is no compiler, or no Triton, or a bug in either: training goes on without.
        if is_out_of_memory(error):
            raise
        if stream:  # A recording that fails leaves torch in a stream of its own.
            torch.cuda.set_stream(stream)
        print(f"warning: torch.compile failed ({type(error).__name__}); going on without it, slower", file=sys.stderr)
        return model
    finally:
        model.zero_grad(set_to_none=True)
    peak, whose = peak_memory(x.device)
    memory = f"; {format_bytes(peak)} used so far, {whose}" if x.is_cuda else ""
    print(f"compiled in {time.perf_counter() - start:.0f} s{memory}")
    return compiled
