"""Measure how fast everything is on this machine, and how far from what the machine can do.

    python -m tools.bench config/small.py --batch_size=8 [--json FILE]

Reads   data/<dataset>/ as prepared for train.py
Prints  one table: a training step and its parts, evaluation, checkpoints, tokenizer, sampling, start-up

A figure of a noisy machine says little; ratios taken in one run say more. Each is a median.
"""

import datetime
import io
import itertools
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import prepare
import train
import train_tokenizer
from config import load_config
from lib import qwen3
from lib.errors import ArgumentParser, reports_errors
from lib.generation import Sampling, stream
from lib.machine import distributed
from lib.machine.compilation import compile_and_wrap, flops_per_token
from lib.machine.device import computes_like_cpu, device_name, peak_memory, pick_device, pick_precision, set_up
from lib.run.checkpoint import save_checkpoint
from lib.storage import write_json
from lib.text.corpus import Corpus
from lib.tokens.memmap import Data
from model import GPT

SCRIPTS = ("train_tokenizer.py", "prepare.py", "train.py", "sample.py", "plot_loss.py")


def add(figures, name, value, unit, note=""):
    """Print a row of the table, and keep its figure for --json."""
    figures[name] = {"value": value, "unit": unit}
    print(f"{name:28} {value:12,.{0 if value >= 1000 else 1 if value >= 10 else 3}f} {unit:8} {note}", flush=True)


def seconds(work, repeats=10, at_most=10.0):
    """The median time of work(), after one call that is not counted; fewer repeats if they take over at_most."""
    times = []
    while len(times) <= repeats and (len(times) < 3 or sum(times) < at_most):
        start = time.perf_counter()
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure_limits(figures, device, dtype):
    """(FLOP/s of a large matrix product, bytes/s of reading memory): what nothing here can be faster than."""
    n = 4096 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    flops = 2 * n**3 / seconds(lambda: a @ b)
    add(figures, "matrix product", flops / 1e9, "GFLOP/s", f"{n} x {n}, {str(dtype).removeprefix('torch.')}")
    numbers = torch.ones(1 << 26 if device.type == "cpu" else 1 << 28, device=device)
    bandwidth = numbers.nbytes / seconds(numbers.sum)
    add(figures, "reading memory", bandwidth / 1e9, "GB/s", f"the sum of {numbers.nbytes / 1e6:.0f} MB")
    return flops, bandwidth


def measure_training(figures, config, model, tokens, precision):
    """The training step of train.py, and two of its parts by themselves. Returns FLOP/s."""
    device = tokens.device
    optimizer = train.make_optimizer(model, config, precision)
    trained = compile_and_wrap(model, precision)
    steps = itertools.count()
    offsets = train.batch_offsets(config.seed, 0, config.batch_size, config.block_size, tokens.n_offsets)

    # A GPU is waited for after several steps, since it computes one while the host prepares the next.
    n_steps = 1 if device.type == "cpu" else 20

    def train_some():
        for _ in range(n_steps):
            train.train_step(trained, optimizer, tokens, next(steps), config, precision)

    def forward_only():
        for micro_batch in offsets.reshape(-1, distributed.micro_batch_size(config)):
            with precision.autocast:
                trained(*train.get_batch(tokens, micro_batch))

    whole = seconds(train_some, repeats=1000, at_most=20) / n_steps
    add(figures, "training step", 1000 * whole, "ms", f"{config.batch_size} x {config.block_size} tokens")
    for name, work in (("get_batch", lambda: train.get_batch(tokens, offsets)), ("get_batch, forward", forward_only)):
        part = seconds(work)
        add(figures, f"of it: {name}", 1000 * part, "ms", f"{part / whole:.0%}, measured by itself")
    speed = config.batch_size * config.block_size / whole
    add(figures, "training", speed, "tok/s")
    peak, whose = peak_memory(device)
    if peak:
        add(figures, "training: peak memory", peak / 1e6, "MB", whose)
    return speed * flops_per_token(model)


