"""Compare training recipes on three corpora and several seeds, at equal tokens. Findings: docs/EXPERIMENTS.md.

    python docs/experiments.py [--steps=1500] [--seeds=3] [--jobs=2] [--corpora=sanguo,…] [VARIANT ...]

Needs data/sanguo.py, data/shakespeare.py and data/poetry.py, tokenized with a vocabulary of 4,000. Trains
config/tiny.py with each variant, every run on one thread, and prints the bits per character of the whole
validation split (of the poetry, its first 100,000 tokens): the mean over the seeds, and the difference to
`base`, seed by seed, with its standard error. Results are kept in out/experiments.json, and not computed again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import reports_errors

import json
import math
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import train
from config import ROOT, ArgumentParser
from files import write_json

CORPORA = ("sanguo", "shakespeare", "poetry")
RESULTS = ROOT / "out" / "experiments.json"


# --- what no setting of the scripts can do, as changes to train.py while it runs


def change_init(change):
    class Changed(train.GPT):
        def __init__(self, *args):
            super().__init__(*args)
            with torch.no_grad():
                change(self)

    train.GPT = Changed


def zero_projections():
    """Output projections start at zero, so that every block starts as the identity."""
    change_init(lambda model: [b.zero_() for name, b in model.named_parameters() if name.endswith("proj.weight")])


def scale_embedding(factor):
    change_init(lambda model: model.embedding.weight.mul_(factor))


def linear_decay():
    """Linear instead of cosine."""

    def get_lr(step, config):
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
        left = (config.max_steps - step) / (config.max_steps - config.warmup_steps)
        return config.min_lr + left * (config.learning_rate - config.min_lr)

    train.get_lr = get_lr


def without_replacement(block_size=128):
    """Each epoch cuts the text at another place into blocks, and reads every block once."""

    def block_starts(seed, step, batch_size, n_starts):
        n_blocks = n_starts // block_size
        starts = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            chance = np.random.default_rng((seed, position // n_blocks))
            offset = chance.integers(block_size)
            starts.append(offset + block_size * chance.permutation(n_blocks)[position % n_blocks])
        return np.array(starts)

    train.block_starts = block_starts


def averaged_weights(decay):
    """An exponential average of the weights is evaluated, not the last ones."""
    step, run = torch.optim.AdamW.step, train.Evaluation.run
    average = {}

    def step_and_average(self, *args):
        step(self, *args)
        for group in self.param_groups:
            for p in group["params"]:
                average.setdefault(p, p.detach().clone()).lerp_(p.detach(), 1 - decay)

    def run_average(self, *args):
        last = {p: p.detach().clone() for p in average}
        for p in average:
            p.data.copy_(average[p])
        result = run(self, *args)
        for p in average:
            p.data.copy_(last[p])
        return result

    torch.optim.AdamW.step, train.Evaluation.run = step_and_average, run_average


def longer_and_longer(seed_lengths=((0.25, 32), (0.5, 64), (1.0, 128))):
    """Short blocks first, as many tokens in each step."""

    def blocks(self, starts):
        step, max_steps = longer_and_longer.step, longer_and_longer.max_steps
        length = next(size for share, size in seed_lengths if step <= share * max_steps)
        if self.name.name == "val.bin" or length == self.block_size:
            return original(self, starts)
        pieces = self.block_size // length
        starts = (starts[:, None] + length * np.arange(pieces)).ravel()
        ids = torch.from_numpy(self.read(starts[:, None] + np.arange(length + 1)).astype(np.int64))
        return ids[:, :-1], ids[:, 1:]

    def get_lr(step, config):
        longer_and_longer.step, longer_and_longer.max_steps = step, config.max_steps
        return lr(step, config)

    original, lr = train.Tokens.blocks, train.get_lr
    train.Tokens.blocks, train.get_lr = blocks, get_lr


# name: (flags, change)
VARIANTS = {
    "base": ([], None),
    "lr_half": (["--learning_rate=7.5e-4"], None),
    "lr_double": (["--learning_rate=3e-3"], None),
    "embedding_lr_half": (["--embedding_lr=1e-2"], None),
    "embedding_lr_double": (["--embedding_lr=4e-2"], None),
    "floor_zero": (["--min_lr=0"], None),
    "linear_to_zero": (["--min_lr=0"], linear_decay),
    "warmup_20": (["--warmup_steps=20"], None),
    "warmup_300": (["--warmup_steps=300"], None),
    "decay_0": (["--weight_decay=0"], None),
    "decay_0.3": (["--weight_decay=0.3"], None),
    "beta2_0.99": (["--beta2=0.99"], None),
    "beta1_0.95": (["--beta1=0.95"], None),
    "dropout_0.1": (["--dropout=0.1"], None),
    "dropout_0.2": (["--dropout=0.2"], None),
    "dropout_0.1_floor_zero": (["--dropout=0.1", "--min_lr=0"], None),
    "dropout_0.1_lr_double": (["--dropout=0.1", "--learning_rate=3e-3"], None),
    "batch_half": (["--batch_size=3", "--max_steps={2*steps}"], None),
    "batch_double": (["--batch_size=12", "--max_steps={steps//2}"], None),
    "kv_heads_1": (["--n_kv_head=1"], None),
    "kv_heads_4": (["--n_kv_head=4"], None),
    "deep": (["--n_layer=4", "--n_embd=96", "--n_head=3", "--n_kv_head=1"], None),
    "wide": (["--n_layer=1", "--n_embd=176"], None),
    "untied": (["--tie_embeddings=False"], None),
    "zero_projections": ([], zero_projections),
    "embedding_init_half": ([], lambda: scale_embedding(0.5)),
    "embedding_init_double": ([], lambda: scale_embedding(2.0)),
    "without_replacement": ([], without_replacement),
    "averaged_0.99": ([], lambda: averaged_weights(0.99)),
    "longer_blocks": ([], longer_and_longer),
    "muon": (["--optimizer=muon"], None),
    "muon_lr_double": (["--optimizer=muon", "--learning_rate=3e-3"], None),
}


def train_one(variant, dataset, seed, steps):
    """Bits per character at the end of one run, in this process."""
    flags, change = VARIANTS[variant]
    if change:
        change()
    torch.set_num_threads(1)
    flags = [word.format_map(_Numbers(steps)) for word in flags]
    run = f"experiment_{variant}_{dataset}_{seed}"
    own = f"--dataset={dataset} --seed={seed} --run={run} --max_steps={steps} --eval_interval={10 * steps}"
    base = ["config/tiny.py", "--overwrite", "--eval_tokens=100000", "--dropout=0", "--min_lr=1e-4"]
    train.main([*base, *own.split(), *flags])
    log = json.loads((ROOT / "out" / run / "loss_log.json").read_text(encoding="utf-8"))
    shutil.rmtree(ROOT / "out" / run)
    return log["records"][-1]["val_bpc"]


class _Numbers(dict):
    """For {steps//2} in a flag."""

    def __init__(self, steps):
        self["2*steps"], self["steps//2"] = 2 * steps, steps // 2


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--corpora", default=",".join(CORPORA))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--one", nargs=2, metavar=("CORPUS", "SEED"), help="do one run here and print its result")
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    if args.one:
        print("RESULT", train_one(args.variants[0], args.one[0], int(args.one[1]), args.steps))
        return

    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    names = ["base", *(v for v in args.variants if v != "base")]
    corpora = args.corpora.split(",")
    todo = [(v, c, seed) for v in names for c in corpora for seed in range(args.seeds)]

    def measure(job):
        key = " ".join(map(str, (*job, args.steps)))
        if key not in results:
            command = [sys.executable, __file__, job[0], f"--steps={args.steps}", "--one", job[1], str(job[2])]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            value = done.stdout.rpartition("RESULT ")[2] if done.returncode == 0 else math.nan
            if done.returncode:
                print(f"{key}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            results[key] = float(value)
            write_json(RESULTS, results, indent=1)

    for name in names:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(measure, [job for job in todo if job[0] == name]))
        cells = []
        for corpus in corpora:
            bpc, base = (
                np.array([results[f"{v} {corpus} {seed} {args.steps}"] for seed in range(args.seeds)])
                for v in (name, "base")
            )
            spread = (bpc - base if name != "base" else bpc).std(ddof=1) / math.sqrt(args.seeds)
            cells.append(f"{bpc.mean():.3f} {(bpc - base).mean():+.3f} ± {spread:.3f}")
        print(f"{name:22} " + "   ".join(f"{cell:22}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
