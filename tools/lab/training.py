"""A training as a process of its own, of which only the figures are kept."""

import os
import shutil
import subprocess
import sys

import config
from lib.errors import UserError
from lib.run.runs import Run


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
