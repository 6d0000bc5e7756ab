"""Choose a config for your text, your machine and your time.

    python -m tools.recipe novel.txt [--minutes=10] [--parameters=2e6] [--overwrite] [--key=value ...]

Reads   the text: a file or a folder, as train_tokenizer.py does, with the same flags
Writes  config/novel.py, with a word on each value that was chosen, and what it needs: a tokenizer and the tokens

It trains a small model for some seconds to see how hard the text is, times steps of larger ones, and takes the size
that will know the text best when the time is over. What it goes by was measured: docs/recipes.md.
"""

import contextlib
import dataclasses
import functools
import io
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import prepare
import train
import train_tokenizer
from config import ROOT, load_config
from lib.errors import ArgumentParser, UserError, in_range, reports_errors
from lib.machine.compilation import compile_and_wrap
from lib.machine.device import device_name, pick_device, pick_precision, set_up
from lib.machine.terminal import format_number
from lib.storage import write_text
from lib.text.corpus import Corpus
from lib.tokens.memmap import Data
from lib.tokens.prepared import read_meta
from model import GPT
from tools.bench import seconds

# (n_layer, n_head, n_embd, block_size) of the models to choose from, from 0.2 to 30 million parameters.
LADDER = ((2, 4, 64, 128), (3, 4, 96, 128), (3, 4, 128, 128), (4, 6, 192, 256), (4, 4, 256, 256))
LADDER += ((6, 6, 384, 256), (8, 8, 512, 256))
FEWEST_CHARACTERS = 2_000
MOST_EPOCHS = 30  # Then a text is known by heart.
PROBE_TOKENS = 640_000  # The smallest model reads them to see how hard a text is.
TITLE = '"""Chosen by tools.recipe'
WHY = {
    "vocab_size": "grows with the square root of the text",
    "n_embd": "the width, and n_layer with it, that will know the text best when the time is over",
    "batch_size": "grows slowly with the length of the run",
    "max_steps": "what the time is enough for",
    "learning_rate": "falls with the square root of n_embd",
    "embedding_lr": "falls with n_embd",
    "min_lr": "stays high, because the weights are averaged",
    "weight_decay": "grows with the epochs, and takes the place of dropout",
}


class Text(NamedTuple):
    tokens: float  # for training
    scale: float  # bits per character that no model and no time would go below


class Run(NamedTuple):
    rung: tuple  # of LADDER
    n_parameters: int
    tokens: float
    bits: float  # per character, to be expected


# --- what docs/recipes.md found


LAW = 3, 4, 0.2, 0.2, 0.3722, 0.6284  # room, repeats, a, b, A, B, as python -m tools.lab.law fits them


def what_counts(n_parameters, tokens, different, room, repeats):
    """The parameters and the tokens that count, in millions (https://arxiv.org/abs/2305.16264).

    A text has room for so many parameters a token; what exceeds them counts less and less. What is read again counts
    less each time, and all repetitions together are worth `repeats` times the text. different: its tokens.
    """
    n = room * different * -np.expm1(-n_parameters / (room * different))
    again = np.maximum(tokens / different - 1, 0)
    d = np.minimum(tokens, different) + repeats * different * -np.expm1(-again / repeats)
    return n / 1e6, d / 1e6


def expected_bits(n_parameters, tokens, text, law=LAW):
    """Bits per character of a model after so many tokens of a text: scale · (1 + A / n^a + B / d^b)."""
    room, repeats, a, b, A, B = law
    n, d = what_counts(n_parameters, tokens, text.tokens, room, repeats)
    return text.scale * (1 + A / n**a + B / d**b)


def vocab_size_for(n_bytes) -> int:
    """A token must be seen often to be learned: 4,000 of them for 1.8 MB, and so on with the square root."""
    return max(300, min(5000, 100 * round(40 * math.sqrt(n_bytes / 1.8e6))))


def batch_tokens_for(tokens) -> float:
    return 1536 * (tokens / 1.536e6) ** (1 / 3)


