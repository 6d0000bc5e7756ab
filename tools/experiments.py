"""Compare training recipes on three corpora and several seeds, at equal tokens. Findings: docs/EXPERIMENTS.md.

    python -m tools.experiments [--steps=1500] [--seeds=3] [--jobs=2] [--corpora=sanguo,…] [VARIANT ...]

Needs data/sanguo.py, data/shakespeare.py and data/poetry.py, tokenized with a vocabulary of 4,000. Trains
config/tiny.py with each variant, every run on one thread, and prints the bits per character of the whole
validation split (of the poetry, its first 100,000 tokens): the mean over the seeds, and the difference to
`base`, seed by seed, with its standard error. Results are kept in out/experiments.json, and not computed again.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import train
from config import ROOT
from lib.errors import ArgumentParser, reports_errors
from lib.storage import write_json

CORPORA = ("sanguo", "shakespeare", "poetry")
RESULTS = ROOT / "out" / "experiments.json"


# --- what no setting of the scripts can do, as changes to train.py while it runs


def zero_projections():
    """Output projections start at zero, so that every block starts as the identity."""

    class Zero(train.GPT):
        def __init__(self, *args):
            super().__init__(*args)
            for name, weight in self.named_parameters():
                if name.endswith("proj.weight"):
                    torch.nn.init.zeros_(weight)

    train.GPT = Zero


def linear_decay():
    """Linear instead of cosine."""
    cosine = train.get_lr

    def get_lr(step, config):
        if step < config.warmup_steps:
            return cosine(step, config)
        left = (config.max_steps - step) / (config.max_steps - config.warmup_steps)
        return config.min_lr + left * (config.learning_rate - config.min_lr)

    train.get_lr = get_lr


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
    "batch_half": (["--batch_size=3", "--max_steps={double}"], None),
    "batch_double": (["--batch_size=12", "--max_steps={half}"], None),
    "kv_heads_1": (["--n_kv_head=1"], None),
    "kv_heads_4": (["--n_kv_head=4"], None),
    "deep": (["--n_layer=4", "--n_embd=96", "--n_head=3", "--n_kv_head=1"], None),
    "wide": (["--n_layer=1", "--n_embd=176"], None),
    "untied": (["--tie_embeddings=False"], None),
    "zero_projections": ([], zero_projections),
    "muon": (["--optimizer=muon"], None),
    "muon_lr_double": (["--optimizer=muon", "--learning_rate=3e-3"], None),
}


def train_one(variant, dataset, seed, steps):
    """Bits per character at the end of one run, in this process."""
    flags, change = VARIANTS[variant]
    if change:
        change()
    torch.set_num_threads(1)
    flags = [word.format(double=2 * steps, half=steps // 2) for word in flags]
    run = f"experiment_{variant}_{dataset}_{seed}"
    own = f"--dataset={dataset} --seed={seed} --run={run} --max_steps={steps} --eval_interval={10 * steps}"
    base = ["config/tiny.py", "--overwrite", "--eval_tokens=100000", "--dropout=0", "--min_lr=1e-4"]
    train.main([*base, *own.split(), *flags])
    log = json.loads((ROOT / "out" / run / "loss_log.json").read_text(encoding="utf-8"))
    shutil.rmtree(ROOT / "out" / run)
    return log["records"][-1]["val_bpc"]


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
            command = [
                sys.executable,
                "-m",
                "tools.experiments",
                job[0],
                f"--steps={args.steps}",
                "--one",
                job[1],
                str(job[2]),
            ]
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
