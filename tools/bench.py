"""Measure how fast everything is on this machine, and how far from what the machine can do.

    python bench.py config/small.py --batch_size=8 [--json FILE]

Reads   data/<dataset>/ as prepared for train.py
Prints  one table: each part of a training step, evaluation, checkpoints, tokenizer, sampling, start-up

A figure of a noisy machine says little; ratios taken in one run say more. Each is a median.
"""

from errors import reports_errors

import dataclasses
import datetime
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from batches import Tokens, block_starts
from corpus import Corpus
from device import device_name, peak_memory, pick_arithmetic, pick_device, set_up
from files import parse_tokenizer, read_tokenizer, save_checkpoint, write_json
from tokens import read_meta

import prepare
import train_tokenizer
from config import ArgumentParser, load_config
from model import GPT
from train import (
    Evaluation,
    Stop,
    compile_model,
    flops_per_token,
    make_optimizers,
    should_compile,
    token_lengths,
)

SCRIPTS = ("train_tokenizer.py", "prepare.py", "train.py", "sample.py", "plot_loss.py")


class Table:
    """The rows printed so far, for --json."""

    def __init__(self):
        self.rows = {}

    def add(self, name, value, unit, note=""):
        self.rows[name] = {"value": value, "unit": unit}
        print(f"{name:28} {value:12,.{0 if value >= 1000 else 1 if value >= 10 else 3}f} {unit:8} {note}", flush=True)


def seconds(work, device, repeats=10, at_most=10.0):
    """The median time of work(), after one that is not counted; fewer repeats if they take longer than at_most."""
    times = []
    while len(times) <= repeats and (len(times) < 3 or sum(times) < at_most):
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def measure_limits(table, device, dtype):
    """(FLOP/s of a large matrix product, bytes/s of reading memory): what nothing here can be faster than."""
    n = 4096 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    flops = 2 * n**3 / seconds(lambda: a @ b, device)
    table.add("matrix product", flops / 1e9, "GFLOP/s", f"{n} x {n}, {str(dtype).removeprefix('torch.')}")
    numbers = torch.ones(1 << 26 if device.type == "cpu" else 1 << 28, device=device)
    bandwidth = numbers.nbytes / seconds(numbers.sum, device)
    table.add("reading memory", bandwidth / 1e9, "GB/s", f"the sum of {numbers.nbytes / 1e6:.0f} MB")
    return flops, bandwidth


def measure_training(table, config, model, tokens, autocast, scaler):
    """The loop of train.py, with a clock between its parts. Returns FLOP/s."""
    device = tokens.device
    optimizers = make_optimizers(model, config)
    n_starts = len(tokens) - config.block_size
    n_micro = config.batch_size // config.micro_size
    forward, parameters = model, list(model.parameters())
    if should_compile(model, device):
        start = time.perf_counter()
        starts = block_starts(config.seed, 0, config.micro_size, n_starts)
        forward = compile_model(model, *tokens.blocks(starts), autocast)
        table.add("compiling", time.perf_counter() - start, "s")
    parts = {name: [] for name in ("batch", "forward", "backward", "clip", "optimizer")}

    def clock(name):
        nonlocal mark
        wait(device)
        now = time.perf_counter()
        parts[name][-1] += now - mark
        mark = now

    began = time.perf_counter()
    for step in range(1000):
        if step >= 10 and time.perf_counter() - began > 20:
            break
        for times in parts.values():
            times.append(0.0)
        mark = time.perf_counter()
        for part in np.split(block_starts(config.seed, step, config.batch_size, n_starts), n_micro):
            idx, targets = tokens.blocks(part)
            clock("batch")
            with autocast:
                loss = forward(idx, targets) / n_micro
            clock("forward")
            scaler.scale(loss).backward()
            clock("backward")
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or float("inf"))
        clock("clip")
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        model.zero_grad(set_to_none=True)
        clock("optimizer")

    step_time = statistics.median(sum(times) for times in list(zip(*parts.values(), strict=True))[3:])
    for name, times in parts.items():
        part_time = statistics.median(times[3:])
        table.add(f"step: {name}", 1000 * part_time, "ms", f"{part_time / step_time:.0%}")
    speed = config.batch_size * config.block_size / step_time
    table.add("training", speed, "tok/s", f"{config.batch_size} x {config.block_size} tokens a step")
    peak, whose = peak_memory(device)
    if peak:
        table.add("training: peak memory", peak / 1e6, "MB", whose)
    return speed * flops_per_token(model)


