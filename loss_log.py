"""The records of a run, loss_log.json: written while it trains, read by whoever draws or judges it."""

from errors import UserError, one_line

import contextlib
import math
import shutil
import sys
import time

import numpy as np

from files import LOG, SAMPLES, atomic_write, find_run, is_number, read_json, write_json


class Log:
    """The records of a run, for loss_log.json and TensorBoard, and its lines on the terminal."""

    def __init__(self, header, records, board=None):
        self.header, self.records, self.board = header, records, board
        self.live = sys.stdout.isatty()
        self.printed = 0.0
        for record in records if board else ():
            self.draw(record["step"], record)

    def add(self, step, **values):
        """Add to the record of a step what is finite: gradients of fp16 may not be, and JSON cannot say so."""
        if not self.records or self.records[-1]["step"] != step:
            self.records.append({"step": step})
        record = self.records[-1]
        new = {name: v for name, v in values.items() if name not in record and math.isfinite(v)}
        record |= new
        if self.board:
            self.draw(step, new)

    def draw(self, step, values):
        for name in values.keys() - {"step", "tokens", "seconds", "samples"}:
            self.board.add_scalar(name, values[name], step)
        for prompt, text in values.get("samples", {}).items():
            self.board.add_text(prompt, prompt + text, step)

    def has_evaluation(self, step) -> bool:
        return any(r["step"] == step and "val_loss" in r for r in self.records[-1:])

    def last_val_loss(self) -> float:
        return next((r["val_loss"] for r in reversed(self.records) if "val_loss" in r), math.nan)

    def progress(self, line):
        """A live line on a terminal; in a file, a line every ten seconds."""
        if self.live:
            # A line that wraps could not be drawn over.
            print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif time.monotonic() - self.printed > 10:
            print(line, flush=True)
            self.printed = time.monotonic()

    def line(self, line):
        print(f"\r\033[K{line}" if self.live else line, flush=True)

    def add_samples(self, step, samples):
        """Add {prompt: its continuation} to the record of a step."""
        if not samples:
            return
        self.records[-1]["samples"] = samples
        if self.board:
            self.draw(step, {"samples": samples})
        prompt, text = list(samples.items())[-1]
        self.line(f"    {one_line((prompt + text)[:40])}")

    def save(self, run_dir):
        write_json(run_dir / LOG, self.header | {"records": self.records})
        if any("samples" in record for record in self.records):
            write_samples(run_dir / SAMPLES, self.records)
        if self.board:
            self.board.flush()


def open_board(run_dir):
    """A writer for TensorBoard. What it wrote before is in the log too, and is written anew from there."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("tensorboard is not installed; python -m pip install tensorboard, or leave it out") from None
    shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
    return SummaryWriter(run_dir / "tensorboard")


def write_samples(path, records):
    """samples.md: what the model wrote at each evaluation."""
    with atomic_write(path, "w") as file:
        file.write("# What the model wrote\n\nThe same beginnings, continued after more and more training.\n")
        for record in records:
            for i, (prompt, text) in enumerate(record.get("samples", {}).items()):
                if i == 0:
                    file.write(f"\n## Step {record['step']:,}, validation loss {record['val_loss']:.4f}\n")
                # Indented, it stays as it is, whatever it holds.
                file.write("\n" + "".join(f"    {line}\n" for line in (prompt + text).split("\n")))


# --- reading


class Run:
    """What one loss_log.json says."""

    def __init__(self, name):
        path = find_run(name, LOG)
        remedy = "train the run again, or --resume it, to write it anew"
        log = read_json(path, remedy)
        records, config = log.get("records"), log.get("config")
        if not isinstance(records, list) or not isinstance(config, dict):
            raise UserError(f"{path} is damaged (it lacks records or config); --resume the run to write it anew")
        self.records = [r for r in records if isinstance(r, dict) and is_number(r.get("step"))]
        self.folder, self.name = path.parent, str(config.get("run") or path.parent.name)
        self.unigram_entropy, self.tokens_sha256 = log.get("unigram_entropy"), None
        with contextlib.suppress(KeyError, TypeError):  # of the training tokens, if it says so
            self.tokens_sha256 = log["data"]["train"]["sha256"]
        self.train, self.val = self.series("train_loss"), self.series("val_loss")
        if not len(self.train[0]) and not len(self.val[0]):
            raise UserError(f"{path} has no records of a loss yet; let the run go on for a few steps")

    @property
    def step_tokens(self):
        """Training tokens in a step."""
        steps, tokens = self.series("tokens")
        return tokens[-1] / max(1, steps[-1]) if len(steps) else 0

    def series(self, key, x="step"):
        """(steps, values) of the records that have this number."""
        points = [(r[x], r[key]) for r in self.records if is_number(r.get(key)) and is_number(r.get(x))]
        return np.array(points, dtype=float).reshape(-1, 2).T


def smooth(values, reach):
    """The average of `reach` values on each side; of fewer where the curve begins, so that it begins where it did."""
    middle, total = np.arange(len(values)), np.cumsum([0.0, *values])
    reach = np.minimum(middle, reach)
    first, end = middle - reach, np.minimum(middle + reach + 1, len(values))
    return (total[end] - total[first]) / (end - first)
