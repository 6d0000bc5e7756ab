"""The log of a run as it trains: loss_log.json, samples.md, TensorBoard, and its lines on the terminal."""

import dataclasses
import math
import shlex
import shutil
import sys
import time

import torch

from lib.machine import distributed
from lib.machine.device import device_name
from lib.machine.terminal import format_time, one_line
from lib.run.runs import LOG, SAMPLES, useless_evaluations
from lib.storage import write_json, write_text


class RunLog:
    """The records of a run, for loss_log.json and TensorBoard, its lines on the terminal, and its clock."""

    def __init__(self, config, meta, device, progress):
        """meta: of the tokens. progress: how far the run has come, see `begin`."""
        self.config, self.records, self.best_val_loss = config, progress["records"], progress["best_val_loss"]
        self.header = {
            "config": dataclasses.asdict(config),
            "hardware": {
                "device": device.type,
                "name": device_name(device),
                "processes": distributed.world_size,
                "torch": torch.__version__,
            },
            "data": {split: meta[split] for split in ("train", "val")},
            "vocab_size": meta["vocab_size"],
            "unigram_entropy": meta["unigram_entropy"],
        }
        self.interval = config.log_interval or max(1, config.max_steps // 1000)
        self.step_tokens = config.batch_size * config.block_size
        self.useless_evaluations = useless_evaluations(self.records)
        self.live = sys.stdout.isatty()
        self.last_printed = -math.inf
        self.board = open_board(config.run_dir) if config.tensorboard and distributed.is_main else None
        for record in self.records:
            self.draw(record["step"], record)
        # `first` is where this process begins, `last` where the speed is measured from.
        self.first_tokens = progress["tokens"]
        self.first_step = self.last_step = progress["step"]
        self.first_time = self.last_time = time.perf_counter()
        self.began = self.first_time - progress["seconds"]  # as if the run had never been interrupted

    @property
    def seconds(self) -> float:
        """The time of training so far, evaluations included."""
        return time.perf_counter() - self.began

    # --- records

    def tokens(self, step) -> int:
        """The training tokens seen before a step. Earlier steps may have had another batch_size."""
        return self.first_tokens + (step - self.first_step) * self.step_tokens

    def add(self, step, **values):
        """Add to the record of a step what is finite: gradients of float16 may not be, and JSON cannot say so."""
        if not self.records or self.records[-1]["step"] != step:
            self.records.append({"step": step, "tokens": self.tokens(step), "seconds": self.seconds})
        record = self.records[-1]
        new = {name: v for name, v in values.items() if name not in record and (name == "samples" or math.isfinite(v))}
        record |= new
        self.draw(step, new)

    def draw(self, step, values):
        if not self.board:
            return
        for name in values.keys() - {"step", "tokens", "seconds", "samples"}:
            self.board.add_scalar(name, values[name], step)
        for prompt, text in values.get("samples", {}).items():
            self.board.add_text(prompt, prompt + text, step)

    def has_evaluation(self, step) -> bool:
        return any(r["step"] == step and "val_loss" in r for r in self.records[-1:])

    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations brought no better loss. It is the same in all processes."""
        return 0 < self.config.patience <= self.useless_evaluations

    def evaluation(self, step, lr, figures, samples):
        """Log an evaluation. Returns whether its loss is the best so far.

        figures: of evaluate() in train.py. samples: {prompt: its continuation}.
        """
        self.add(step, lr=lr, **figures)
        self.line(
            f"step {step:,}: validation loss {figures['val_loss']:.4f} nats, PPL {figures['val_ppl']:.2f},"
            f" {figures['val_bpc']:.4f} bits per character, {figures['val_bpb']:.4f} per byte"
        )
        if samples:
            self.add(step, samples=samples)
            prompt, text = list(samples.items())[-1]
            self.line(f"    {one_line((prompt + text)[:40])}")
        is_best = figures["val_loss"] < self.best_val_loss
        self.best_val_loss = min(figures["val_loss"], self.best_val_loss)
        self.useless_evaluations = useless_evaluations(self.records)
        return is_best

    def training(self, step, lr, train_loss, grad_norm):
        """Log a training step that has been made."""
        now = time.perf_counter()
        speed = (step + 1 - self.last_step) * self.step_tokens / (now - self.last_time)
        self.last_step, self.last_time = step + 1, now
        self.add(step, lr=lr, train_loss=train_loss, grad_norm=grad_norm, tokens_per_second=speed)
        left = (self.config.max_steps - step) * (now - self.first_time) / (step + 1 - self.first_step)
        val_loss = next((r["val_loss"] for r in reversed(self.records) if "val_loss" in r), math.nan)
        self.progress(  # fits a terminal of 80 columns
            f"step {step}/{self.config.max_steps} loss {train_loss:.3f} val {val_loss:.3f} lr {lr:.1e}"
            f" norm {grad_norm:.1f} {speed / 1000:,.1f}k tok/s ETA {format_time(left)}"
        )

    def save(self, step):
        """Write the log. Evaluating and saving are no training, so the speed is measured anew from here on."""
        if not distributed.is_main:
            return
        write_json(self.config.run_dir / LOG, self.header | {"records": self.records})
        if any("samples" in record for record in self.records):
            write_samples(self.config.run_dir / SAMPLES, self.records)
        if self.board:
            self.board.flush()
        self.last_step, self.last_time = step, time.perf_counter()
        if step == self.first_step:
            self.first_time = self.last_time

    # --- terminal

    def progress(self, line):
        """A live line on a terminal; in a file, a line every ten seconds."""
        if self.live:
            # A line that wraps could not be drawn over.
            print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif time.monotonic() - self.last_printed > 10:
            print(line, flush=True)
            self.last_printed = time.monotonic()

    def line(self, line):
        print(f"\r\033[K{line}" if self.live else line, flush=True)


def say_what_is_next(log, argv, step, stopping, prompts) -> int:
    """The last lines of a run. Returns the exit code."""
    if stopping:
        words = [word for word in argv if word not in ("--resume", "--overwrite")]
        start = "torchrun … train.py" if distributed.is_torchrun else "python train.py"
        print(f"saved step {step:,}; go on with: {start} {shlex.join(words)} --resume")
        return 128 + stopping
    if step < log.config.max_steps:
        print(
            f"ended at step {step:,}: {log.useless_evaluations} evaluations brought no better validation loss"
            f" (patience={log.config.patience}); to go on: --resume --patience=0"
        )
    run = shlex.quote(log.config.run)
    took, loss = format_time(log.seconds), log.best_val_loss
    print(f"done in {took}: best validation loss {loss:.4f}, saved in {log.config.run_dir}")
    print(f"next: python -m tools.report {run}")
    prompt = one_line(shlex.quote(prompts[-1] if prompts else "你好"))
    print(f"      python sample.py --run={run} --prompt={prompt}")
    print(f"      python plot_loss.py {run}")
    return 0


def open_board(run_dir):
    """A writer for TensorBoard. What it wrote before is in the log too, and is written anew from there."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
    return SummaryWriter(run_dir / "tensorboard")


def write_samples(path, records):
    """samples.md: what the model wrote at each evaluation."""
    parts = ["# What the model wrote\n\nThe same beginnings, continued after more and more training.\n"]
    for record in records:
        for i, (prompt, text) in enumerate(record.get("samples", {}).items()):
            if i == 0:
                parts.append(f"\n## Step {record['step']:,}, validation loss {record['val_loss']:.4f}\n")
            # Indented, it stays as it is, whatever it holds.
            parts.append("\n" + "".join(f"    {line}\n" for line in (prompt + text).split("\n")))
    write_text(path, "".join(parts))
