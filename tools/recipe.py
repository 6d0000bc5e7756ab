"""Choose a config for your text, your machine and your time.

    python -m tools.recipe novel.txt [--minutes=10] [--parameters=2e6] [--overwrite] [--key=value ...]

Reads   the text: a file or a folder, as train_tokenizer.py does, with the same flags
Writes  config/novel.py, with a word on each value that was chosen

It learns a tokenizer from a part of the text, trains the smallest model for some seconds to see how hard the text is,
times a few steps of larger ones, and takes the size that will know the text best when the time is over. How well that
will be comes from a law that was fitted to trainings on parts of three texts: docs/recipes.md.
"""

import dataclasses
import math
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import train
import train_tokenizer
from config import FIELDS, ROOT, load_config
from lib.errors import ArgumentParser, UserError, in_range, reports_errors
from lib.machine.compilation import compile_and_wrap
from lib.machine.device import device_name, pick_device, pick_precision, set_up
from lib.machine.terminal import format_number
from lib.storage import write_text
from lib.text.corpus import Corpus
from lib.tokens.tokenizer import encode_texts, parse_tokenizer, special_ids, token_lengths
from model import GPT

# n_layer, n_head, n_embd, block_size of the models to choose from, from 0.2 to 30 million parameters.
LADDER = (
    (2, 4, 64, 128),
    (3, 4, 96, 128),
    (3, 4, 128, 128),
    (4, 6, 192, 256),
    (4, 4, 256, 256),
    (6, 6, 384, 256),
    (8, 8, 512, 256),
)
FEWEST_CHARACTERS, LONGEST_SAMPLE = 2_000, 2_000_000
PROBE_TOKENS = 640_000  # The smallest model reads them to see how hard a text is.
TITLE = '"""Chosen by tools.recipe'
WHY = {
    "corpus": "your text",
    "vocab_size": "grows with the square root of the text",
    "n_layer": "the size that will know the text best when the time is over",
    "batch_size": "grows slowly with the length of the run",
    "max_steps": "what the time is enough for",
    "learning_rate": "falls with the square root of n_embd",
    "embedding_lr": "falls with n_embd",
    "min_lr": "stays high, because the weights are averaged",
    "weight_decay": "grows with the epochs, and takes the place of dropout",
}


class Text(NamedTuple):
    """What the choice depends on: the tokens for training, and what the probe reached, in bits per character."""

    tokens: float
    probe: float


class Choice(NamedTuple):
    """A run: a rung of LADDER and its number of parameters, the tokens it reads, the bits per character to expect."""

    rung: tuple
    n_parameters: int
    tokens: float
    bits: float


# --- what docs/recipes.md found


def expected_bits(n_parameters, tokens, text) -> float:
    """The bits per character of a model after so many tokens of a text, see tools/lab/law.py."""
    n, d, u = n_parameters / 1e6, tokens / 1e6, text.tokens / 1e6
    return text.probe * (0.72 + 0.0684 * n**-0.289 + 0.113 * d**-0.515 + 0.0274 * u**-0.368)


def vocab_size_for(n_bytes) -> int:
    """A token must be seen often to be learned: 4,000 of them for 1.8 MB, and so on with the square root."""
    return max(300, min(5000, 100 * round(40 * math.sqrt(n_bytes / 1.8e6))))


def batch_tokens_for(tokens) -> float:
    return 1536 * (tokens / 1.536e6) ** (1 / 3)


