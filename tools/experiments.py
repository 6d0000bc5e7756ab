"""Compare training recipes on three corpora and several seeds, at equal tokens. Findings: docs/EXPERIMENTS.md.

    python -m tools.experiments [--steps=1500] [--seeds=3] [--jobs=2] [--corpora=sanguo,…] [VARIANT ...]

Needs data/sanguo.py, data/shakespeare.py and data/poetry.py, tokenized with a vocabulary of 4,000. Trains
config/tiny.py with each variant, every run on one thread, and prints the bits per character of the whole
validation split (of the poetry, its first 100,000 tokens): the mean over the seeds, and the difference to
`base`, seed by seed, with its standard error. Results are kept in out/experiments.json, and not computed again.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from config import ROOT
from lib.errors import ArgumentParser, UserError, reports_errors
from lib.storage import write_json

CORPORA = ("sanguo", "shakespeare", "poetry")
RESULTS = ROOT / "out" / "experiments.json"
BASE = "--overwrite --eval_tokens=100000 --prompts= --dropout=0 --min_lr=1e-4"
VARIANTS = {  # the flags of train.py that make the difference
    "base": "",
    "lr_half": "--learning_rate=7.5e-4",
    "lr_double": "--learning_rate=3e-3",
    "embedding_lr_half": "--embedding_lr=1e-2",
    "embedding_lr_double": "--embedding_lr=4e-2",
    "floor_zero": "--min_lr=0",
    "warmup_20": "--warmup_steps=20",
    "warmup_300": "--warmup_steps=300",
    "decay_0": "--weight_decay=0",
    "decay_0.3": "--weight_decay=0.3",
    "beta2_0.99": "--beta2=0.99",
    "beta1_0.95": "--beta1=0.95",
    "dropout_0.1": "--dropout=0.1",
    "dropout_0.2": "--dropout=0.2",
    "dropout_0.1_floor_zero": "--dropout=0.1 --min_lr=0",
    "dropout_0.1_lr_double": "--dropout=0.1 --learning_rate=3e-3",
    "batch_half": "--batch_size=3 --max_steps={double}",
    "batch_double": "--batch_size=12 --max_steps={half}",
    "kv_heads_1": "--n_kv_head=1",
    "kv_heads_4": "--n_kv_head=4",
    "deep": "--n_layer=4 --n_embd=96 --n_head=3 --n_kv_head=1",
    "wide": "--n_layer=1 --n_embd=176",
    "untied": "--tie_embeddings=False",
    "muon": "--optimizer=muon",
    "muon_lr_double": "--optimizer=muon --learning_rate=3e-3",
}


def train(variant, corpus, seed, steps):
    """Bits per character at the end of one run. Raises UserError if it fails."""
    run = f"experiment_{variant}_{corpus}_{seed}"
    flags = f"--dataset={corpus} --seed={seed} --run={run} --max_steps={steps} --eval_interval={10 * steps} {BASE}"
    flags += f" {VARIANTS[variant]}".format(double=2 * steps, half=steps // 2)
    command = [sys.executable, ROOT / "train.py", ROOT / "config" / "tiny.py", *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise UserError(f"{run}: {done.stderr.strip().splitlines()[-1]}")
    folder = ROOT / "out" / run
    records = json.loads((folder / "loss_log.json").read_text(encoding="utf-8"))["records"]
    shutil.rmtree(folder)
    return records[-1]["val_bpc"]


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"{', '.join(VARIANTS)} [all]")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--corpora", default=",".join(CORPORA))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    args = parser.parse_args(argv)
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"unknown variant {min(unknown)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}

    def measure(variant, corpus):
        """The bits per character of each seed."""
        keys = {seed: f"{variant} {corpus} {seed} {args.steps}" for seed in range(args.seeds)}
        missing = [seed for seed, key in keys.items() if key not in results]
        with ThreadPoolExecutor(args.jobs) as pool:
            runs = pool.map(lambda seed: train(variant, corpus, seed, args.steps), missing)
            for seed, value in zip(missing, runs, strict=True):
                results[keys[seed]] = value
                write_json(RESULTS, results, indent=1)
        return np.array([results[key] for key in keys.values()])

    base = {}
    for name in ["base", *(name for name in args.variants or VARIANTS if name != "base")]:
        cells = []
        for corpus in args.corpora.split(","):
            bpc = measure(name, corpus)
            difference = bpc - base.setdefault(corpus, bpc)
            error = (difference if name != "base" else bpc).std(ddof=1) / args.seeds**0.5
            cells.append(f"{bpc.mean():.3f} {difference.mean():+.3f} ± {error:.3f}")
        print(f"{name:22} " + "   ".join(f"{cell:22}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
