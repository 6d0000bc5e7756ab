"""The verdict on a run: what its figures say together, and what to try next."""

import math
import shlex
from typing import NamedTuple

import numpy as np

from lib.machine.terminal import format_number
from lib.run.runs import useless_evaluations


class Verdict(NamedTuple):
    name: str  # memorising, overfitting, undertrained or healthy
    headline: str
    evidence: list
    advice: list


def judge(m) -> Verdict:
    """The verdict on what measure_run has found. The worst counts."""
    return memorising(m) or overfitting(m) or undertrained(m) or healthy(m)


def memorising(m):
    copied, usual = 1 - m.model_copies.novel[16], 1 - m.text_copies.novel[16]
    if copied > 0.02 + 2 * usual:
        recited = (
            f"{copied:.0%} of its sequences of 16 characters appear word for word in the training text, more than twice"
            f" the share in real text ({usual:.1%}). Its longest copy is {len(m.model_copies.longest)} characters."
        )
        advice = [
            "Train on more text: a model of this size learns a short text by heart.",
            f"Or let {recipe_command(m)} choose a size, a number of steps and a weight decay that suit this text.",
        ]
        return Verdict("memorising", "It recites its training text", [recited, gap(m)], advice)


def overfitting(m):
    steps, losses = m.run.val
    step, lowest, last = int(steps[np.argmin(losses)]), losses.min(), losses[-1]
    if last > 1.01 * lowest:
        turn = (
            f"The validation loss was lowest, {lowest:.2f} nats, at step {step:,} of {int(steps[-1]):,}. It has since"
            f" risen to {last:.2f}, while the training loss went on falling."
        )
        advice = [
            f"Nothing is lost: best.pt holds the weights of step {step:,}, and sample.py and tools.export use them.",
            f"Best of all is more text. For this one, {recipe_command(m)} chooses a size, a number of steps and a"
            " weight decay that suit it.",
        ]
        headline = f"It has been overfitting since step {step:,}"
        return Verdict("overfitting", headline, [turn, comparison(m), gap(m), copies(m)], advice)


def undertrained(m):
    last_step, max_steps, reasons = int(m.run.val[0][-1]), m.config.max_steps, []
    if 0 < m.config.patience <= useless_evaluations(m.run.records):
        longer = "Its patience has ended it: go on from here with `--resume --patience=0`."
    elif last_step < max_steps:
        reasons.append(f"It has made {last_step:,} of its {max_steps:,} steps.")
        longer = "Let it come to its end: the same command with `--resume`."
    else:
        factor = max(2, math.ceil(min(1 / m.epochs, 20 / m.tokens_per_parameter)))
        flag = f"--max_steps={max_steps * factor}"
        longer = f"Train longer: from the beginning with `{flag}`, or on from here with `--resume {flag}`."
    if m.val_loss >= m.baselines["bigram"]:
        reasons.append(comparison(m))
    if m.epochs < 1 and m.tokens_per_parameter < 20:
        reasons.append(
            f"It has read {m.epochs:.0%} of its text, {format_number(m.tokens_per_parameter)} tokens for each parameter"
            " (about 20 suit a model best)."
        )
    if reasons:
        slow = "If the loss falls slowly from the beginning on, a higher `learning_rate` may be all it needs."
        evidence = [*reasons, gap(m), copies(m)]
        return Verdict("undertrained", "It could learn more from the same text", evidence, [longer, slow])


def healthy(m):
    lowest, run = m.run.val[1].min(), shlex.quote(m.run.folder.name)
    came_down = f"The validation loss came down to {lowest:.2f} nats and stayed there to the end. {comparison(m)}"
    advice = [
        f"Talk to it: `python sample.py --run={run}`. Take it elsewhere: `python -m tools.export {run}`.",
        f"To go further, take more text or more time: {recipe_command(m)} says which model they are enough for.",
    ]
    headline = "It has learned from the text, not learned it by heart"
    return Verdict("healthy", headline, [came_down, gap(m), copies(m)], advice)


def recipe_command(m) -> str:
    text = shlex.quote(m.config.corpus) if m.config.corpus else f"--dataset={shlex.quote(m.config.dataset)}"
    return f"`python -m tools.recipe {text} --minutes=10`"


def comparison(m) -> str:
    loss, bigram = m.val_loss, m.baselines["bigram"]
    beats = "below" if loss < bigram else "not below"
    return f"{loss:.2f} nats is {beats} the {bigram:.2f} of a model that knows only pairs of tokens."


def gap(m) -> str:
    (val, val_right), (train, train_right) = m.sample["val"], m.sample["train"]
    return (
        f"On samples of at most {m.sample_tokens:,} tokens, the loss is {val:.2f} nats on validation text and"
        f" {train:.2f} on training text. Of the difference, {round(m.unigram_gap, 2) + 0.0:.2f} is the texts’ own, as a"
        f" unigram model shows. The first guess is right {val_right:.0%} and {train_right:.0%} of the time."
    )


def copies(m) -> str:
    model, text = m.model_copies, m.text_copies
    return (
        f"Of its sequences of 8 characters, {1 - model.novel[8]:.1%} appear word for word in the training text, against"
        f" {1 - text.novel[8]:.1%} in real text. Its longest copy is {len(model.longest)} characters, that of real text"
        f" {len(text.longest)}."
    )