def recipe(rung, tokens, text) -> dict:
    """The settings of a run of so many tokens. Where config/tiny.py was tuned, they are its own."""
    n_layer, n_head, n_embd, block_size = rung
    block_size = min(block_size, 2 ** int(math.log2(text.tokens / 18)))  # Validation, a ninth, needs two of them.
    batch_size = max(1, round(batch_tokens_for(tokens) / block_size))
    max_steps = int(two_digits(tokens / (batch_size * block_size)))
    learning_rate, epochs = two_digits(3e-3 * math.sqrt(128 / n_embd)), tokens / text.tokens
    decay = min(0.024 * epochs, 0.5) * epochs / (learning_rate * max_steps)
    settings = {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_kv_head": 2,
        "n_embd": n_embd,
        "block_size": block_size,
        "batch_size": batch_size,
        "max_steps": max_steps,
        "optimizer": "muon",
        "learning_rate": learning_rate,
        "embedding_lr": two_digits(2e-2 * 128 / n_embd),
        "min_lr": two_digits(learning_rate * 2 / 3),
        "warmup_steps": round(0.08 * max_steps),
        "beta2": 0.99,
        "weight_decay": max(0.1, two_digits(decay)),
        "averaging": 0.2,
        "eval_interval": max(1, max_steps // (4 if max_steps <= 2000 else 10)),
    }
    if text.tokens / 9 > 0.04 * tokens:  # Evaluations take no more than a tenth of the time.
        settings["eval_tokens"] = int(two_digits(0.04 * tokens))
    return settings


def two_digits(x) -> float:
    return float(f"{x:.2g}")


def choose(text, speeds, minutes) -> Choice:
    """The best run of so many minutes, of which nine tenths go into its steps.

    speeds: {rung: (parameters, seconds of a step, seconds of each token in it)}.
    """
    choices = []
    for rung, (n_parameters, per_step, per_token) in speeds.items():
        tokens = 1e6
        for _ in range(30):  # The batch depends on the tokens, and their number on the batch.
            tokens = 54 * minutes / (per_step / batch_tokens_for(tokens) + per_token)
        choices.append(Choice(rung, n_parameters, tokens, expected_bits(n_parameters, tokens, text)))
    return min(choices, key=lambda choice: choice.bits)


# --- what is measured


class Sample:
    """The token ids of a part of the text, as train.py reads them: see lib/tokens/memmap.py."""

    def __init__(self, texts, tokenizer, config, device):
        bos, eos = special_ids(tokenizer, config, "the new tokenizer")
        ids = np.concatenate([[bos, *ids, eos] for ids in encode_texts(tokenizer, texts)])
        self.ids, self.block_size = torch.from_numpy(ids).to(device), config.block_size
        self.n_offsets = len(ids) - self.block_size

    def blocks(self, offsets):
        places = offsets[:, None] + np.arange(self.block_size + 1)
        return self.ids[torch.from_numpy(places).to(self.ids.device)]

    def windows(self, limit):
        return np.arange(0, self.n_offsets, self.block_size)[: limit // self.block_size]


def probe(config, tokenizer, train_tokens, val_tokens, precision, device):
    """Train a model as train.py does. Returns (its bits per character, the seconds of each step)."""
    lengths = torch.from_numpy(np.stack(token_lengths(tokenizer))).to(device)
    state, times = train.new_state(config, tokenizer.get_vocab_size(), precision, device), []
    for step in range(config.max_steps):
        start = time.perf_counter()
        train.set_lr(state.optimizer, step, config)
        loss, _ = train.train_step(state.model, state.optimizer, train_tokens, step, config, precision)
        train.average_weights(state.average, state.model, step, config.averaging)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
    return train.evaluate(state.average, val_tokens, lengths, config, precision)["val_bpc"], times


def measure_speed(config, n_rows, tokens, precision, device):
    """(parameters, seconds of a step, seconds of each token in it) of a model, from batches of two sizes."""
    sizes, medians = (1536, 6144), []
    for size in sizes:
        config = dataclasses.replace(config, batch_size=max(1, size // config.block_size))
        model, times = GPT(config, n_rows).to(device), []
        optimizer, compiled = train.make_optimizer(model, config, precision), compile_and_wrap(model, precision)
        while len(times) < 4 or (len(times) < 100 and sum(times) < 0.5):
            start = time.perf_counter()
            train.train_step(compiled, optimizer, tokens, len(times), config, precision)[0].item()
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times[1:]))
    per_token = max(0.0, (medians[1] - medians[0]) / (sizes[1] - sizes[0]))
    return sum(model.parameter_counts()), max(1e-6, medians[0] - sizes[0] * per_token), per_token


# --- the script


def find_place(config, overwrite) -> Path:
    """Where the config goes. Raises UserError if there is one that must stay."""
    path = ROOT / "config" / f"{config.dataset}.py"
    if path.exists() and not path.read_text(encoding="utf-8").startswith(TITLE):
        raise UserError(f"{path} is not one that this tool wrote; name yours with --dataset=my_{config.dataset}")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there; --overwrite replaces it, --dataset=NAME writes another")
    return path


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=in_range(float, 0.01, 1e6), help="for the training [10]")
    parser.add_argument("--parameters", type=in_range(float, 1e4, 1e9), help="of the model, about [what suits]")
    parser.add_argument("--overwrite", action="store_true", help="replace a config that it wrote before")
    argv = sys.argv[1:] if argv is None else list(argv)
    named = next((word for word in argv if not word.startswith("-")), None)
    config, args = load_config([f"--corpus={word}" if word is named else word for word in argv], parser)
    path = find_place(config, args.overwrite)

    # The text
    start = time.perf_counter()
    corpus = Corpus(config)
    corpus.describe()
    if corpus.characters < FEWEST_CHARACTERS:
        raise UserError(f"{corpus.characters:,} characters are too few; {FEWEST_CHARACTERS:,} make a toy, 100,000 a model")
    if "vocab_size" not in args.given:
        config = dataclasses.replace(config, vocab_size=vocab_size_for(corpus.bytes))
    sample, held_out = train_tokenizer.sample_corpus(corpus)
    sample = sample[:: 1 + sum(map(len, sample)) // LONGEST_SAMPLE]
    tokenizer = train_tokenizer.new_tokenizer()
    train_tokenizer.learn(tokenizer, sample, config)
    tokenizer = parse_tokenizer(tokenizer.to_str(), "the new tokenizer")
    characters, reading = sum(map(len, sample)), (time.perf_counter() - start) / 60
    minutes = args.minutes or 10.0
    if minutes < reading:
        raise UserError(f"--minutes={minutes:g}: it takes {reading:.1f} to learn a tokenizer, and training comes after it")

    # The machine
    device = pick_device(config.device, GPT, config, config.dtype)
    precision = pick_precision(config.dtype, device)
    set_up(device)
    n_tokens = sum(len(ids) + 2 for ids in encode_texts(tokenizer, sample)) / characters
    n_tokens *= corpus.characters * (1 if corpus.val else 1 - config.val_fraction)
    text = Text(n_tokens, 0.0)
    config = dataclasses.replace(config, **recipe(LADDER[0], PROBE_TOKENS, text))
    tokens, val_tokens = (Sample(texts, tokenizer, config, device) for texts in (sample, held_out))
    bits, times = probe(config, tokenizer, tokens, val_tokens, precision, device)
    text = text._replace(probe=bits)
    speeds = {}
    for rung in LADDER:
        settings = recipe(rung, 1e6, text) | {"compile": "on" if device.type == "cuda" else "off"}
        config = dataclasses.replace(config, **settings)
        tokens = Sample(sample, tokenizer, config, device)
        speeds[rung] = measure_speed(config, tokenizer.get_vocab_size(), tokens, precision, device)
        if choose(text, speeds, 16 * minutes).rung != rung:
            break  # Larger ones would not be chosen either.
    print(text, speeds, reading)
    for m in (minutes / 4, minutes, 4 * minutes):
        c = choose(text, speeds, m)
        print(m, c, c.tokens / text.tokens)
    print(recipe(choose(text, speeds, minutes).rung, choose(text, speeds, minutes).tokens, text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
