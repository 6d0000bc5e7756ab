"""Measure train.py alone, and beside one and two busy processes, with several settings of OpenMP.

    python -m tools.lab.busy config/tiny.py [--key=value ...]

The settings: https://gcc.gnu.org/onlinedocs/libgomp
"""

import contextlib
import statistics
import subprocess
import sys

from config import load_config
from lib.errors import ArgumentParser, reports_errors
from tools.bench import add
from tools.lab.experiments import train_records

WAYS = {
    "train.py": {},
    "OpenMP by itself": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def train_speeds(flags, n_steps, environment):
    """The tokens per second of each step of a process. The first steps are left out."""
    flags = [*flags, f"--max_steps={n_steps}", "--log_interval=1", f"--eval_interval={n_steps}"]
    records = train_records([*flags, "--eval_tokens=1000", "--prompts="], "bench", environment)
    return [r["tokens_per_second"] for r in records if "tokens_per_second" in r][5:]


def compare_ways(flags, n_steps=60, rounds=3):
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
            add({}, f"{n_busy} busy: {name}", statistics.median(found), "tok/s", note)


@reports_errors
def main(argv=None):
    config, _ = load_config(argv, ArgumentParser(description=__doc__))
    compare_ways([f"--{key}={value}" for key, value in config.changes().items()])


if __name__ == "__main__":
    sys.exit(main())
