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

import numpy as np

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
from tools import scaling
from tools.bench import seconds

FEWEST_CHARACTERS = 2_000
TITLE = '"""Chosen by tools.recipe'
WHY = {
    "vocab_size": "grows with the square root of the text",
    "n_embd": "the width, and n_layer with it, that will know the text best when the time is over",
    "batch_size": "grows slowly with the length of the run",
    "max_steps": "what the time is enough for",
    "learning_rate": "falls with the square root of n_embd",
    "embedding_lr": "falls with n_embd",
    "min_lr": "a fifteenth if the text is read once or twice; else high, because the weights are averaged",
    "weight_decay": "grows with the epochs, and takes the place of dropout",
}


# --- what is measured


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
    """(seconds of a step, seconds of each token in it) of a model, from batches of two sizes."""
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
    return max(1e-6, times[0] - few * per_token), per_token


def measure(config, minutes, n_parameters, precision, device):
    """(the text, the speeds of the models to choose from; if n_parameters is given, of the one next to it)."""
    n_tokens = read_meta(config.tokens_dir)["train"]["tokens"]
    shapes, sizes, speeds = {}, {}, {}
    for rung in scaling.LADDER:
        settings = scaling.settings_for(rung, scaling.PROBE_TOKENS, n_tokens)
        shapes[rung] = dataclasses.replace(config, **settings)
        sizes[rung] = scaling.count_parameters(shapes[rung], config.vocab_size)
    smallest = scaling.LADDER[0]
    # As many tokens are evaluated as in the runs that the law was fitted to.
    bits, times = probe(dataclasses.replace(shapes[smallest], eval_tokens=50_000), precision, device)
    text = scaling.probed(bits, sizes[smallest], n_tokens)
    if n_parameters:
        nearest = min(sizes, key=lambda rung: abs(math.log(sizes[rung] / n_parameters)))
        shapes = {nearest: shapes[nearest]}
    for rung, shape in shapes.items():
        speeds[rung] = (sizes[rung], *measure_speed(shape, precision, device))
        if scaling.choose(text, speeds, 4 * minutes).rung != rung:
            break  # Larger ones would not be chosen either.
    fast, slow = np.quantile(times, (0.1, 0.9))
    if slow > 1.5 * fast:
        print(f"warning: something else is at work here (a step took {1e3 * fast:.0f} to {1e3 * slow:.0f} ms)")
    return text, speeds


# --- the script


def print_table(text, speeds, minutes, name):
    """What a quarter of the time and four times as much would give, and from where on more would hardly help."""
    print("  minutes  parameters  epochs  bits per character, about")
    for n in (minutes / 4, minutes, 4 * minutes):
        run, mark = scaling.choose(text, speeds, n), f"   <- {name}" if n == minutes else ""
        epochs = format_number(run.tokens / text.tokens)
        print(f"{n:9.3g}{run.n_parameters / 1e6:11.1f}M{epochs:>8}{run.bits:9.2f}{mark}")
    least = 1.005 * scaling.choose(text, speeds, 1e9).bits
    enough = next(n for k in range(-8, 40) if scaling.choose(text, speeds, n := minutes * 2**k).bits < least)
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
        config = dataclasses.replace(config, vocab_size=scaling.vocab_size_for(corpus.bytes))
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
    text, speeds = measure(config, minutes, args.parameters, precision, device)
    if args.parameters and not args.minutes:  # What a model of this size makes good use of.
        [(n_parameters, *speed)] = speeds.values()
        minutes = scaling.two_digits(scaling.minutes_for(min(20 * n_parameters, 16 * text.tokens), *speed))

    # The choice
    run = scaling.choose(text, speeds, minutes)
    epochs, ratio = format_number(run.tokens / text.tokens), format_number(run.tokens / run.n_parameters)
    about = (
        f"for {minutes:g} minutes of training on {device.type} ({device_name(device)}).\n\n"
        f"{corpus.characters:,} characters are {text.tokens:,.0f} tokens for training and some for validation.\n"
        f"{run.n_parameters:,} parameters read {run.tokens:,.0f}: {epochs} epochs, {ratio} tokens per parameter.\n"
        f"Expect {run.bits:.2f} ± {scaling.ERROR * run.bits:.2f} bits per character on text that it has not seen.\n"
    )
    print(f"\n{about}")
    print_table(text, speeds, minutes, f"config/{path.name}")
    own |= {"corpus": str(Path(config.corpus).resolve())} if config.corpus else {}
    values = (own | scaling.settings_for(run.rung, run.tokens, text.tokens) | own).items()
    lines = [f"{key} = {value!r}" + (f"  # {WHY[key]}" if key in WHY else "") for key, value in values]
    write_text(path, f'{TITLE} {about}"""\n\n' + "\n".join(lines) + "\n")
    print(f"\nsaved {path}; next: python train.py config/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