def recipe(rung, tokens, text) -> dict:
    """The settings of a run of so many tokens. For 《三国演义》 in two minutes they are those of config/tiny.py."""
    n_layer, n_head, n_embd, block_size = rung
    block_size = min(block_size, 2 ** int(math.log2(text.tokens / 18)))  # Validation, a ninth, needs two of them.
    batch_size = max(1, round(batch_tokens_for(tokens) / block_size))
    max_steps = max(10, int(two_digits(tokens / (batch_size * block_size))))
    learning_rate, epochs = two_digits(3e-3 * math.sqrt(128 / n_embd)), tokens / text.tokens
    decay = min(0.024 * epochs, 0.5) * epochs / (learning_rate * max_steps)
    settings = {"n_layer": n_layer, "n_head": n_head, "n_kv_head": 2, "n_embd": n_embd, "block_size": block_size}
    settings |= {"batch_size": batch_size, "max_steps": max_steps, "optimizer": "muon", "learning_rate": learning_rate}
    settings |= {"embedding_lr": two_digits(2e-2 * 128 / n_embd), "min_lr": two_digits(learning_rate * 2 / 3)}
    settings |= {"warmup_steps": round(0.08 * max_steps), "beta2": 0.99, "weight_decay": max(0.1, two_digits(decay))}
    settings |= {"averaging": 0.2, "eval_interval": max(1, max_steps // (4 if max_steps <= 2000 else 10))}
    if text.tokens / 9 > 0.04 * tokens:  # Evaluations shall take no more than a tenth of the time.
        settings["eval_tokens"] = int(two_digits(0.04 * tokens))
    return settings


def two_digits(x) -> float:
    return float(f"{x:.2g}")


def choose(text, speeds, minutes) -> Run:
    """The best run of so many minutes, of which nine tenths go into its steps.

    speeds: {rung: (parameters, seconds of a step, seconds of each token in it)}.
    """
    runs = []
    for rung, (n_parameters, per_step, per_token) in speeds.items():
        tokens = 1e6
        for _ in range(30):  # The batch depends on the tokens, and their number on the batch.
            tokens = 54 * minutes / (per_step / batch_tokens_for(tokens) + per_token)
        tokens = min(tokens, MOST_EPOCHS * text.tokens)
        runs.append(Run(rung, n_parameters, tokens, expected_bits(n_parameters, tokens, text)))
    return min(runs, key=lambda run: run.bits)


# --- what is measured


def count_parameters(config, n_rows) -> int:
    """Those of a model that is not made."""
    with torch.device("meta"):
        return sum(GPT(config, n_rows).parameter_counts())


def probe(config, precision, device):
    """Train a small model as train.py does. Returns (its bits per character, the seconds of each step)."""
    data = Data(config, {}, device)
    state, times = train.new_state(config, data.meta["vocab_size"], precision, device), []
    for step in range(config.max_steps):
        start = time.perf_counter()
        train.set_lr(state.optimizer, step, config)
        loss, _ = train.train_step(state.model, state.optimizer, data.train, step, config, precision)
        train.average_weights(state.average, state.model, step, config.averaging)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
    return train.evaluate(state.average, data.val, data.lengths, config, precision)["val_bpc"], times


def measure_speed(config, precision, device):
    """(parameters, seconds of a step, seconds of each token in it) of a model, from batches of two sizes."""
    config = dataclasses.replace(config, compile="on" if device.type == "cuda" else "off")
    data = Data(config, {}, device)
    few, many, times = 768, 3072, []
    for size in (few, many):
        config = dataclasses.replace(config, batch_size=max(1, size // config.block_size))
        model = GPT(config, data.meta["vocab_size"]).to(device)
        optimizer, compiled = train.make_optimizer(model, config, precision), compile_and_wrap(model, precision)
        step = functools.partial(train.train_step, compiled, optimizer, data.train, 0, config, precision)
        times.append(seconds(step, repeats=50, at_most=0.5))
    per_token = max(0.0, (times[1] - times[0]) / (many - few))
    return sum(model.parameter_counts()), max(1e-6, times[0] - few * per_token), per_token


# --- the script


def print_table(text, speeds, minutes, name):
    """What a quarter of the time and four times as much would give, and from where on more would hardly help."""
    print("  minutes  parameters  epochs  bits per character, about")
    for n in (minutes / 4, minutes, 4 * minutes):
        run, mark = choose(text, speeds, n), f"   <- {name}" if n == minutes else ""
        epochs = format_number(run.tokens / text.tokens)
        print(f"{n:9.3g}{run.n_parameters / 1e6:11.1f}M{epochs:>8}{run.bits:9.2f}{mark}")
    least = 1.005 * choose(text, speeds, 1e9).bits
    enough = next(n for k in range(-8, 40) if choose(text, speeds, n := minutes * 2**k).bits < least)
    if enough <= 4 * minutes:
        print(f"more than about {enough:.2g} minutes would hardly help: the text is too short")


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=in_range(float, 0.01, 1e6), help="for the training [10]")
    parser.add_argument("--parameters", type=in_range(float, 1e4, 1e9), help="of the model, about [what suits]")
    parser.add_argument("--overwrite", action="store_true", help="replace a config that it wrote before")
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and not argv[0].startswith("-"):
        argv[0] = f"--corpus={argv[0]}"
    config, args = load_config(argv, parser)
    path, minutes = ROOT / "config" / f"{config.dataset}.py", args.minutes or 10.0
    if path.exists() and not (args.overwrite and path.read_text(encoding="utf-8").startswith(TITLE)):
        hint = "--overwrite replaces one that this tool wrote, --dataset=NAME writes another"
        raise UserError(f"{path} is there; {hint}")

    # The text, its tokenizer and its tokens
    start = time.perf_counter()
    corpus = Corpus(config)
    corpus.describe()
    if corpus.characters < FEWEST_CHARACTERS:
        least = f"{FEWEST_CHARACTERS:,} make a toy, and 100,000 a model that writes"
        raise UserError(f"{corpus.characters:,} characters are too few to learn from: {least}")
    if corpus.characters < 50_000:
        print("note: from so short a text a model learns words, not sentences; 100,000 characters make it write")
    if "vocab_size" not in args.given:
        config = dataclasses.replace(config, vocab_size=vocab_size_for(corpus.bytes))
    own = {key: getattr(config, key) for key in ("dataset", *args.given, "vocab_size")}
    words = [f"--{key}={value}" for key, value in own.items()]
    with contextlib.redirect_stdout(io.StringIO()):
        if train_tokenizer.main(words) or prepare.main(words):
            return 1  # They have said why.
    if minutes < (reading := (time.perf_counter() - start) / 60):
        raise UserError(f"--minutes={minutes:g}: the tokens alone take {reading:.2g}, and training comes after them")

    # The machine
    print("training a small model for some seconds, and timing steps of larger ones …", flush=True)
    device = pick_device(config.device, GPT, config, config.dtype)
    precision = pick_precision(config.dtype, device)
    set_up(device)
    text, speeds = Text(read_meta(config.tokens_dir)["train"]["tokens"], 1.0), {}
    shapes = {rung: dataclasses.replace(config, **recipe(rung, PROBE_TOKENS, text)) for rung in LADDER}
    small = dataclasses.replace(shapes[LADDER[0]], eval_tokens=50_000)  # As in the runs that the law was fitted to.
    bits, times = probe(small, precision, device)
    sizes = {rung: count_parameters(shape, config.vocab_size) for rung, shape in shapes.items()}
    text = text._replace(scale=bits / expected_bits(sizes[LADDER[0]], PROBE_TOKENS, text))
    if args.parameters:
        nearest = min(sizes, key=lambda rung: abs(math.log(sizes[rung] / args.parameters)))
        shapes = {nearest: shapes[nearest]}
    for rung, shape in shapes.items():
        speeds[rung] = measure_speed(shape, precision, device)
        if choose(text, speeds, 4 * minutes).rung != rung:
            break  # Larger ones would not be chosen either.
    fast, slow = np.quantile(times, (0.1, 0.9))
    if slow > 1.5 * fast:
        print(f"warning: something else is at work here (a step took {1e3 * fast:.0f} to {1e3 * slow:.0f} ms)")
    if args.parameters and not args.minutes:  # What a model of this size makes good use of.
        [(n_parameters, per_step, per_token)] = speeds.values()
        tokens = min(20 * n_parameters, 16 * text.tokens)
        minutes = float(f"{tokens * (per_step / batch_tokens_for(tokens) + per_token) / 54:.2g}")

    # The choice
    run = choose(text, speeds, minutes)
    epochs, ratio = format_number(run.tokens / text.tokens), format_number(run.tokens / run.n_parameters)
    about = (
        f"for {minutes:g} minutes of training on {device.type} ({device_name(device)}).\n\n"
        f"{corpus.characters:,} characters are {text.tokens:,.0f} tokens for training and some for validation.\n"
        f"{run.n_parameters:,} parameters read {run.tokens:,.0f}: {epochs} epochs, {ratio} tokens per parameter.\n"
        f"About {run.bits:.2f} bits per character are to be expected on text that the model has not seen.\n"
    )
    print(f"\n{about}")
    print_table(text, speeds, minutes, f"config/{path.name}")
    own |= {"corpus": str(Path(config.corpus).resolve())} if config.corpus else {}
    values = (own | recipe(run.rung, run.tokens, text) | own).items()
    lines = [f"{key} = {value!r}" + (f"  # {WHY[key]}" if key in WHY else "") for key, value in values]
    write_text(path, f'{TITLE} {about}"""\n\n' + "\n".join(lines) + "\n")
    print(f"\nsaved {path}; next: python train.py config/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
