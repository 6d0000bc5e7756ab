"""Measure train.py alone, and beside one and two busy processes, with several settings of OpenMP.

    python -m tools.lab.busy config/tiny.py [--key=value ...]

The settings: https://gcc.gnu.org/onlinedocs/libgomp
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys

from config import ROOT, load_config
from lib.errors import ArgumentParser, UserError, reports_errors
from tools.bench import Table

WAYS = {
    "train.py": {},
    "OpenMP by itself": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def train_speeds(flags, n_steps, environment):
    """The tokens per second of each step that train.py reports as a process. The first steps are left out."""
    command = [sys.executable, ROOT / "train.py", *flags, "--run=bench", "--overwrite", f"--max_steps={n_steps}"]
    command += ["--log_interval=1", "--eval_interval=1000000", "--eval_tokens=1000", "--prompts="]
    found = subprocess.run(command, env=os.environ | environment, capture_output=True, encoding="utf-8")
    if found.returncode:
        raise UserError(f"train.py ended with: {found.stderr.strip()}")
    run = ROOT / "out" / "bench"
    records = json.loads((run / "loss_log.json").read_text(encoding="utf-8"))["records"]
    shutil.rmtree(run)
    return [r["tokens_per_second"] for r in records if "tokens_per_second" in r][5:]


def measure(table, flags, n_steps=60, rounds=3):
    for n_busy in range(3):
        speeds = {name: [] for name in WAYS}
        for _ in range(rounds):
            for name, environment in WAYS.items():
                with contextlib.ExitStack() as stack:
                    for _ in range(n_busy):
                        busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                        stack.callback(busy.kill)
                    # That of all steps together: beside other work some take ten times as long as most.
                    speeds[name].append(statistics.harmonic_mean(train_speeds(flags, n_steps, environment)))
        for name, found in speeds.items():
            ratio = statistics.median(mine / its for mine, its in zip(speeds["train.py"], found, strict=True))
            note = "" if name == "train.py" else f"train.py is {ratio:.2f} times as fast"
            table.add(f"{n_busy} busy: {name}", statistics.median(found), "tok/s", note)


@reports_errors
def main(argv=None):
    config, _ = load_config(argv, ArgumentParser(prog="python -m tools.lab.busy", description=__doc__))
    measure(Table(), [f"--{key}={value}" for key, value in config.changes().items()])


if __name__ == "__main__":
    sys.exit(main())
