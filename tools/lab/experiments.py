"""Compare training recipes: one config with other flags, several seeds. Findings: docs/EXPERIMENTS.md.

    python -m tools.lab.experiments config/tiny.py "min_lr=1e-4" "optimizer=muon dropout=0" --all="max_steps=1500"

A VARIANT holds flags of train.py without their dashes; those of --all go for every run. The config by itself is trained
first. Each run has one thread. For each variant the bits per character and the nats per token at the end are printed,
their means over the seeds, and the difference of the bits to the config by itself: seed by seed, with its standard
error. Results are kept in out/experiments.json, and not computed again.
"""

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from config import out_dir
from lib.errors import ArgumentParser, reports_errors
from lib.storage import write_json
from tools.lab.training import train_records


def train(config, flags, seed, run):
    """(bits per character, nats per token) at the end of one run. Raises UserError if it fails."""
    last = train_records([config, *flags, f"--seed={seed}"], run, {"OMP_NUM_THREADS": "1"})[-1]
    return last["val_bpc"], last["val_loss"]


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--all", default="", metavar="FLAGS")
    parser.add_argument("--seeds", type=int, default=3, help="[3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help=f"runs at a time [{os.cpu_count()}]")
    args = parser.parse_args(argv)
    path = out_dir() / "experiments.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    writing = threading.Lock()  # Several jobs may end at the same time.

    def figures_of(job):
        number, (variant, seed) = job
        key = " ".join([args.config, *args.all.split(), *variant.split(), f"seed={seed}"])
        if key not in results:
            flags = [f"--{word}" for word in (*args.all.split(), *variant.split())]
            figures = train(args.config, flags, seed, f"experiment_{number}")
            with writing:
                results[key] = figures
                write_json(path, results, indent=1)
        return results[key]

    variants, base = ["", *args.variants], 0.0
    print("bits per character, difference, nats per token, flags")
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = enumerate((variant, seed) for variant in variants for seed in range(args.seeds))
        done = pool.map(figures_of, jobs)
        for variant in variants:
            bits, nats = np.array([next(done) for _ in range(args.seeds)]).T
            base = base if variant else bits
            print(f"{bits.mean():.4f} {spread(bits - base)} {nats.mean():.4f}  {variant or '(none)'}", flush=True)


def spread(differences) -> str:
    """Their mean, and its standard error if there are several."""
    error = f" ± {differences.std(ddof=1) / len(differences) ** 0.5:.4f}" if len(differences) > 1 else ""
    return f"{differences.mean():+.4f}{error}"


if __name__ == "__main__":
    sys.exit(main())
