"""See whether memory, open files and the cost of saving stay flat over many steps and a large corpus.

    python -m tests.endurance --steps=20000 --megabytes=1000

Prints a table; what should be flat is to be read down its columns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import config
import prepare
import train
import train_tokenizer
from lib.run import checkpoint
from lib.run.log import RunLog
from tests.conftest import TINY, make_text
from tests.crash import make_home


def memory(process="self"):
    """Megabytes in memory that belong to the process alone, and its open files (Linux)."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
    return anonymous / 1024, len(list(Path(f"/proc/{process}/fd").iterdir()))


def train_long(home, steps):
    """A run with an evaluation, two checkpoints and a log every 50 steps, measured from inside."""
    argv = [*TINY, f"--max_steps={steps}", "--eval_interval=50", "--eval_tokens=2000", "--log_interval=0"]
    assert train_tokenizer.main(argv) == 0 and prepare.main(argv) == 0
    rows, times = [], {}

    def timed(name, write):
        def call(*args):
            begin = time.perf_counter()
            write(*args)
            times[name] = 1000 * (time.perf_counter() - begin)
            if name == "log":
                run = home / "out" / "run"
                sizes = [(run / file).stat().st_size / 1000 for file in ("ckpt.pt", "loss_log.json")]
                rows.append((times["checkpoint"], times["log"], *sizes, *memory()))

        return call

    checkpoint.save_checkpoint = timed("checkpoint", checkpoint.save_checkpoint)
    RunLog.save = timed("log", RunLog.save)
    begin = time.monotonic()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        stdout, sys.stdout = sys.stdout, nowhere
        try:
            assert train.main(argv) == 0
        finally:
            sys.stdout = stdout
    print(f"\ntrain.py, {steps:,} steps, {len(rows):,} evaluations, {time.monotonic() - begin:.0f} s; medians")
    print("   of steps   ckpt.pt ms   log ms   ckpt.pt kB   log kB   own memory MB   open files")
    for i in range(8):
        part = rows[len(rows) * i // 8 : len(rows) * (i + 1) // 8]
        ckpt, log, ckpt_size, log_size, own, opened = (statistics.median(column) for column in zip(*part, strict=True))
        share = f"{i}/8 to {i + 1}/8"
        print(f"{share:>11} {ckpt:12.1f} {log:8.1f} {ckpt_size:12.1f} {log_size:8.1f} {own:15.1f} {opened:12.0f}")


def watch(home, words):
    """Run a script, sample its memory and open files while it works."""
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, *words], cwd=home, stdout=subprocess.DEVNULL)
    samples = []
    while process.poll() is None:
        try:
            samples.append(memory(process.pid))
        except (OSError, StopIteration):  # it has just ended
            break
        time.sleep(0.2)
    assert process.wait() == 0
    print(f"\n{words[0]}, {time.monotonic() - begin:.0f} s\n    of time   own memory MB   open files")
    for i in range(8):
        part = samples[len(samples) * i // 8 : len(samples) * (i + 1) // 8] or samples[-1:]
        own, opened = (statistics.median(column) for column in zip(*part, strict=True))
        print(f"{f'{i}/8 to {i + 1}/8':>11} {own:15.1f} {opened:12.0f}")
    print(f"    highest {max(own for own, _ in samples):15.1f}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="of train.py [20,000]")
    parser.add_argument("--megabytes", type=int, default=1000, help="of text for the other scripts [1,000]")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        home = config.ROOT = Path(scratch)
        make_home(home)
        train_long(home, args.steps)
        text = make_text(20_000).encode()
        with open(home / "large.txt", "wb") as file:
            for _ in range(max(1, args.megabytes * 1_000_000 // len(text))):
                file.write(text)
        print(f"\ncorpus of {(home / 'large.txt').stat().st_size / 1e6:.0f} MB")
        for script in ("train_tokenizer.py", "prepare.py"):
            watch(home, [script, *TINY, "--corpus=large.txt", "--dataset=large"])


if __name__ == "__main__":
    main()
