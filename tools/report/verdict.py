"""The verdict on a run: what its figures say together, and what to try next."""

import dataclasses
import math
import shlex

import numpy as np

from lib.plan import format_number


@dataclasses.dataclass
class Verdict:
    name: str  # healthy, undertrained, overfitting or memorising
    headline: str
    evidence: list
    advice: list


def judge(m) -> Verdict:
    """The verdict on Measurements (see measures.py). The worst finding counts."""
    return memorising(m) or overfitting(m) or undertrained(m) or healthy(m)


def memorising(m):
    copied, usual = 1 - m.model_copies.novel[16], 1 - m.text_copies.novel[16]
    if copied <= 0.02 + 2 * usual:
        return None
    evidence = [
        f"{copied:.0%} of its sequences of 16 characters appear word for word in the training text, more than twice the"
        f" share of the validation text ({usual:.1%}). Its longest copy is {len(m.model_copies.longest)} characters.",
        gap(m),
    ]
    advice = [
        "Train on more text: a model of this size learns a short text by heart.",
        "Or make the model smaller and the training shorter: with a smaller `n_embd`, `n_layer` or `max_steps`, or with"
        " `--dropout=0.2`.",
    ]
    return Verdict("memorising", "It recites its training text", evidence, advice)


def overfitting(m):
    steps, losses = m.run.val
    best = int(np.argmin(losses))
    step, lowest, last = int(steps[best]), losses[best], losses[-1]
    if last <= 1.01 * lowest:
        return None
    evidence = [
        f"The validation loss was lowest, {lowest:.2f} nats, at step {step:,} of {int(steps[-1]):,}. It has risen to"
        f" {last:.2f} since, while the training loss went on falling.",
        comparison(m),
        gap(m),
        copies(m),
    ]
    advice = [
        f"Nothing is lost: best.pt holds the weights of step {step:,}, and sample.py and tools.export use them.",
        f"Next time try `--max_steps={step}` or a little more, so that the learning rate comes down by then; or"
        " `--dropout=0.1` to 0.2, a smaller model, or best of all more text.",
    ]
    return Verdict("overfitting", f"It has been overfitting since step {step:,}", evidence, advice)


def undertrained(m):
    last_step, max_steps = int(m.run.val[0][-1]), m.config.max_steps
    reasons = []
    if last_step < max_steps:
        reasons.append(f"It has made {last_step:,} of its {max_steps:,} steps.")
    if m.val_loss >= m.baselines["bigram"]:
        reasons.append(comparison(m))
    if m.epochs < 1 and m.tokens_per_parameter < 20:
        reasons.append(
            f"It has read {m.epochs:.0%} of its text, {format_number(m.tokens_per_parameter)} tokens for each parameter"
            " (about 20 suit a model best)."
        )
    if not reasons:
        return None
    if last_step < max_steps:
        longer = "Let it come to its end: the same command with `--resume`."
    else:
        factor = max(2, math.ceil(min(1 / m.epochs, 20 / m.tokens_per_parameter)))
        flag = f"--max_steps={max_steps * factor}"
        longer = f"Train longer: from the beginning with `{flag}`, or on from here with `--resume {flag}`."
    advice = [longer, "If the loss falls slowly from the beginning on, a higher `learning_rate` may be all it needs."]
    evidence = [*reasons, gap(m), copies(m)]
    return Verdict("undertrained", "It could learn more from the same text", evidence, advice)


def healthy(m):
    lowest, run = m.run.val[1].min(), shlex.quote(m.run.folder.name)
    came_down = f"The validation loss came down to {lowest:.2f} nats and stayed there to the end."
    evidence = [f"{came_down} {comparison(m)}", gap(m), copies(m)]
    advice = [
        f"Talk to it: `python sample.py --run={run}`. Take it elsewhere: `python -m tools.export {run}`.",
        "To go further, take more text first; then a larger `n_embd` or `n_layer`, with more `dropout` if the training"
        " loss falls far below the validation loss.",
    ]
    return Verdict("healthy", "It has learned from the text, not learned it by heart", evidence, advice)


# --- sentences


def comparison(m) -> str:
    beats = "below" if m.val_loss < m.baselines["bigram"] else "not below"
    return (
        f"{m.val_loss:.2f} nats is {beats} the {m.baselines['bigram']:.2f} of a model that knows only pairs of tokens."
    )


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
