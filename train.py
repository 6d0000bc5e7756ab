"""Train a GPT.

    python train.py config/small.py [--key=value ...] [--resume | --overwrite | --plan]
    torchrun --standalone --nproc_per_node=8 -- train.py config/base.py ...     on 8 GPUs

Reads   data/<dataset>/bpe<vocab_size>/
Writes  out/<run>/ckpt.pt (the latest state), best.pt (the best validation loss), loss_log.json, and
        samples.md: how the model continues the same few texts at each evaluation

Ctrl-C saves and stops, as do SIGTERM and a closed terminal; --resume goes on as if nothing had happened.
"""

# The path of one evening, in this order: config/tiny.py and config/__init__.py (what can be set), train_tokenizer.py
# and prepare.py (a text becomes tokens), lib/tokens/memmap.py (blocks of them), model.py (the network), this file
# (batches, learning rate, optimizer, evaluation, one step, the loop), lib/run/checkpoint.py and lib/run/log.py (what a
# run saves), lib/generation.py and sample.py (how it writes), plot_loss.py. All else may be met later or never.

import lib.machine.startup  # noqa: F401  It must be first; it says why.

# isort: split
import copy
import functools
import math

import numpy as np
import torch

from config import load_config, say_unused
from lib import qwen3
from lib.errors import ArgumentParser, reports_errors
from lib.generation import TextModel
from lib.machine import distributed
from lib.machine.compilation import compile_and_wrap
from lib.machine.device import pick_device, pick_precision, set_up
from lib.machine.terminal import outlive_readers
from lib.muon import Muon
from lib.run.checkpoint import TrainState, save_run
from lib.run.health import Health
from lib.run.log import RunLog, say_what_is_next
from lib.run.plan import print_plan, print_time
from lib.run.signals import StopSignal
from lib.run.start import begin, lock_run
from lib.tokens.memmap import Data
from model import GPT

SAMPLE_TOKENS = 100


# --- batches


@functools.lru_cache(maxsize=2)
def epoch_offsets(seed, epoch, n_blocks, block_size, n_offsets):
    """Where the blocks of an epoch begin: side by side, in random order. Each epoch cuts the text at other places."""
    rng = np.random.default_rng((seed, epoch))
    first = rng.integers(n_offsets - (n_blocks - 1) * block_size)
    return first + block_size * rng.permutation(n_blocks)


def batch_offsets(seed, step, batch_size, block_size, n_offsets):
    """Where the blocks of a step begin: a function of (seed, step) alone, so that resuming needs no state.

    No block is read again before all others have been. Blocks that begin anywhere leave a third of the text unread in
    an epoch, and the validation loss ends higher (docs/EXPERIMENTS.md).
    """
    n_blocks = max(1, n_offsets // block_size)
    epochs, places = np.divmod(step * batch_size + np.arange(batch_size), n_blocks)
    sizes = n_blocks, block_size, n_offsets
    return np.array([epoch_offsets(seed, epoch, *sizes)[i] for epoch, i in zip(epochs, places, strict=True)])


def get_batch(tokens, offsets):
    """Inputs and targets, (B, block_size) token ids each: the targets are the inputs, one token later."""
    blocks = tokens.blocks(offsets)
    return blocks[:, :-1], blocks[:, 1:]


# --- learning rate and optimizer


def get_lr(step, config) -> float:
    """Linear warmup, a plateau of hold_steps, then a cosine down to min_lr."""
    # 1) warmup, from the first step on above zero
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    # 2) plateau
    decay_start = config.warmup_steps + config.hold_steps
    if step < decay_start:
        return config.learning_rate
    # 3) cosine
    progress = (step - decay_start) / max(1, config.max_steps - decay_start)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)


def set_lr(optimizer, step, config) -> float:
    """Give every group its share of the learning rate of a step, which is returned."""
    lr = get_lr(step, config)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["peak"] / config.learning_rate
    return lr


