"""Several processes that train as one, started by torchrun, one for each GPU.

Each process computes the gradient of its share of the batch. All make the same step, with the mean of their
gradients, and so keep the same weights. The main process alone writes and prints.
"""

import contextlib
import os
import platform
import sys

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lib.errors import UserError

is_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
rank, world_size = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_torchrun else (0, 1)
is_main = rank == 0


def join() -> int:
    """Meet the other processes, if there are any. Returns how often torchrun has restarted them."""
    if not is_torchrun:
        return 0
    if not is_main:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    # The store of torchrun outlives a restart. A prefix for each attempt hides the addresses of ended processes.
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    dist.init_process_group(
        backend, store=dist.PrefixStore(f"attempt {restarts}", store), rank=rank, world_size=world_size
    )
    return all_reduce(restarts, "max")


def all_reduce(value, operation="sum"):
    """The sum, min or max over all processes of a number or a list of them. It goes by way of the CPU."""
    if not is_torchrun:
        return value
    result = torch.tensor(value, dtype=torch.float64 if isinstance(value, float | list) else torch.int64)
    dist.all_reduce(result, getattr(dist.ReduceOp, operation.upper()))
    return result.tolist()


def check_agreement(mine):
    """Raise UserError unless this dict is the same in all processes: each machine may have files of its own."""
    if not is_torchrun:
        return
    everyone = [None] * world_size
    dist.all_gather_object(everyone, (platform.node(), mine))
    for number, (machine, theirs) in enumerate(everyone):
        for key, value in everyone[0][1].items():
            if theirs[key] != value:
                raise UserError(
                    f"process {number} on {machine} has {key} {theirs[key]}, process 0 on {everyone[0][0]} has {value};"
                    " every machine needs the same config, data/ and out/, on a shared disk for instance"
                )


def micro_batch_size(config) -> int:
    """The sequences of one forward pass of this process. Raises UserError if the batch cannot be shared evenly."""
    micro = config.micro_size(world_size)
    if not micro or config.batch_size % (world_size * micro):
        passes = f" in passes of {config.micro_batch_size}" if config.micro_batch_size else ""
        raise UserError(
            f"batch_size: {config.batch_size} does not divide evenly among {world_size} processes{passes};"
            " choose a multiple"
        )
    return micro


def wrap(model):
    """The model whose backward pass leaves the mean gradient of all processes."""
    if not is_torchrun:
        return model
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    # The buffers are the tables of RoPE, which never change: there is nothing to exchange. The constructor has an
    # argument of this name, of which torch 2.13 warns.
    wrapped.broadcast_buffers = False
    return wrapped


def sync_gradients(model, wanted):
    """A context for a backward pass: only the last one of a step exchanges gradients, the sum of them all."""
    return contextlib.nullcontext() if wanted or not is_torchrun else model.no_sync()


def leave():
    """Wait for the others: torchrun ends them when one has ended, and the main process may still be saving."""
    if is_torchrun:
        dist.barrier()


def end(code):
    """End this process, under torchrun at once: Python and a thread of gloo can wait for each other for ever."""
    if is_torchrun:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
