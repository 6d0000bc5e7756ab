"""Let nanoGPT and config/tiny.py learn the same texts: how soon does each know what the other knows at its end?

    python -m tools.lab.race NANOGPT_FOLDER [--json FILE]

Needs the corpora of data/sanguo.py and data/shakespeare.py, and a clone of https://github.com/karpathy/nanoGPT. Of
Shakespeare's works it takes as many characters as tiny Shakespeare has. See docs/comparison.md.

nanoGPT trains with its recipe for a CPU, on the characters of the same training text. What each has learned is measured
in bits per character of the whole validation text. Both compute in float32, not compiled. Seconds are those of training
alone: to start, to evaluate and to save does not count.
"""

import datetime
import itertools
import json
import math
import pickle
import re
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import config
import prepare
import train_tokenizer
from lib.errors import ArgumentParser, reports_errors
from lib.storage import read_text, write_json, write_text
from lib.tokens.memmap import Data
from lib.tokens.tokenizer import token_bytes
from tools.lab.experiments import train_records
from tools.lab.peers import iteration_times, load_nanogpt, train_nanogpt

ENGLISH = "shakespeare_1mb"
RACES = {"sanguo": [], ENGLISH: ["--vocab_size=1024"]}  # with the flags that config/tiny.py needs for them
ENGLISH_CHARACTERS = 1_115_394
NANOGPT_RECIPE = {"eval_iters": 20, "block_size": 64, "batch_size": 12, "n_layer": 4, "n_head": 4, "n_embd": 128}
NANOGPT_RECIPE |= {"max_iters": 2000, "lr_decay_iters": 2000}


# --- the same text for both


def write_english():
    """Write the beginning of Shakespeare's works as a corpus of its own, unless it is there."""
    path = config.ROOT / "data" / ENGLISH / "corpus.txt"
    if not path.exists():
        works = read_text(config.ROOT / "data" / "shakespeare" / "corpus.jsonl", "run: python data/shakespeare.py")
        text = "".join(json.loads(line)["text"] for line in works.split("\n") if line)
        path.parent.mkdir(exist_ok=True)
        write_text(path, text[:ENGLISH_CHARACTERS])


def read_splits(settings) -> dict:
    """{split: its text}, which is what the tokens stand for, without the special ones."""
    data = Data(settings, {}, torch.device("cpu"))
    pieces, texts = token_bytes(data.tokenizer), {}
    for split, tokens in (("train", data.train), ("val", data.val)):
        texts[split] = b"".join(pieces[i] for i in tokens.head(tokens.n_tokens)).decode()
        assert len(texts[split]) == data.meta[split]["characters"]
    return texts


# --- nanoGPT


def race_nanogpt(folder, texts):
    """(seconds, bits per character) of the last checkpoint that it saves: of the weights it takes for its best."""
    numbers = {character: i for i, character in enumerate(sorted(set(texts["train"] + texts["val"])))}
    ids = {split: np.array([numbers[c] for c in text], dtype=np.uint16) for split, text in texts.items()}
    with tempfile.TemporaryDirectory() as data:
        for split in ids:
            ids[split].tofile(Path(data) / f"{split}.bin")
        (Path(data) / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(numbers)}))
        printed = train_nanogpt(folder, data, NANOGPT_RECIPE)
        checkpoint = torch.load(Path(data) / "ckpt.pt")
    nanogpt = load_nanogpt(folder)
    model = nanogpt.GPT(nanogpt.GPTConfig(**checkpoint["model_args"])).eval()
    model.load_state_dict(checkpoint["model"])
    bits = bits_per_token(model, torch.from_numpy(ids["val"].astype(np.int64)), NANOGPT_RECIPE["block_size"])
    return training_seconds(printed, checkpoint["iter_num"]), bits


def training_seconds(printed, n_steps) -> float:
    """The time of the first iterations. The median stands for those whose time includes an evaluation."""
    times = iteration_times(printed)
    for step in re.findall(r"^step (\d+):", printed, re.MULTILINE):
        times[int(step)] = math.nan
    usual = statistics.median(t for t in times if t == t)
    return sum(usual if math.isnan(t) else t for t in times[:n_steps])


@torch.no_grad()
def bits_per_token(model, ids, block_size):
    """Of all blocks side by side, each read once. Here a token is a character."""
    n = (len(ids) - 1) // block_size
    x, y = (ids[first:][: n * block_size].view(n, block_size).split(32) for first in (0, 1))
    return sum(model(a, b)[1].item() * len(a) for a, b in zip(x, y, strict=True)) / n / math.log(2)


# --- ours


def learning_curve(records, step_tokens):
    """[(seconds of training before it, bits per character)] of the evaluations of a run that has logged every step."""
    seconds, curve = 0.0, []
    for record in records:
        if "val_bpc" in record:
            curve.append((seconds, record["val_bpc"]))
        if "tokens_per_second" in record:  # An evaluation of the same step comes before it.
            seconds += step_tokens / record["tokens_per_second"]
    return curve


def race_ours(settings, words):
    words = [*words, "--dtype=float32", "--device=cpu", "--compile=off", "--log_interval=1", "--eval_tokens=0"]
    records = train_records([*words, f"--eval_interval={settings.max_steps // 40}"], "race", {})
    return learning_curve(records, settings.batch_size * settings.block_size)


def seconds_until(curve, bits):
    """When a learning curve falls to `bits`, on a straight line between two evaluations; None if it never does."""
    for (earlier, higher), (later, lower) in itertools.pairwise(curve):
        if lower <= bits < higher:
            return earlier + (later - earlier) * (higher - bits) / (higher - lower)
    return None


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("nanogpt", type=Path)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    folder, found = args.nanogpt.resolve(), {}
    write_english()
    print("bits per character and seconds: nanoGPT, config/tiny.py; when that has nanoGPT's bits, and the ratio")
    for name, flags in RACES.items():
        words = ["config/tiny.py", f"--dataset={name}", *flags]
        settings, _ = config.load_config(words, ArgumentParser())
        if not (settings.tokens_dir / "meta.json").exists():
            _ = train_tokenizer.main(words) or prepare.main(words)
        their_seconds, their_bits = race_nanogpt(folder, read_splits(settings))
        curve = race_ours(settings, words)
        (seconds, bits), there = curve[-1], seconds_until(curve, their_bits)
        ratio = there and their_seconds / there
        found[name] = {"nanoGPT": (their_bits, their_seconds), "ours": (bits, seconds), "until": there, "ratio": ratio}
        late = f"{there:.1f} s, {ratio:.1f} times as fast" if there else "not reached"
        print(f"{name}: {their_bits:.3f} {their_seconds:.0f} s, {bits:.3f} {seconds:.0f} s; {late}", flush=True)
    if args.json:
        about = {"command": "python -m tools.lab.race NANOGPT_FOLDER", "date": datetime.date.today().isoformat()}
        write_json(args.json, about | {"torch": torch.__version__, "races": found}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