def make_optimizer(model, config, precision) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices inside the blocks. A group's `peak` is its learning rate at its highest."""
    inner = {name: p for name, p in model.blocks.named_parameters() if p.dim() >= 2}
    head = [] if config.tie_embeddings else [model.lm_head.weight]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    decay, peak = config.weight_decay, config.learning_rate
    matrices = {"params": [*inner.values()], "weight_decay": decay, "peak": peak}
    groups = [
        {"params": [model.embedding.weight], "weight_decay": decay, "peak": config.embedding_lr or peak},
        matrices,
        {"params": head, "weight_decay": decay, "peak": peak},
        {"params": vectors, "weight_decay": 0.0, "peak": peak},
    ]
    settings = {"lr": 0.0, "betas": (config.beta1, config.beta2), "fused": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **settings)
    # Heads of q, k and v are parts of one matrix for speed only, and so are gate and up.
    parts = {"qkv": config.head_size, "gate_up": config.ffn_size}
    matrices["rows"] = [parts.get(name.split(".")[-2], len(p)) for name, p in inner.items()]
    return Muon(groups, precision.dtype, **settings)


# --- evaluation


@torch.no_grad()
def evaluate(model, tokens, lengths, config, precision, stop=None) -> dict:
    """The validation loss over the same windows side by side every time, in its several units.

    lengths: (2, vocab_size), the bytes and the characters of each token. Per byte and per character the loss can be
    compared between tokenizers. stop: a StopSignal, after which only the windows so far count.
    """
    windows = np.array_split(tokens.windows(config.eval_tokens), distributed.world_size)[distributed.rank]
    micro_batch_size = distributed.micro_batch_size(config)
    # These are made first: on a CPU, what a batch leaves behind keeps the next one from the memory of its logits.
    losses = torch.zeros(len(windows), device=lengths.device)
    counts, text = [], torch.zeros(2, dtype=torch.int64, device=lengths.device)
    model.eval()
    for first in range(0, len(windows), micro_batch_size):
        x, y = get_batch(tokens, windows[first : first + micro_batch_size])
        with precision.autocast:
            losses[len(counts)] = model(x, y)
        counts.append(y.numel())
        text += lengths[:, y].sum(dim=(1, 2))
        if stop and (stop.number or stop.agreed):
            break
    model.train()
    nats = float(np.dot(losses[: len(counts)].tolist(), counts))  # A GPU is waited for once, here.
    nats, count, n_bytes, n_characters = distributed.all_reduce([nats, sum(counts), *text.tolist()])
    loss, bits = nats / count, nats / math.log(2)
    return {
        "val_loss": loss,
        "val_ppl": math.exp(min(loss, 600.0)),
        "val_bpb": bits / max(1, n_bytes),
        "val_bpc": bits / max(1, n_characters),
    }


def choose_prompts(config, val_tokens, text_model) -> list[str]:
    """The texts that the model continues at each evaluation. For an empty one, how the validation text begins."""
    beginning = b"".join(text_model.token_bytes[i] for i in val_tokens.head(64)).decode(errors="ignore")
    first_line = beginning.strip().partition("\n")[0]
    return [prompt or first_line[:12] for prompt in config.prompts.split("|")] if config.prompts else []


def continue_prompts(text_model, prompts) -> dict:
    """{prompt: its continuation}. The seed is always the same, so that what changes is the model."""
    text_model.model.eval()
    texts = {prompt: text_model.generate(prompt, SAMPLE_TOKENS, seed=0).removeprefix(prompt) for prompt in prompts}
    text_model.model.train()
    return texts


# --- one step


def train_step(model, optimizer, tokens, step, config, precision):
    """One update of the weights. Returns (mean loss, norm of the gradient before clipping), both on the device.

    model: perhaps compiled, perhaps one of several processes.
    """
    if config.dropout:  # a function of (seed, step, rank), as the batch is of (seed, step)
        torch.manual_seed(config.seed + 1_000_003 * step + 10_007 * distributed.rank)
    micro_batch_size = distributed.micro_batch_size(config)
    offsets = batch_offsets(config.seed, step, config.batch_size, config.block_size, tokens.n_offsets)
    micro_batches = offsets.reshape(distributed.world_size, -1, micro_batch_size)[distributed.rank]

    # Forward and backward. Several passes leave the same gradient as one, and need less memory.
    loss = 0.0
    for i, micro_batch in enumerate(micro_batches, 1):
        x, y = get_batch(tokens, micro_batch)
        with distributed.sync_gradients(model, i == len(micro_batches)):
            with precision.autocast:
                micro_loss = model(x, y) / len(micro_batches)
            precision.scaler.scale(micro_loss).backward()
        loss += micro_loss.detach()

    # Clip
    precision.scaler.unscale_(optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)

    # Step
    precision.scaler.step(optimizer)
    precision.scaler.update()
    optimizer.zero_grad()
    return loss, grad_norm


