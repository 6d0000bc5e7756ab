"""Bytes that somebody brings become text: which encoding they are in, and what becomes of damaged ones."""

import codecs
import functools
import math
import re
import string
import sys

from lib.errors import UserError

MARK = "\udcff"  # stands for bytes that are no character; no text holds it
DAMAGE = re.compile(f"{MARK}+")
BYTE_ORDER_MARKS = {  # that of UTF-32 first, since it may begin as that of UTF-16 does
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-8-sig": (codecs.BOM_UTF8,),
}
PIECE, N_PIECES = 256, 256  # bytes that are tried at once, and how many such pieces at most
# Log-probabilities: the text under which the bytes are most probable is the right one.
RARE = -15  # of a character that texts in an encoding hardly use, and of bytes that are no character
CHANCE = -math.log(256)  # of a byte, if they are no text
DOUBT = 4  # A lead of less than this is none to rely on.
# Scripts do not mix within a word, but accents look so in the encodings of others.
MIXED = re.compile("[A-Za-z][А-я]|[А-я][A-Za-z]|[a-z][⺀-힣][a-z]")


@functools.cache
def _candidates():
    """{encoding: (its own log-probability, {character: log-probability}, that of any other character)}.

    In East Asia nearly all text is of common characters, which each encoding has in one block. What is decoded wrongly
    comes from everywhere.
    """
    plain = dict.fromkeys(map(chr, range(32)), -20) | dict.fromkeys(string.printable, -4)
    signs = dict.fromkeys(_block("gb2312", 0xA1, 0xA1) + _block("gb2312", 0xA3, 0xA3), -7) | plain
    traditional = dict.fromkeys(_block("big5", 0xA4, 0xC6), -9) | signs
    chinese = dict.fromkeys(_block("gb2312", 0xB0, 0xD7), -9) | traditional  # GB18030 is used for both.
    kana = dict.fromkeys(_block("euc_jp", 0xA4, 0xA5) + "ー", -5.5)
    japanese = dict.fromkeys(_block("euc_jp", 0xB0, 0xCF), -9) | kana | signs
    korean = dict.fromkeys(_block("euc_kr", 0xB0, 0xC8), -8) | signs
    western = dict.fromkeys("àáâäåæçèéêëìíîïñòóôöøùúûüßÄÖÜÉ’“”–«»…\xa0", -5.5) | plain
    letters = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
    russian = dict.fromkeys(letters, -3.6) | dict.fromkeys(letters.upper(), -7) | plain
    every = russian | western | korean | japanese | chinese
    return {
        "utf-8": (5, plain | {"�": RARE}, -6),  # Hardly any bytes are UTF-8 by chance.
        "gb18030": (0, chinese, RARE),
        "big5hkscs": (-3, traditional, RARE),
        "cp932": (-5, japanese, RARE),
        "euc_jp": (-5, japanese, RARE),
        "cp949": (-5, korean, RARE),
        "utf-16-le": (-3, every, RARE),
        "utf-16-be": (-6, every, RARE),
        "cp1252": (-3, western, RARE),
        "cp1251": (-8, russian, RARE),
        "koi8-r": (-8, russian, RARE),
    }


def _block(encoding, first, last):
    """The characters whose first byte is from `first` to `last`."""
    pairs = (bytes((lead, trail)) for lead in range(first, last + 1) for trail in range(0x40, 0xFF))
    return b"".join(pairs).decode(encoding, "ignore")


def guess(parts):
    """(the most plausible encoding, another one if in doubt or else None), as Python names them; (None, None): no text.

    parts: bytes from places all over a file, the first from its start, all from even places. Damage hardly matters.
    """
    for encoding, marks in BYTE_ORDER_MARKS.items():
        if parts and parts[0].startswith(marks):
            return encoding, None
    pieces = [part[i : i + PIECE] for part in parts for i in range(0, len(part), PIECE)]
    pieces = [(i, piece) for i, piece in enumerate(pieces) if not piece.isascii() or b"\0" in piece]
    pieces = pieces[:: len(pieces) // N_PIECES + 1]
    plausible = {None: -8 + CHANCE * sum(len(piece) for _, piece in pieces)}
    for encoding, (prior, common, others) in _candidates().items():
        plausible[encoding] = prior
        for i, piece in pieces:
            score = _score(piece.decode(encoding, "replace"), common, others)
            if i:  # It may begin inside a character.
                score = max(score, RARE + _score(piece[1:].decode(encoding, "replace"), common, others))
            plausible[encoding] += score
    first, second = sorted(plausible, key=plausible.get, reverse=True)[:2]
    in_doubt = first and plausible[first] - plausible[second] < DOUBT
    return first, second if in_doubt else None


def _score(text, common, others):
    return sum([common.get(c, others) for c in text]) + RARE * len(MIXED.findall(text))


def _mark(error):
    """An error handler for decoding: MARK stands for bytes that are no character.

    Where a character has two bytes, the one after a bad one may go with it or begin the next: what follows tells.
    """
    if error.encoding == "utf-8":
        return MARK, error.end
    last = min(error.end + ("multibyte" in error.reason), len(error.object))
    common = _candidates()["utf-16-le"][1]

    def n_rare(end):
        return sum(c not in common for c in error.object[end : end + 32].decode(error.encoding, "replace"))

    return MARK, min(range(error.start + 1, last + 1), key=n_rare)


codecs.register_error("mark", _mark)


def check_name(encoding):
    """Raise UserError for what is no encoding of texts."""
    try:
        # UTF-7 and some codecs of Python's own read this as half a character, which no text can hold.
        b"+2AA-\\ud800".decode(encoding, "mark").replace(MARK, "").encode()
    except (LookupError, ValueError):
        raise UserError(f"encoding: {encoding!r} is none that texts are read in; try auto, gb18030 or big5") from None


def decode(data: bytes, where: str) -> str:
    """The text of a small input, such as a prompt. Says on stderr what is not UTF-8 or damaged. Raises UserError."""
    encoding, other = guess([data])
    if encoding is None:
        raise UserError(f"{where} is no text; if it is, save it as UTF-8")
    text, damage = DAMAGE.subn("�", data.decode(encoding, "mark").replace("\ufeff", ""))
    notes = [] if encoding.startswith("utf-8") else [f"read as {encoding}"]
    if other:
        notes.append(f"it may be {other}; save it as UTF-8 to be sure")
    if damage:
        notes.append(f"what is no {encoding} becomes � ({damage:,}×)")
    if notes:
        print(f"warning: {where}: {'; '.join(notes)}", file=sys.stderr)
    return text
