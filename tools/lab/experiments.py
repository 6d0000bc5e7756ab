"""Compare training recipes: one config with other flags, several seeds. Findings: docs/EXPERIMENTS.md.

    python -m tools.lab.experiments config/tiny.py "min_lr=1e-4" "optimizer=muon dropout=0" --all="max_steps=1500"

A VARIANT holds flags of train.py without their dashes; those of --all go for every run. The config by itself is trained
first. Each run has one thread. For each variant the bits per character and the nats per token at the end are printed
(the lowest, if --all has an eval_interval), their means over the seeds, and the difference of the bits to the config by
itself: seed by seed, with its standard error. Results are kept in out/experiments.json, and not computed again.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import config
from lib.errors import ArgumentParser, UserError, reports_errors
from lib.run.runs import Run
from lib.storage import write_json


def train_records(flags, run, environment) -> list:
    """The records of the log of a run that train.py makes and that is removed again. Raises UserError if it fails.

    flags: of train.py, its config file among them. Unless they say more, only the first and last step are evaluated.
    """
    flags = ["--prompts=", "--eval_interval=1000000000", *flags, f"--run={run}", "--overwrite"]
    command = [sys.executable, config.ROOT / "train.py", *flags]
    found = subprocess.run(command, env=os.environ | environment, capture_output=True, encoding="utf-8")
    if found.returncode:
        last_line = found.stderr.strip().rpartition("\n")[2]
        raise UserError(f"train.py {' '.join(flags)}: {last_line.removeprefix('error: ')}")
    folder = config.out_dir() / run
    records = Run(str(folder)).records
    shutil.rmtree(folder)
    return records


def train(config_file, flags, seed, run):
    """(bits per character, nats per token) of the weights that one run keeps in best.pt."""
    records = train_records([config_file, *flags, f"--seed={seed}"], run, {"OMP_NUM_THREADS": "1"})
    best = min((record for record in records if "val_loss" in record), key=lambda record: record["val_loss"])
    return best["val_bpc"], best["val_loss"]


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--all", default="", metavar="FLAGS")
    parser.add_argument("--seeds", type=int, default=3, help="[3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help=f"runs at a time [{os.cpu_count()}]")
    args = parser.parse_args(argv)
    path = config.out_dir() / "experiments.json"
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
