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
from lib.errors import ArgumentParser, reports_errors
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


def nanogpt_train_speed(folder, config, vocab_size):
    """Tokens per second of its train.py, as its README runs it on a CPU: float32, eager."""
    data = folder / "data" / f"peer_{config.dataset}"
    shutil.copytree(config.tokens_dir, data, dirs_exist_ok=True)
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocab_size}))
    settings = {"dataset": data.name, "device": "cpu", "compile": False, "eval_iters": 1, "eval_interval": 10**6}
    settings |= {"log_interval": 1, "max_iters": STEPS, "dropout": 0.0, "out_dir": "out-peer"}
    settings |= {key: getattr(config, key) for key in ("block_size", "batch_size", "n_layer", "n_head", "n_embd")}
    flags = [f"--{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *flags]
    out = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    times = [float(ms) / 1000 for ms in re.findall(r"time ([\d.]+)ms", out)]
    return config.batch_size * config.block_size / statistics.median(times[5:])


def nanogpt_model(folder, c, vocab_size):
    spec = importlib.util.spec_from_file_location("nanogpt", folder / "model.py")
    nanogpt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nanogpt)
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
