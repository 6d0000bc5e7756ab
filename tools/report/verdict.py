"""The verdict on a run: what its figures say together, and what to try next. words.py has its sentences."""

import math
import shlex
from typing import NamedTuple

import numpy as np

from lib.machine.terminal import format_number
from lib.run.runs import useless_evaluations
from tools.report import words
from tools.report.words import Said


class Verdict(NamedTuple):
    name: Said  # memorising, overfitting, undertrained or healthy
    headline: Said
    evidence: list[Said]
    advice: list[Said]


def judge(m) -> Verdict:
    """The verdict on what measure_run has found. The worst counts."""
    return memorising(m) or overfitting(m) or undertrained(m) or healthy(m)


def memorising(m):
    copied, usual = 1 - m.model_copies.novel[16], 1 - m.text_copies.novel[16]
    if copied > 0.02 + 2 * usual:
        recited = words.RECITED.format(copied=copied, usual=usual, longest=len(m.model_copies.longest))
        advice = [words.MORE_TEXT, words.OR_RECIPE.format(recipe=recipe_command(m))]
        return Verdict(words.MEMORISING, words.RECITES, [recited, gap(m)], advice)


def overfitting(m):
    steps, losses = m.run.val
    step, lowest, last = int(steps[np.argmin(losses)]), losses.min(), losses[-1]
    if last > 1.01 * lowest:
        turned = words.TURNED.format(lowest=lowest, step=step, last_step=int(steps[-1]), last=last)
        advice = [words.BEST_IS_KEPT.format(step=step), words.BEST_IS_MORE_TEXT.format(recipe=recipe_command(m))]
        evidence = [turned, comparison(m), gap(m), copies(m)]
        return Verdict(words.OVERFITTING, words.HAS_OVERFITTED.format(step=step), evidence, advice)


def undertrained(m):
    last_step, max_steps, reasons = int(m.run.val[0][-1]), m.config.max_steps, []
    if 0 < m.config.patience <= useless_evaluations(m.run.records):
        longer = words.PATIENCE_ENDED_IT
    elif last_step < max_steps:
        reasons.append(words.STEPS_MADE.format(step=last_step, max_steps=max_steps))
        longer = words.FINISH
    else:
        factor = max(2, math.ceil(min(1 / m.epochs, 20 / m.tokens_per_parameter)))
        longer = words.TRAIN_LONGER.format(flag=f"--max_steps={max_steps * factor}")
    if m.val_loss >= m.baselines["bigram"]:
        reasons.append(comparison(m))
    if m.epochs < 1 and m.tokens_per_parameter < 20:
        per_parameter = format_number(m.tokens_per_parameter)
        reasons.append(words.LITTLE_READ.format(epochs=m.epochs, per_parameter=per_parameter))
    if reasons:
        evidence, advice = [*reasons, gap(m), copies(m)], [longer, words.FALLS_SLOWLY]
        return Verdict(words.UNDERTRAINED, words.COULD_LEARN_MORE, evidence, advice)


def healthy(m):
    lowest, bigram = m.run.val[1].min(), m.baselines["bigram"]
    came_down = words.CAME_DOWN.format(lowest=lowest, loss=m.val_loss, bigram=bigram)
    use_it = words.USE_IT.format(run=shlex.quote(m.run.folder.name))
    advice = [use_it, words.GO_FURTHER.format(recipe=recipe_command(m))]
    return Verdict(words.HEALTHY, words.HAS_LEARNED, [came_down, gap(m), copies(m)], advice)


def recipe_command(m) -> str:
    text = shlex.quote(m.config.corpus) if m.config.corpus else f"--dataset={shlex.quote(m.config.dataset)}"
    return f"`python -m tools.recipe {text} --minutes=10`"


def comparison(m) -> Said:
    loss, bigram = m.val_loss, m.baselines["bigram"]
    return (words.BELOW_BIGRAM if loss < bigram else words.NOT_BELOW_BIGRAM).format(loss=loss, bigram=bigram)


def gap(m) -> Said:
    (val, val_right), (train, train_right) = m.sample["val"], m.sample["train"]
    own = round(m.unigram_gap, 2) + 0.0  # and never -0.00
    return words.GAP.format(
        n=m.sample_tokens, val=val, train=train, own=own, val_right=val_right, train_right=train_right
    )


def copies(m) -> Said:
    model, text = m.model_copies, m.text_copies
    return words.COPIES.format(
        model=1 - model.novel[8],
        text=1 - text.novel[8],
        model_longest=len(model.longest),
        text_longest=len(text.longest),
    )
