"""What can be measured of a trained GPT: how well it guesses, what it makes of its context, what it copies."""

import dataclasses
import gzip
import itertools
import lzma
import math

import numpy as np
import torch
import torch.nn.functional as F
from plan import format_number

NGRAMS = (4, 8, 16)  # characters


def window_starts(n_tokens, size, limit, shifts=1):
    """Where blocks of `size` tokens begin that cover a text, or are spread over it if they exceed `limit` tokens.

    shifts: cover it so many times, each time shifted, so that every token is met with several amounts of context.
    """
    last = n_tokens - size - 1
    starts = np.concatenate([np.arange(shift * size // shifts, last + 1, size) for shift in range(shifts)])
    return starts[np.unique(np.linspace(0, len(starts) - 1, max(1, min(len(starts), limit // size))).astype(int))]


@torch.no_grad()
def token_losses(model, tokens, starts, autocast):
    """(nats of each token that follows, whether it was the first guess), both (len(starts), block_size).

    Row i is of the block that begins at starts[i].
    """
    batch_size = max(1, 4096 // tokens.block_size)
    losses, guessed = [], []
    for part in np.split(starts, range(batch_size, len(starts), batch_size)):
        idx, targets = tokens.blocks(part)
        with autocast:
            logits = model.lm_head(model.hidden(idx)).float()
        losses.append(F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").cpu().numpy())
        guessed.append((logits.argmax(dim=-1) == targets).cpu().numpy())
    return np.concatenate(losses), np.concatenate(guessed)


@torch.no_grad()
def guesses(model, idx, n_guesses=5):
    """For each token of a text after the first: (nats, its rank, [(token, probability)] of the likeliest).

    idx: (1, T), any T. Each token is guessed from the half to whole block before it, or from all there is.
    """
    size, result = model.config.block_size, []
    for first in range(0, idx.size(1) - 1, max(1, size // 2)):
        window = idx[:, first : first + size + 1]
        p = model.lm_head(model.hidden(window[:, :-1]))[0].float().softmax(dim=-1)
        for i in range(0 if first == 0 else size - max(1, size // 2), window.size(1) - 1):
            truth = p[i, window[0, i + 1]]
            top = p[i].topk(n_guesses)
            likely = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            result.append((-math.log(max(truth.item(), 1e-30)), int((p[i] > truth).sum()) + 1, likely))
    return result


def loss_by_position(losses):
    """[(tokens seen before, mean nats)], in bins of 1, 2, 3 to 4, 5 to 8 and so on."""
    size = losses.shape[1]
    edges = [0, *(2**n for n in range(size.bit_length()) if 2**n < size), size]
    return [((first + 1 + end) / 2, float(losses[:, first:end].mean())) for first, end in itertools.pairwise(edges)]


def unigram_loss(train, val, vocab_size):
    """Nats per token of a model that knows only how frequent each token is in the training text."""
    p = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    return float(-np.log(p[val[1:]]).mean())


def bigram_loss(train, val, vocab_size):
    """Nats per token of a model that knows only which token follows which in the training text.

    Pairs that were not seen are guessed by frequency, as if each token had been followed by k such guesses (MacKay
    and Peto, 1995). Of a few k the best counts: a baseline should be hard to beat.
    """
    p = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    wanted = val[:-1] * vocab_size + val[1:]
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    together = np.where(pairs[place] == wanted, counts[place], 0)
    before = np.bincount(train[:-1], minlength=vocab_size)[val[:-1]]
    guesses = ((together + k * p[val[1:]]) / (before + k) for k in 2.0 ** np.arange(13))
    return min(float(-np.log(guess).mean()) for guess in guesses)


def compressed_bits(text, known):
    """Bits per byte that compressors need for a text: gzip, xz, and xz when it has just read `known`."""

    def xz(data):
        return len(lzma.compress(data, preset=9))

    sizes = {
        "gzip": len(gzip.compress(text, 9)),
        "xz": xz(text),
        "xz, training text known": xz(known + text) - xz(known),
    }
    return {name: 8 * size / max(1, len(text)) for name, size in sizes.items()}


# --- copying


def as_codes(text):
    """The characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def hashes(codes, n):
    """A hash of each n characters in a row, n a power of two: made of two of half as many."""
    if len(codes) < n:
        return np.zeros(0, dtype=np.uint64)
    mix, width = 0x9E3779B97F4A7C15, 1
    value = codes.astype(np.uint64) * np.uint64(mix)
    while width < n:
        mix = (mix * 0xD1342543DE82EF95 + 2) % (1 << 64)  # odd
        first, second = value[:-width], value[width:]
        value = (first ^ (first >> np.uint64(29))) * np.uint64(mix) + second
        width *= 2
    return value


def found_in(known, texts, n):
    """Whether each sequence of n characters of some texts stands in `known`: an array of bool for each text."""
    wanted = [hashes(text, n) for text in texts]
    queries = np.unique(np.concatenate(wanted))
    hit, table = np.zeros(len(queries), dtype=bool), np.zeros(1 << 24, dtype=bool)
    table[queries >> np.uint64(40)] = True
    for first in range(0, len(known) if len(queries) else 0, 1 << 20):  # in parts that fit the cache
        part = hashes(known[first : first + (1 << 20) + n - 1], n)
        part = part[table[part >> np.uint64(40)]]  # few are left to be searched for
        place = np.minimum(np.searchsorted(queries, part), len(queries) - 1)
        hit[place[queries[place] == part]] = True
    return [hit[np.searchsorted(queries, values)] for values in wanted]


def copying(known, texts):
    """How much of some texts stands word for word in `known`.

    Returns {"novel": {n: share of their sequences of n characters that do not}, "longest": the longest text that does}.
    """
    codes, known_codes = [as_codes(text) for text in texts or [""]], as_codes(known)
    found = {n: found_in(known_codes, codes, n) for n in (1, *NGRAMS)}
    share = {n: np.concatenate(found[n]).mean() if any(map(len, found[n])) else 0.0 for n in NGRAMS}
    longest = ""
    n = max((n for n in found if any(f.any() for f in found[n])), default=None)
    for text, here in zip(texts, found[n] if n else [], strict=False):
        # Where m sequences of n characters in a row are found, no more than n + m - 1 can be one copy.
        ends = np.append(np.flatnonzero(~here), len(here))
        reach = ends[np.searchsorted(ends, np.arange(len(here)))] + n - 1
        for first in np.flatnonzero(here):
            while (end := first + len(longest) + 1) <= reach[first] and text[first:end] in known:
                longest = text[first:end]
    return {"novel": {n: 1 - float(copied) for n, copied in share.items()}, "longest": longest}


# --- verdict


@dataclasses.dataclass
class Verdict:
    name: str  # healthy, undertrained, overfitting or memorising
    headline: str
    evidence: list
    advice: list


def verdict(
    run, steps, val_losses, max_steps, epochs, ratio, val_loss, sample, bigram, unigram_gap, model_copies, text_copies
):
    """What the figures of a run say together.

    steps, val_losses: of its evaluations. ratio: tokens per parameter. val_loss: of the weights that are judged.
    sample: {"val" and "train": (loss, share of first guesses that are right), "limit": of at most so many tokens}.
    unigram_gap: how much harder the validation text is for a unigram model. model_copies, text_copies: what `copying`
    says of text by the model and of validation text.
    """
    best = int(np.argmin(val_losses))
    step, lowest, last = int(steps[best]), val_losses[best], val_losses[-1]
    (val, val_right), (train, train_right) = sample["val"], sample["train"]
    gap = (
        f"On samples of at most {sample['limit']:,} tokens, the loss is {val:.2f} nats on validation text and"
        f" {train:.2f} on training text (of the difference, {round(unigram_gap, 2) + 0.0:.2f} is the texts’ own, by a"
        f" unigram model); the first guess is right {val_right:.0%} and {train_right:.0%} of the time."
    )
    beats = "below" if val_loss < bigram else "not below"
    baseline = f"{val_loss:.2f} nats is {beats} the {bigram:.2f} of a model that knows only pairs of tokens."
    copies = (
        f"Of its sequences of 8 characters, {1 - model_copies['novel'][8]:.1%} stand word for word in the training text"
        f" ({1 - text_copies['novel'][8]:.1%} of the validation text’s); the longest run of characters is"
        f" {len(model_copies['longest'])} ({len(text_copies['longest'])})."
    )
    twice = f"more than twice what validation text shares with it ({1 - text_copies['novel'][16]:.1%})"
    if 1 - model_copies["novel"][16] > 0.02 + 2 * (1 - text_copies["novel"][16]):
        return Verdict(
            "memorising",
            "It recites its training text",
            [
                f"{1 - model_copies['novel'][16]:.0%} of its sequences of 16 characters stand word for word in the"
                f" training text, {twice}. The longest run is {len(model_copies['longest'])} characters.",
                gap,
            ],
            [
                "Train on more text: a model with as much room as this learns a short one by heart.",
                "Or give it less room and fewer rounds: a smaller `n_embd` or `n_layer`, `--dropout=0.2`, a smaller"
                " `max_steps`.",
            ],
        )
    if last > 1.01 * lowest:
        return Verdict(
            "overfitting",
            f"It has been overfitting since step {step:,}",
            [
                f"The validation loss was lowest, {lowest:.2f} nats, at step {step:,} of {int(steps[-1]):,}, and has"
                f" risen to {last:.2f} since, while the training loss went on falling.",
                baseline,
                gap,
                copies,
            ],
            [
                f"Nothing is lost: best.pt holds the weights of step {step:,}, and sample.py and export.py use them.",
                f"Next time `--max_steps={step}` or a little more, so that the learning rate comes down by then; or"
                " `--dropout=0.1` to 0.2, a smaller model, or best of all more text.",
            ],
        )
    reasons = []
    if steps[-1] < max_steps:
        reasons.append(f"It has made {int(steps[-1]):,} of its {max_steps:,} steps.")
        longer = "Let it come to its end: the same command with `--resume`."
    else:
        flag = f"--max_steps={max_steps * max(2, math.ceil(min(1 / epochs, 20 / ratio)))}"
        longer = f"Train longer: from the beginning with `{flag}`, or on from here with `--resume {flag}`."
    if val_loss >= bigram:
        reasons.append(baseline)
    if epochs < 1 and ratio < 20:
        reasons.append(
            f"It has read {epochs:.0%} of its text, {format_number(ratio)} tokens for each parameter (about 20 suit a"
            " model best)."
        )
    if reasons:
        return Verdict(
            "undertrained",
            "It could learn more from the same text",
            [*reasons, gap, copies],
            [
                longer,
                "If the loss falls slowly from the beginning on, a higher `learning_rate` may be all it needs.",
            ],
        )
    return Verdict(
        "healthy",
        "It has learned from the text, not learned it by heart",
        [
            f"The validation loss came down to {lowest:.2f} nats and stayed there to the end. {baseline}",
            gap,
            copies,
        ],
        [
            f"Talk to it: `python sample.py --run={run}`. Take it elsewhere: `python export.py {run}`.",
            "To go further: more text first; then a larger `n_embd` or `n_layer`, with more `dropout` if the two losses"
            " part.",
        ],
    )
