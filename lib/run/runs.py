"""The runs that are there: where they keep their files, how one is found, and what its log says."""

import argparse
import itertools
from pathlib import Path

import numpy as np

from config import out_dir
from lib.errors import UserError
from lib.machine.terminal import one_line
from lib.storage import is_number, read_json

BEST, LATEST, LOG, SAMPLES = "best.pt", "ckpt.pt", "loss_log.json", "samples.md"
LOG_HINT = "train the run again, or --resume it, to write it anew"


def add_run_argument(parser, help="a name under out/, a folder or a checkpoint [the most recent]"):
    """Let a script take a run as a word or with --run. args.run is "" without either; both are a usage error."""
    parser.set_defaults(run="")
    group = parser.add_mutually_exclusive_group()
    words = {"default": argparse.SUPPRESS, "metavar": "RUN"}
    group.add_argument("run", nargs="?", help=help, **words)
    group.add_argument("--run", "--run_name", help="the same, as a flag", **words)


def run_name(folder) -> str:
    """The name of a run is that of its folder, whatever its files say: a folder may be renamed or copied."""
    return one_line(folder.resolve().name)


def find_run(run, *names) -> Path:
    """The file of a run: the first of `names` that it has.

    run: a folder or a file (relative to the working folder), a name under out/, or "" for the run
    that was written to last. Raises UserError.
    """
    out = out_dir()
    found = [path for name in names for path in out.glob(f"*/{name}")]
    places = (Path(run), out / run)  # A folder of that name need not be a run.
    if not run:
        if not found:
            raise UserError(f"no run in {out}; train one first: python train.py config/tiny.py")
        places = (max(found, key=lambda path: path.stat().st_mtime).parent,)
    for path in (*(place / name for place in places for name in names), *places):
        if path.is_file():
            return path
    folder = next((place for place in reversed(places) if place.exists()), None)
    if folder:
        raise UserError(f"{folder} has no {' or '.join(names)}; train the run first, or name another with --run")
    known = ", ".join(sorted({path.parent.name for path in found}))
    raise UserError(f"no run named {run!r}; there is {known or 'none yet'}")


def sound(records) -> list:
    """The records of a file, without values that are no numbers and samples that are no texts."""
    kept = []
    for record in records if isinstance(records, list) else ():
        if not isinstance(record, dict) or not is_number(record.get("step")):
            continue
        samples = record.get("samples", {})
        is_text = isinstance(samples, dict) and all(type(text) is str for text in itertools.chain(*samples.items()))
        whole = is_text and "val_loss" in record
        kept.append({key: v for key, v in record.items() if (whole if key == "samples" else is_number(v))})
    return kept


def useless_evaluations(records) -> int:
    """How many evaluations there are after the best one."""
    losses = [record["val_loss"] for record in records if "val_loss" in record]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


class Run:
    """What one loss_log.json says. name: see find_run. Raises UserError."""

    def __init__(self, name):
        path = find_run(name, LOG)
        log = read_json(path, LOG_HINT)
        self.header, self.records, self.folder = log, sound(log.get("records")), path.parent
        config = log.get("config")
        if not isinstance(config, dict):
            raise UserError(f"{path} is damaged (it lacks the config); {LOG_HINT}")
        self.name = run_name(self.folder)
        self.unigram_entropy = log.get("unigram_entropy")
        self.train, self.val = self.series("train_loss"), self.series("val_loss")
        if not len(self.train[0]) and not len(self.val[0]):
            raise UserError(f"{path} has no records of a loss yet; let the run go on for a few steps")

    @property
    def step_tokens(self):
        """Training tokens in a step, on average: batch_size may have changed on the way."""
        steps, tokens = self.series("tokens")
        return tokens[-1] / max(1, steps[-1]) if len(steps) else 0

    def series(self, key, x="step"):
        """(steps, values), two arrays, of the records that have this number."""
        points = [(record[x], record[key]) for record in self.records if key in record and x in record]
        return np.array(points, dtype=float).reshape(-1, 2).T


def smooth(values, reach):
    """The average of `reach` values on each side; of fewer where the curve begins, so that it begins where it did."""
    middle, total = np.arange(len(values)), np.cumsum([0.0, *values])
    reach = np.minimum(middle, reach)
    first, end = middle - reach, np.minimum(middle + reach + 1, len(values))
    return (total[end] - total[first]) / (end - first)
