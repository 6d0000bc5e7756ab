"""Let nanoGPT and config/tiny.py learn the same texts: how soon does each know what the other knows at its end?

    python -m tools.lab.race NANOGPT_FOLDER [--steps=2000] [--json FILE]

Needs the corpora of data/sanguo.py and data/shakespeare.py, and a clone of https://github.com/karpathy/nanoGPT. Of
Shakespeare's works it takes as many characters as tiny Shakespeare has. See docs/comparison.md.

nanoGPT trains with its recipe for a CPU, on the characters of the same training text. What each has learned is measured
in bits per character of the whole validation text. Seconds are those of training alone, for both: to start, to evaluate
and to save does not count. With fewer --steps the race is shorter, for both; config/tiny.py always makes twice as many.
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
from lib.errors import ArgumentParser, in_range, reports_errors
from lib.storage import read_text, write_json, write_text
from lib.tokens.memmap import Data
from lib.tokens.tokenizer import token_bytes
from tools.lab.experiments import train_records
from tools.lab.peers import iteration_times, load_nanogpt, train_nanogpt

ENGLISH = "shakespeare_1mb"
RACES = {"sanguo": [], ENGLISH: ["--vocab_size=1024"]}  # with the flags that config/tiny.py needs for them
ENGLISH_CHARACTERS = 1_115_394
NANOGPT_RECIPE = {"eval_iters": 20, "block_size": 64, "batch_size": 12, "n_layer": 4, "n_head": 4, "n_embd": 128}


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


def race_nanogpt(folder, texts, steps):
    """(seconds, bits per character) of the last checkpoint that it saves: of the weights it takes for its best."""
    numbers = {character: i for i, character in enumerate(sorted(set(texts["train"] + texts["val"])))}
    ids = {split: np.array([numbers[c] for c in text], dtype=np.uint16) for split, text in texts.items()}
    with tempfile.TemporaryDirectory() as data:
        for split in ids:
            ids[split].tofile(Path(data) / f"{split}.bin")
        (Path(data) / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(numbers)}))
        settings = {"max_iters": steps, "lr_decay_iters": steps, "eval_interval": steps // 8}
        printed = train_nanogpt(folder, data, NANOGPT_RECIPE | settings)
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


def race_ours(settings, words, dtype, steps):
    words = [*words, f"--dtype={dtype}", "--device=cpu", "--compile=off", f"--max_steps={2 * steps}"]
    words += ["--log_interval=1", f"--eval_interval={steps // 20}", "--eval_tokens=0"]
    return learning_curve(train_records(words, "race", {}), settings.batch_size * settings.block_size)


def seconds_until(curve, bits):
    """When a learning curve falls to `bits`, on a straight line between two evaluations; None if it never does."""
    for (earlier, higher), (later, lower) in itertools.pairwise(curve):
        if lower <= bits < higher:
            return earlier + (later - earlier) * (higher - bits) / (higher - lower)
    return None


def compare(theirs, curve) -> dict:
    """theirs: (seconds, bits per character) of nanoGPT. None stands for what was not reached."""
    (their_seconds, their_bits), (seconds, bits) = theirs, curve[-1]
    there = seconds_until(curve, their_bits)
    return {
        "bits per character": bits,
        "seconds": seconds,
        "seconds until nanoGPT's bits": there,
        "times as fast": their_seconds / there if there else None,
        "nanoGPT's seconds until these bits": their_seconds if their_bits <= bits else None,
    }


def show_race(title, results):
    print(f"\n{title}\n{'':16}    bits per   seconds   until nanoGPT's   times as   nanoGPT until")
    print(f"{'':16}   character                    bits, s       fast   these bits, s")
    for name, figures in results.items():
        bits, seconds, *others = figures.values()
        there, ratio, back = (f"{v:.1f}" if v else "not reached" for v in others or (0, 0, 0))
        row = f"{name:16} {bits:11.3f} {seconds:9.1f}"
        print(row + (f" {there:>17} {ratio:>10} {back:>15}" if others else ""), flush=True)


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("nanogpt", type=Path)
    parser.add_argument("--steps", type=in_range(int, 100), default=2000, help="of nanoGPT [2000, as in its recipe]")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    folder, found = args.nanogpt.resolve(), {}
    write_english()
    for name, flags in RACES.items():
        words = ["config/tiny.py", f"--dataset={name}", *flags]
        settings, _ = config.load_config(words, ArgumentParser())
        if not (settings.tokens_dir / "meta.json").exists():
            _ = train_tokenizer.main(words) or prepare.main(words)
        texts = read_splits(settings)
        theirs = race_nanogpt(folder, texts, args.steps)
        found[name] = {"nanoGPT": {"bits per character": theirs[1], "seconds": theirs[0]}}
        for row, dtype in (("ours, float32", "float32"), ("ours", "auto")):
            found[name][row] = compare(theirs, race_ours(settings, words, dtype, args.steps))
        show_race(f"{name}: {len(texts['train']):,} characters, {len(texts['val']):,} for validation", found[name])
    if args.json:
        about = {"command": "python -m tools.lab.race NANOGPT_FOLDER", "date": datetime.date.today().isoformat()}
        about |= {"torch": torch.__version__, "steps of nanoGPT": args.steps}
        write_json(args.json, about | {"seconds of training until the other's bits": found}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