def measure_sampling(figures, model, batch_size, bandwidth, n_tokens):
    prompt = torch.full((batch_size, 8), 5, device=model.embedding.weight.device)
    step_time = seconds(lambda: list(stream(model, prompt, n_tokens, Sampling(seed=0))), repeats=5) / n_tokens
    read = sum(p.nbytes for p in model.parameters()) / step_time / bandwidth
    add(figures, f"sampling, batch of {batch_size}", batch_size / step_time, "tok/s", f"{read:.0%} of reading memory")


def time_tokenizer(figures, corpus, config, tokenizer):
    """Learning and encoding on a few megabytes of the corpus."""
    sample, _ = train_tokenizer.sample_corpus(corpus)
    sample = sample[: max(1, len(sample) // 4)]
    size = sum(len(text.encode()) for text in sample) / 1e6
    learning = seconds(lambda: train_tokenizer.learn(train_tokenizer.new_tokenizer(), sample, config), 3)
    add(figures, "learning a tokenizer", size / learning, "MB/s", f"{config.vocab_size:,} tokens from {size:.1f} MB")
    encoding = seconds(lambda: tokenizer.encode_batch(sample, add_special_tokens=False), 3)
    add(figures, "encode_batch", size / encoding, "MB/s", "the tokenizers library alone")
    file = prepare.TokenFile(io.BytesIO(), tokenizer.get_vocab_size())
    start = time.perf_counter()
    prepare.encode(corpus, tokenizer, {"train": file, "val": file})
    took = time.perf_counter() - start
    add(figures, "prepare.py", corpus.bytes / 1e6 / took, "MB/s", f"the whole corpus, {corpus.bytes / 1e6:.1f} MB")


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures, with hardware and versions, to a file")
    config, args = load_config(argv, parser)
    config = qwen3.with_shape_of_init(config, args.given)
    device = pick_device(config.device, GPT, config, config.dtype)
    precision = pick_precision(config.dtype, device)
    set_up(device)
    data = Data(config, args.given, device)
    figures = {}
    torch.manual_seed(config.seed)
    model = GPT(config, data.meta["vocab_size"]).to(device)
    hardware = f"{device.type} ({device_name(device)})"
    print(f"{hardware}, torch {torch.__version__}; {sum(model.parameter_counts()):,} parameters")

    print(f"beside the CPU in float32: {computes_like_cpu(device, GPT, config, config.dtype)}")
    flops = measure_training(figures, config, model, data.train, precision)
    most, bandwidth = measure_limits(figures, device, precision.dtype)
    add(figures, "training: arithmetic", flops / 1e9, "GFLOP/s", f"{flops / most:.0%} of the matrix product")

    took = seconds(lambda: train.evaluate(model, data.val, data.lengths, config, precision), 3)
    n_tokens = len(data.val.windows(config.eval_tokens)) * config.block_size
    add(figures, "evaluation", n_tokens / took, "tok/s", f"{n_tokens:,} tokens")

    model.eval()
    for batch_size in (1, 32):
        measure_sampling(figures, model, batch_size, bandwidth, min(200, config.block_size - 8))

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ckpt.pt"
        took = seconds(lambda: save_checkpoint(path, {"model": model.state_dict()}), 5)
        add(figures, "writing weights", 1000 * took, "ms", f"{path.stat().st_size / 1e6:.0f} MB, flushed to the disk")
    time_tokenizer(figures, Corpus(config), config, data.tokenizer)

    for script in SCRIPTS:
        command = [sys.executable, Path(__file__).parent.parent / script, "--help"]
        took = seconds(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True), 3)  # noqa: B023
        add(figures, f"start-up: {script}", took, "s")

    if args.json:
        about = {
            "command": " ".join(["python -m tools.bench", *args.argv]),
            "date": datetime.date.today().isoformat(),
            "hardware": hardware,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "config": config.changes(),
        }
        write_json(args.json, about | {"figures": figures}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
