"""What a run will take and what that means, said before it starts: parameters, text, memory, time."""

import math
import statistics
import tempfile
import time

import torch

from lib.machine import distributed
from lib.machine.compilation import compile_and_wrap, should_compile
from lib.machine.device import device_name, free_memory, peak_memory
from lib.machine.terminal import format_bytes, format_number, format_time, one_line
from lib.run.checkpoint import write_checkpoint
from lib.storage import flush_to_disk


def parts_of(model) -> dict:
    """The number of parameters by what they are for; a tied matrix counts once."""
    kinds = {"embedding": "embedding", "attn": "attention", "mlp": "SwiGLU", "lm_head": "output head"}
    counts = dict.fromkeys([*kinds.values(), "norms"], 0)
    for name, parameter in model.named_parameters():
        kind = next((kinds[word] for word in name.split(".") if word in kinds), "norms")
        counts[kind if parameter.dim() == 2 else "norms"] += parameter.numel()
    return {kind: count for kind, count in counts.items() if count}


class MemoryEstimate:
    """The bytes that training needs: `fixed`, and `sequence` for each sequence in a forward pass.

    Fixed are the weights, their gradients and the averages of the optimizer. What one sequence leaves for the backward
    pass is counted, and more of them leave as much each. Six times the logits in float32 are added: that was seen on a
    CPU while their loss and its gradient are computed. A GPU, or a compiled model, may take less.
    """

    def __init__(self, model, optimizer, precision):
        n_parameters = sum(model.parameter_counts())
        self.fixed = 4 * n_parameters if model.config.averaging else 0
        for group in optimizer.param_groups:
            numbers = 3 if "rows" in group else 4  # of 4 bytes for each parameter: those of Muon have one average
            self.fixed += 4 * numbers * sum(p.numel() for p in group["params"])
        copies = 0 if precision.dtype == torch.float32 else 2 * n_parameters  # Autocast keeps them as well.
        logits = 4 * model.config.block_size * model.embedding.num_embeddings
        self.sequence = saved_bytes(model, precision.autocast) - copies + 6 * logits
        self.fixed += copies

    def needed(self, sequences) -> int:
        return self.fixed + sequences * self.sequence


