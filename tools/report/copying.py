"""How much of some texts stands word for word in another one."""

import dataclasses

import numpy as np

NGRAMS = (4, 8, 16)  # characters
PART = 1 << 20  # characters that are hashed at a time


@dataclasses.dataclass
class Copies:
    novel: dict  # {n: the share of the sequences of n characters that the known text lacks}
    longest: str  # the longest copy


def find_copies(known, texts) -> Copies:
    """What some texts have in common with a known one."""
    texts = texts or [""]
    codes, known_codes = [as_codes(text) for text in texts], as_codes(known)
    found = {n: found_in(known_codes, codes, n) for n in (1, *NGRAMS)}
    flat = {n: np.concatenate(here) for n, here in found.items()}
    novel = {n: 1 - float(flat[n].sum()) / max(1, len(flat[n])) for n in NGRAMS}
    longest = ""
    n = max((n for n in found if flat[n].any()), default=1)  # The longest copy begins with n characters that are found.
    for text, here in zip(texts, found[n], strict=True):
        for first in np.flatnonzero(here):
            while (end := first + len(longest) + 1) <= len(text) and text[first:end] in known:
                longest = text[first:end]
    return Copies(novel, longest)


def as_codes(text):
    """The characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def found_in(known, texts, n):
    """Whether each sequence of n characters stands in the known text: an array of bool for each of the texts."""
    wanted = [hashes(text, n) for text in texts]
    queries = np.unique(np.concatenate(wanted))
    found = np.zeros(len(queries), dtype=bool)
    for first in range(0, len(known), PART):
        part = hashes(known[first : first + PART + n - 1], n)
        found |= np.isin(queries, part[np.isin(part, queries)])  # Without the inner one it is far slower.
    return [found[np.searchsorted(queries, values)] for values in wanted]


def hashes(codes, n):
    """A number of 64 bits for each n characters in a row. Others have another number, all but certainly."""
    codes = codes.astype(np.uint64)
    weights = np.random.default_rng(0).integers(1 << 64, size=n, dtype=np.uint64)
    return np.convolve(codes, weights, mode="valid") if len(codes) >= n else codes[:0]
