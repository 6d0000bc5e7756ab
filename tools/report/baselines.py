"""Simpler models than a GPT, and their losses on the same text: unigrams, bigrams and compressors."""

import gzip
import lzma

import numpy as np


def unigram_loss(train, val, vocab_size) -> float:
    """Nats per token of a model that knows only how frequent each token is. train, val: arrays of token ids."""
    p = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    return float(-np.log(p[val[1:]]).mean())


def bigram_loss(train, val, vocab_size) -> float:
    """Nats per token of a model that knows only which token follows which.

    Where it has seen few pairs it falls back on how frequent a token is, as if each token had been followed by k such
    guesses (MacKay and Peto, 1995). The best of a few k counts, because a baseline should be hard to beat.
    """
    p = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    wanted = val[:-1] * vocab_size + val[1:]
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    together = np.where(pairs[place] == wanted, counts[place], 0)
    before = np.bincount(train[:-1], minlength=vocab_size)[val[:-1]]
    guesses = ((together + k * p[val[1:]]) / (before + k) for k in 2.0 ** np.arange(13))
    return min(float(-np.log(guess).mean()) for guess in guesses)


def compressed_bits(text, known) -> dict:
    """Bits per byte that compressors need for a text: gzip, xz, and xz+, which has just read `known`."""

    def xz(data):
        return len(lzma.compress(data, preset=9))

    sizes = {
        "gzip": len(gzip.compress(text, 9)),
        "xz": xz(text),
        "xz+": xz(known + text) - xz(known),
    }
    return {name: 8 * size / max(1, len(text)) for name, size in sizes.items()}
