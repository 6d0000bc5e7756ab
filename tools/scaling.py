"""What docs/recipes.md found: how well a model will know a text, and the settings that bring it there.

tools.recipe chooses by it, and tools.lab.law fits it to runs.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from model import GPT

# (n_layer, n_head, n_embd, block_size) of the models to choose from, from 0.2 to 30 million parameters.
LADDER = ((2, 4, 64, 128), (3, 4, 96, 128), (3, 4, 128, 128), (4, 6, 192, 256), (4, 4, 256, 256))
LADDER += ((6, 6, 384, 256), (8, 8, 512, 256))
PROBE_TOKENS = 640_000  # The smallest model reads them to see how hard a text is.
FEW_EPOCHS = 2  # A text that is read more often wants a learning rate that stays high, and a longer average.
MOST_EPOCHS = 30  # More of them gained nothing where they were tried.
LAW = 4, 4, 0.15, 0.8412, 1.2918  # room, repeats, c, A, B, as python -m tools.lab.law fits them
ERROR = 0.015  # of its predictions for texts that it was not fitted to, relative


class Text(NamedTuple):
    tokens: float  # for training
    scale: float  # bits per character that no model and no time would go below


class Choice(NamedTuple):
    rung: tuple  # of LADDER
    n_parameters: int
    tokens: float
    bits: float  # per character, to be expected


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
    """Bits per character of a model after so many tokens of a text: scale · (1 + A / n^c + B / d^c)."""
    room, repeats, c, A, B = law
    n, d = what_counts(n_parameters, tokens, text.tokens, room, repeats)
    return text.scale * (1 + A / n**c + B / d**c)


def probed(bits, n_parameters, tokens, law=LAW) -> Text:
    """The text of so many tokens that a model of so many parameters knew that well after PROBE_TOKENS."""
    return Text(tokens, bits / expected_bits(n_parameters, PROBE_TOKENS, Text(tokens, 1.0), law))


def vocab_size_for(n_bytes) -> int:
    """A token must be seen often to be learned: 4,000 of them for 1.8 MB, and so on with the square root."""
    return max(300, min(5000, 100 * round(40 * math.sqrt(n_bytes / 1.8e6))))


def batch_tokens_for(tokens) -> float:
    return 1536 * (tokens / 1.536e6) ** (1 / 3)


def minutes_for(tokens, per_step, per_token) -> float:
    """Of a run, from the seconds of a step and of each token in it. A tenth goes into evaluations and samples."""
    return tokens * (per_step / batch_tokens_for(tokens) + per_token) / 54


def settings_for(rung, tokens, different) -> dict:
    """The settings of a run of so many tokens, on a text of so many different ones.

    For 《三国演义》 in two minutes they are those of config/tiny.py.
    """
    n_layer, n_head, n_embd, block_size = rung
    block_size = min(block_size, 2 ** int(math.log2(different / 18)))  # Validation, a ninth, needs two of them.
    batch_size = max(1, round(batch_tokens_for(tokens) / block_size))
    max_steps = max(10, int(two_digits(tokens / (batch_size * block_size))))
    learning_rate, epochs = two_digits(3e-3 * math.sqrt(128 / n_embd)), tokens / different
    min_lr, averaging = (learning_rate * 2 / 3, 0.2) if epochs > FEW_EPOCHS else (learning_rate / 15, 0.05)
    decay = min(0.024 * epochs, 0.5) * epochs / (learning_rate * max_steps)
    settings = {"n_layer": n_layer, "n_head": n_head, "n_kv_head": 2, "n_embd": n_embd, "block_size": block_size}
    settings |= {"batch_size": batch_size, "max_steps": max_steps, "optimizer": "muon", "learning_rate": learning_rate}
    settings |= {"embedding_lr": two_digits(2e-2 * 128 / n_embd), "min_lr": two_digits(min_lr)}
    settings |= {"warmup_steps": round(0.08 * max_steps), "beta2": 0.99, "weight_decay": max(0.1, two_digits(decay))}
    settings |= {"averaging": averaging, "eval_interval": max(1, max_steps // (4 if max_steps <= 2000 else 10))}
    if different / 9 > 0.04 * tokens:  # Evaluations shall take no more than a tenth of the time.
        settings["eval_tokens"] = int(two_digits(0.04 * tokens))
    return settings


def two_digits(x) -> float:
    return float(f"{x:.2g}")


def choose(text, speeds, minutes) -> Choice:
    """The best choice for so many minutes.

    speeds: {rung: (parameters, seconds of a step, seconds of each token in it)}.
    """
    choices = []
    for rung, (n_parameters, per_step, per_token) in speeds.items():
        tokens = 1e6
        for _ in range(30):  # The batch depends on the tokens, and their number on the batch.
            tokens *= minutes / minutes_for(tokens, per_step, per_token)
        tokens = min(tokens, MOST_EPOCHS * text.tokens)
        choices.append(Choice(rung, n_parameters, tokens, expected_bits(n_parameters, tokens, text)))
    return min(choices, key=lambda choice: choice.bits)


def count_parameters(config, n_rows) -> int:
    """Those of a model that is not made."""
    with torch.device("meta"):
        return sum(GPT(config, n_rows).parameter_counts())
