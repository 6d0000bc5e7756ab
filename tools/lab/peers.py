"""Measure nanoGPT, transformers and llama.cpp beside these scripts, on this machine, in turn. See docs/comparison.md.

    python -m tools.lab.peers NANOGPT_FOLDER [--rounds=3] [--json FILE]

Needs the tokens of config/small.py and config/tiny.py, a clone of nanoGPT, and
python -m pip install transformers gguf llama-cpp-python

Training runs both train.py as processes, in turn, and takes the times that they report. Sampling runs in this
process, with random weights: the same for llama.cpp and transformers, and for nanoGPT its own model of that shape.
"""

import datetime
import importlib.util
import itertools
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from config import load_config
from lib.errors import ArgumentParser, UserError, reports_errors
from lib.generation import Sampling, TextModel, stream
from lib.storage import write_json
from lib.tokens.prepared import read_meta
from lib.tokens.tokenizer import parse_tokenizer, read_tokenizer
from model import GPT
from tools.export import write_gguf, write_hf
from tools.lab.busy import train_speeds

N_TOKENS = 200
STEPS = 40
OURS = {
    "ours": ["--dtype=auto", "--compile=off"],
    "ours, compiled": ["--dtype=auto", "--compile=on"],
    "ours, float32": ["--dtype=float32", "--compile=off"],
    "ours, float32, compiled": ["--dtype=float32", "--compile=on"],
}


def train_nanogpt(folder, data, settings) -> str:
    """What its train.py prints, run as its README says for a CPU: float32, eager. Raises UserError if it fails.

    data: the folder of train.bin, val.bin and meta.pkl, where it puts its checkpoint too.
    """
    settings = {"dataset": data, "out_dir": data, "device": "cpu", "compile": False, "dropout": 0.0} | settings
    flags = [f"--{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", "--log_interval=1", *flags]
    found = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    if found.returncode:
        raise UserError(f"train.py in {folder}: {found.stderr.strip().rpartition(chr(10))[2]}")
    return found.stdout


def iteration_times(printed) -> list[float]:
    """Seconds of each iteration, from what nanoGPT's train.py prints."""
    return [float(ms) / 1000 for ms in re.findall(r"time ([\d.]+)ms", printed)]


def nanogpt_train_speed(folder, config, vocab_size):
    """Tokens per second of its train.py."""
    settings = {"eval_iters": 1, "eval_interval": 10**6, "max_iters": STEPS}
    settings |= {key: getattr(config, key) for key in ("block_size", "batch_size", "n_layer", "n_head", "n_embd")}
    with tempfile.TemporaryDirectory() as data:
        for split in ("train", "val"):
            shutil.copy(config.tokens_dir / f"{split}.bin", data)
        (Path(data) / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocab_size}))
        times = iteration_times(train_nanogpt(folder, data, settings))
    return config.batch_size * config.block_size / statistics.median(times[5:])


def load_nanogpt(folder):
    """Its model.py, as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt", folder / "model.py")
    nanogpt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nanogpt)
    return nanogpt


def nanogpt_model(folder, c, vocab_size):
    nanogpt = load_nanogpt(folder)
    shape = {key: getattr(c, key) for key in ("block_size", "n_layer", "n_head", "n_embd")}
    return nanogpt.GPT(nanogpt.GPTConfig(**shape, vocab_size=vocab_size, bias=False, dropout=0.0)).eval()


def sampling_speeds(folder, c, vocab_size, rounds):
    """Tokens per second of each, one stream, at temperature 0.8 and top_p 0.95 (nanoGPT knows top_k only)."""
    from llama_cpp import Llama
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    text = read_tokenizer(c.tokens_dir)
    ours = GPT(c, vocab_size).eval()
    text_model = TextModel(ours, parse_tokenizer(text, c.tokens_dir), c.tokens_dir)
    nanogpt = nanogpt_model(folder, c, vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = {"tokenizer": text, "step": 0, "tokens": 0}
        write_hf(Path(scratch), text_model, checkpoint, "f32", Path(scratch))
        write_gguf(Path(scratch) / "model.gguf", text_model, "f32", "peer")
        theirs = AutoModelForCausalLM.from_pretrained(scratch).eval()
        threads = torch.get_num_threads()
        llama = Llama(str(Path(scratch) / "model.gguf"), n_ctx=c.block_size, n_threads=threads, verbose=False)
    prompt = torch.randint(4, vocab_size, (1, 8))

    def with_llama():
        llama.reset()
        tokens = llama.generate(prompt[0].tolist(), temp=0.8, top_k=0, top_p=0.95, min_p=0.0, repeat_penalty=1.0)
        list(itertools.islice(tokens, N_TOKENS))

    def with_transformers():
        length = {"max_new_tokens": N_TOKENS, "min_new_tokens": N_TOKENS}
        theirs.generate(prompt, **length, do_sample=True, temperature=0.8, top_k=0, top_p=0.95)

    ways = {
        "nanoGPT": lambda: nanogpt.generate(prompt, N_TOKENS, temperature=0.8, top_k=200),
        "transformers": with_transformers,
        "llama.cpp": with_llama,
        "ours": lambda: list(stream(ours, prompt, N_TOKENS, Sampling())),
        "ours, batch of 32": lambda: list(stream(ours, prompt.repeat(32, 1), N_TOKENS, Sampling())),
    }
    times = {name: [] for name in ways}
    for _ in range(2 * rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {n: (32 if "32" in n else 1) * N_TOKENS / statistics.median(t[1:]) for n, t in times.items()}


def show(title, speeds):
    print(f"\n{title}")
    for name, speed in speeds.items():
        ratio = "" if name.startswith("ours") else f"   ours is {speeds['ours'] / speed:.2f} times as fast"
        print(f"  {name:20} {speed:10,.0f} tok/s{ratio}", flush=True)
    return {name: round(speed, 1) for name, speed in speeds.items()}


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("nanogpt", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    results = {}
    for path, flags in (("config/small.py", ["--batch_size=8"]), ("config/tiny.py", [])):
        config, _ = load_config([path, *flags], ArgumentParser())
        vocab_size = read_meta(config.tokens_dir)["vocab_size"]
        rounds = {name: [] for name in ("nanoGPT", *OURS)}
        for _ in range(args.rounds):
            rounds["nanoGPT"].append(nanogpt_train_speed(args.nanogpt.resolve(), config, vocab_size))
            for name, how in OURS.items():
                rounds[name].append(statistics.median(train_speeds([path, *flags, *how], STEPS, {})))
        speeds = {name: statistics.median(of_rounds) for name, of_rounds in rounds.items()}
        results[path] = show(f"training, {' '.join([path, *flags])}", speeds)
    config, _ = load_config(["config/small.py"], ArgumentParser())
    speeds = sampling_speeds(args.nanogpt.resolve(), config, 5000, args.rounds)
    results["sampling"] = show("sampling, config/small.py, one stream of 200 tokens", speeds)
    if args.json:
        about = {"command": "python -m tools.lab.peers NANOGPT_FOLDER", "date": datetime.date.today().isoformat()}
        write_json(args.json, about | {"torch": torch.__version__, "tokens per second": results}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