def saved_bytes(model, autocast) -> int:
    """Bytes that the forward pass of one sequence keeps for the backward pass."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    idx = torch.zeros(1, model.config.block_size, dtype=torch.int64, device=model.embedding.weight.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        loss = model(idx, idx)
    del loss  # Until here its tensors keep their memory, so that no two of them have one address.
    return sum(saved.values())


def print_plan(config, meta, state, precision, device) -> bool:
    """The first lines of a run. Returns whether the run seems to fit the memory, in all processes."""
    model = state.model
    compiled = should_compile(model, device)
    how = [str(precision.dtype).removeprefix("torch."), "compiled" if compiled else "eager"]
    how += [f"{distributed.world_size} processes"] if distributed.world_size > 1 else []
    n_parameters = sum(model.parameter_counts())
    step_tokens = config.batch_size * config.block_size
    tokens = config.max_steps * step_tokens
    epochs, ratio = tokens / meta["train"]["tokens"], tokens / n_parameters
    changes = " ".join(f"{key}={value}" for key, value in config.changes().items())
    parts = " + ".join(f"{count:,} {part}" for part, count in parts_of(model).items())
    print(f"config      {one_line(changes) or 'the defaults'}")
    print(f"device      {device.type} ({device_name(device)}), {', '.join(how)}")
    print(f"parameters  {n_parameters:,} = {parts}")
    print(f"data        {meta['train']['tokens']:,} training tokens, {meta['val']['tokens']:,} for validation")
    print(
        f"training    {config.max_steps:,} steps of {step_tokens:,} tokens = {tokens:,}:"
        f" {format_number(epochs)} epochs, {format_number(ratio)} tokens per parameter"
    )
    for line in meaning(epochs, ratio):
        print(f"            {line}")
    print(
        f"baselines   ln(vocab_size) = {math.log(meta['vocab_size']):.3f} nats knows nothing,"
        f" {meta['unigram_entropy']:.3f} knows only how frequent each token is"
    )
    if config.warmup_steps + config.hold_steps > config.max_steps:
        print("warning: warmup_steps and hold_steps exceed max_steps, so the learning rate never comes down")
    fits = print_memory(config, MemoryEstimate(model, state.optimizer, precision), device, compiled)
    return bool(distributed.all_reduce(int(fits), "min"))


def meaning(epochs, ratio) -> list[str]:
    """What to expect of so many epochs (https://arxiv.org/abs/2305.16264) and tokens per parameter (2203.15556)."""
    if epochs < 1:
        text = "not all of the text is read; training and validation loss will stay close"
    elif epochs <= 4:
        text = "up to about 4, reading a text again teaches almost as much as new text"
    elif epochs <= 16:
        text = "past about 4 a text teaches less each time; the validation loss will flatten"
    else:
        text = "the text will be learned by heart and the validation loss rise again, unless the model is small and"
        text += " weight_decay high; python -m tools.recipe finds what suits"
    size = "the model has room for more; about 20 suit its size best"
    if ratio >= 20:
        size = "about 20 suit a model; a larger one would learn more from them"
    return [f"{format_number(epochs)} epochs: {text}", f"{format_number(ratio)} tokens per parameter: {size}"]


def print_memory(config, estimate, device, compiled) -> bool:
    """How much memory is needed and, if there is less, what to change. Returns whether it seems to fit.

    On a GPU a compiled model needs less than is estimated here. How much, its first step shows.
    """
    measured = compiled and device.type == "cuda"
    micro = distributed.micro_batch_size(config)
    needed, free = estimate.needed(micro), free_memory(device)
    print(
        f"memory      {'at most' if measured else 'about'} {format_bytes(needed)}:"
        f" {format_bytes(estimate.fixed)} for the parameters,"
        f" {micro} times {format_bytes(estimate.sequence)} for a sequence"
        + (f"; {format_bytes(free)} are free" if free else "")
    )
    if measured or not free or needed < free:
        return True
    room = 0.9 * free  # A part of what is free may be in use by the time that it is needed.
    share = config.batch_size // distributed.world_size
    fits = next((n for n in range(micro - 1, 0, -1) if share % n == 0 and estimate.needed(n) < room), 0)
    block_size = config.block_size
    while block_size > 2 and estimate.fixed + estimate.sequence * block_size / config.block_size > room:
        block_size //= 2
    if fits:
        advice = f"--micro_batch_size={fits} takes {format_bytes(estimate.needed(fits))} and trains the same model"
    elif block_size > 2:
        advice = f"--micro_batch_size=1 --block_size={block_size} would"
    else:
        advice = f"{room / 16 / 1e6:,.0f} million parameters would: lower n_layer, n_embd or vocab_size"
    print(f"warning: that may not fit; {advice}")
    return False


def print_time(train_step, write_samples, data, state, config, precision):
    """Make a few training steps and print what the run will take.

    train_step: of train.py. write_samples: what follows an evaluation. An evaluation is counted as a third of the time
    that as many tokens take in training, since it has no backward pass.
    """
    start = time.perf_counter()
    model = compile_and_wrap(state.model, precision)
    parts = {"compiling": time.perf_counter() - start}

    times = []
    while len(times) < config.max_steps and (len(times) < 5 or distributed.all_reduce(sum(times), "max") < 5):
        start = time.perf_counter()
        loss, _ = train_step(model, state.optimizer, data.train, len(times), config, precision)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
    step_seconds, step_tokens = statistics.median(times[2:] or times), config.batch_size * config.block_size
    parts["steps"] = config.max_steps * step_seconds

    n_evaluations = config.max_steps // config.eval_interval + 1
    eval_tokens = len(data.val.windows(config.eval_tokens)) * config.block_size
    parts["evaluations"] = n_evaluations * step_seconds * eval_tokens / step_tokens / 3
    start = time.perf_counter()
    write_samples()
    parts["samples"] = n_evaluations * (time.perf_counter() - start)
    with unnamed_file(config.run_dir) as file:
        start = time.perf_counter()
        write_checkpoint(file, state.state_dict())
        flush_to_disk(file)
        parts["checkpoints"] = n_evaluations * (time.perf_counter() - start)

    total = sum(parts.values())
    print(
        f"time        {1000 * step_seconds:,.1f} ms a step, {step_tokens / step_seconds:,.0f} tokens a second;"
        f" about {format_time(total)} to the end"
    )
    print("            of it " + ", ".join(f"{format_time(seconds)} {part}" for part, seconds in parts.items()))
    peak, whose = peak_memory(data.train.device)
    if peak:
        print(f"memory      {format_bytes(peak)} used at most, {whose}")
    if total > 7200:
        steps = 3600 * config.max_steps / total
        print(f"            in an hour this machine does --max_steps={steps:.0f}; which model suits an hour,")
        print("            python -m tools.recipe --minutes=60 finds out")


def unnamed_file(folder):
    """A file on the disk of a folder that may not be there yet, or of temporary files if nothing can be written there.

    It has no name, so that nothing is left of it however the process ends.
    """
    try:
        return tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists()))
    except OSError:
        return tempfile.TemporaryFile()
