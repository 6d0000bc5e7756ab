"""The tokenizer as every script sees it: loading it, its special tokens, the bytes behind each id."""

import itertools
import json

import numpy as np
from tokenizers import Tokenizer

from lib.errors import UserError
from lib.storage import read_text

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
BOS, EOS = 1, 2  # their ids are their places in that list
RUN_TOKENIZER = "run train_tokenizer.py (with init_from, prepare.py) with the same config"


def read_tokenizer(folder) -> str:
    """The text of tokenizer.json, which is stored and compared as it is."""
    return read_text(folder / "tokenizer.json", RUN_TOKENIZER)


def parse_tokenizer(text, where) -> Tokenizer:
    """The byte-level BPE tokenizer in a JSON text. where: its file, for the error message. Raises UserError."""
    try:
        settings = json.loads(text)
        if settings["normalizer"] not in (None, {"type": "NFC"}):  # Others could turn a short text into gigabytes.
            raise ValueError("it has a normalizer other than NFC")
        if settings["truncation"] or settings["padding"]:
            raise ValueError("it cuts or pads texts")
        tokenizer = Tokenizer.from_str(text)
        token_bytes(tokenizer)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise UserError(f"{where}: not a byte-level BPE tokenizer ({error}); {RUN_TOKENIZER}") from None
    # A corpus may contain the text "<eos>", which must stay text. tokenizer.json does not keep this setting.
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_ids(tokenizer, config, where):
    """(bos, eos): the tokens that begin and end a document. bos is None where there is none, as in Qwen3."""
    ids = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for key in ("bos_token", "eos_token"):
        name = getattr(config, key)
        if name not in ids and (name or key == "eos_token"):
            raise UserError(f"{where}: {key} {name!r} is no special token of it; set {key} to one that it has")
    return ids.get(config.bos_token), ids[config.eos_token]


def encode_texts(tokenizer, texts):
    """Yield the token ids of each text in a list."""
    for first in range(0, len(texts), 1000):  # An encoding is many times as large as its text.
        for encoding in tokenizer.encode_batch_fast(texts[first : first + 1000], add_special_tokens=False):
            yield encoding.ids


def count_tokens(encoded, vocab_size):
    """How often each token occurs, (vocab_size,). encoded: the token ids of each of many texts."""
    ids = np.fromiter(itertools.chain.from_iterable(encoded), np.int64)
    return np.bincount(ids, minlength=vocab_size)


def token_bytes(tokenizer) -> list[bytes]:
    """The bytes that each token id stands for; none for the special tokens. ValueError if one stands for none.

    Byte-level BPE writes each byte as a printable character, the same mapping as GPT-2's: printable
    Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}
    added = tokenizer.get_added_tokens_decoder().items()
    known = {i: b"" if token.special else token.content.encode() for i, token in added}
    try:
        ids = range(tokenizer.get_vocab_size())
        return [known[i] if i in known else bytes(byte_of[c] for c in tokenizer.id_to_token(i)) for i in ids]
    except (KeyError, TypeError):
        raise ValueError("a token is not made of bytes, or missing") from None


def token_lengths(tokenizer):
    """Per token id, the bytes it stands for and the characters that begin in it, two arrays (vocab_size,)."""
    pieces = token_bytes(tokenizer)
    characters = [sum(byte & 0xC0 != 0x80 for byte in piece) for piece in pieces]
    return np.array([len(piece) for piece in pieces]), np.array(characters)


def text_or_bytes(piece) -> str | bytes:
    """The bytes of a token as text, or as they are if they are only a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return piece


def readable(piece) -> str:
    """The bytes of a token as text, or as hexadecimal numbers if they are only a part of a character."""
    shown = text_or_bytes(piece)
    return shown if isinstance(shown, str) else f"<0x{piece.hex()}>"


def is_chinese(text) -> bool:
    return bool(text) and all("\u4e00" <= c <= "\u9fff" for c in text)