def measure_sampling(table, model, batch_size, bandwidth, n_tokens):
    device = model.embedding.weight.device
    prompt = torch.full((batch_size, 8), 5, device=device)

    def work():
        for _ in model.stream(prompt, n_tokens, seed=0):
            pass

    step_time = seconds(work, device, repeats=5) / n_tokens
    read = sum(p.nbytes for p in model.parameters()) / step_time / bandwidth
    table.add(f"sampling, batch of {batch_size}", batch_size / step_time, "tok/s", f"{read:.0%} of reading memory")


def measure_tokenizer(table, corpus, config, tokenizer, scratch):
    """Learning and encoding on a few megabytes of the corpus."""
    sample, _ = train_tokenizer.sample_corpus(corpus)
    sample = sample[: max(1, len(sample) // 4)]
    size = sum(len(text.encode()) for text in sample) / 1e6
    cpu = torch.device("cpu")
    learning = seconds(lambda: train_tokenizer.learn(train_tokenizer.new_tokenizer(), sample, config), cpu, 3)
    table.add("learning a tokenizer", size / learning, "MB/s", f"{config.vocab_size:,} tokens from {size:.1f} MB")
    encoding = seconds(lambda: tokenizer.encode_batch(sample, add_special_tokens=False), cpu, 3)
    table.add("encode_batch", size / encoding, "MB/s", "the tokenizers library alone")
    with open(Path(scratch) / "tokens.bin", "wb") as file:
        split = prepare.Split(file, "uint32", tokenizer.get_vocab_size())
        start = time.perf_counter()
        prepare.encode(corpus, tokenizer, {"train": split, "val": split})
        took = time.perf_counter() - start
    table.add("prepare.py", corpus.bytes / 1e6 / took, "MB/s", f"the whole corpus, {corpus.bytes / 1e6:.1f} MB")


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures, with hardware and versions, to a file")
    config, args = load_config(argv, parser)
    meta = read_meta(config.tokens_dir)
    device = pick_device(config.device)
    dtype, autocast, scaler = pick_arithmetic(config.dtype, device)
    set_up(device)
    table = Table()
    torch.manual_seed(config.seed)
    model = GPT(config, meta["vocab_size"]).to(device)
    hardware = f"{device.type} ({device_name(device)})"
    print(f"{hardware}, torch {torch.__version__}; {sum(model.parameter_counts()):,} parameters")

    flops = measure_training(table, config, model, Tokens(config, meta, "train", device), autocast, scaler)
    most, bandwidth = measure_limits(table, device, dtype)
    table.add("training: arithmetic", flops / 1e9, "GFLOP/s", f"{flops / most:.0%} of the matrix product")

    tokenizer = parse_tokenizer(read_tokenizer(config.tokens_dir), config.tokens_dir)
    few = dataclasses.replace(config, eval_tokens=20 * config.batch_size * config.block_size)
    evaluation = Evaluation(few, Tokens(few, meta, "val", device), token_lengths(tokenizer))
    took = seconds(lambda: evaluation.run(model, autocast, Stop()), device, 3)
    table.add("evaluation", len(evaluation.starts) * config.block_size / took, "tok/s")

    model.eval()
    for batch_size in (1, 32):
        measure_sampling(table, model, batch_size, bandwidth, min(200, config.block_size - 8))

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ckpt.pt"
        state = {"model": model.state_dict()}
        took = seconds(lambda: save_checkpoint(path, state), device, 5)
        table.add("writing weights", 1000 * took, "ms", f"{path.stat().st_size / 1e6:.0f} MB, flushed to the disk")
        measure_tokenizer(table, Corpus(config), config, tokenizer, scratch)

    for script in SCRIPTS:
        command = [sys.executable, Path(__file__).parent / script, "--help"]
        took = seconds(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True), device, 3)  # noqa: B023
        table.add(f"start-up: {script}", took, "s")

    if args.json:
        about = {
            "command": " ".join(["python", "bench.py", *args.argv]),
            "date": datetime.date.today().isoformat(),
            "hardware": hardware,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "config": config.changes(),
        }
        write_json(args.json, about | {"figures": table.rows}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