@torch.no_grad()
def average_weights(average, model, step, share):
    """Move the average a bit towards the weights after a step.

    The later the weights, the more they count: their mean age is a `share` of the run so far
    (https://arxiv.org/abs/1212.1824).
    """
    n = 1 / share - 1
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, n / (n + step))


# --- the run


def new_state(config, vocab_size, precision, device) -> TrainState:
    """A model with new weights, their average, and the optimizer."""
    torch.manual_seed(config.seed)
    n_rows = config.vocab_size if config.init_from else vocab_size  # Published models have spare ones.
    model = GPT(config, n_rows).to(device)
    average = copy.deepcopy(model) if config.averaging else model
    return TrainState(model, average, make_optimizer(model, config, precision), precision.scaler)


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--resume", action="store_true", help="go on from out/<run>/ckpt.pt, if it is there")
    parser.add_argument("--overwrite", action="store_true", help="start anew although the run exists")
    parser.add_argument("--plan", action="store_true", help="make a few steps, say what a run takes, save nothing")
    config, args = load_config(argv, parser)
    outlive_readers()
    restarts = distributed.join()
    say_unused(args, ["min_frequency"])
    config = qwen3.with_shape_of_init(config, args.given)
    distributed.micro_batch_size(config)  # raises an error if the batch cannot be divided

    # Device, data, model
    device = pick_device(config.device, GPT, config, config.dtype)
    precision = pick_precision(config.dtype, device)
    set_up(device)
    data = Data(config, args.given, device)
    state = new_state(config, data.meta["vocab_size"], precision, device)
    text_model = TextModel(state.average, data.tokenizer, config.tokens_dir / "tokenizer.json")
    prompts = choose_prompts(config, data.val, text_model)

    # What it will take
    fits = print_plan(config, data.meta, state, precision, device)
    if args.plan:
        if fits:
            write_samples = functools.partial(continue_prompts, text_model, prompts)
            print_time(train_step, write_samples, data, state, config, precision)
        return 0

    with lock_run(config), StopSignal() as stop:
        progress = begin(config, args, restarts, data, state, get_lr)
        model = compile_and_wrap(state.model, precision)
        log = RunLog(config, data.meta, device, progress)
        if log.records:
            log.save(log.first_step)  # A crash may have come between the checkpoint and its log.
        health = Health(device, precision.scaler, config)

        for step in range(log.first_step, config.max_steps + 1):
            lr = set_lr(state.optimizer, step, config)
            last = step == config.max_steps

            # Evaluate and save. Before a stop a part is evaluated, so that no weights are saved that have diverged.
            due = (last or step % config.eval_interval == 0) and not log.has_evaluation(step)
            if stop.requested() or due:
                figures = evaluate(state.average, data.val, data.lengths, config, precision, stop)
                health.check(step, figures["val_loss"])
                if stop.requested():  # It broke the evaluation off, so there is none to log.
                    save_run(log, step, state, data.tokenizer_json)
                    break
                samples = continue_prompts(text_model, prompts) if distributed.is_main else {}
                is_best = log.evaluation(step, lr, figures, samples)
                save_run(log, step, state, data.tokenizer_json, is_best)
            if last or log.out_of_patience():
                break

            # Train
            loss, grad_norm = train_step(model, state.optimizer, data.train, step, config, precision)
            if config.averaging:
                average_weights(state.average, state.model, step, config.averaging)
            health.watch(step, loss, grad_norm)

            # Log
            if step % log.interval == 0:
                health.check(step)
                mean_loss = distributed.all_reduce(loss.item()) / distributed.world_size
                log.training(step, lr, mean_loss, grad_norm.item())

        distributed.leave()
    return say_what_is_next(log, args.argv, step, stop.agreed, prompts)


if __name__ == "__main__":
    distributed.end(main())
