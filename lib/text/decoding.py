"""Bytes become characters: those of a file piece by piece, those of a prompt at once. What is damaged becomes �."""

import codecs
import itertools
import re
import sys

from lib.errors import UserError
from lib.machine.terminal import one_line
from lib.text.encoding import guess, n_uncommon

PIECE = 1 << 16  # characters read at a time
SAMPLE, N_SAMPLES = 1 << 16, 16  # bytes that an encoding is guessed from, and places they are taken from
MARK = "\udcff"  # stands for bytes that are no character; no text holds it
DAMAGE = re.compile(f"{MARK}+")


def _mark(error):
    """An error handler for decoding: MARK stands for bytes that are no character.

    Where a character has two bytes, the one after a bad one may go with it or begin the next: what follows tells.
    """
    if error.encoding == "utf-8":
        return MARK, error.end
    last = min(error.end + ("multibyte" in error.reason), len(error.object))
    ends = range(error.start + 1, last + 1)
    return MARK, min(ends, key=lambda end: n_uncommon(error.object[end : end + 32], error.encoding))


codecs.register_error("mark", _mark)


def check_name(encoding):
    """Raise UserError for what is no encoding of texts."""
    try:
        # UTF-7 and some codecs of Python's own read this as half a character, which no text can hold.
        b"+2AA-\\ud800".decode(encoding, "mark").replace(MARK, "").encode()
    except (LookupError, ValueError):
        raise UserError(f"encoding: {encoding!r} is none that texts are read in; try auto, gb18030 or big5") from None


# --- files


def find_encoding(path, wanted):
    """(the encoding of a file, lines for the user: of what is damaged or in doubt). Raises UserError.

    wanted: the encoding in the config, which is held to. Else it is UTF-8, if all of the file is, or what `guess` says.
    """
    encoding, other = wanted, None
    if wanted == "auto":
        if _is_utf_8(path):
            return "utf-8", []
        encoding, other = guess(list(_samples(path)))
        if encoding is None:
            raise UserError(f"{path}: not a text file; save it as .txt (if it is text, say --encoding=NAME)")
    size, places, examples = _survey(path, encoding)
    if places > max(1, -(-size // 1000)):
        raise UserError(
            f"{path}: read as {encoding.upper()} it has {places:,} bad places in {size:,} characters, such as"
            f" {examples[0]}; say --encoding=NAME with another one (auto, utf-8, gb18030, big5, utf-16, …)"
        )
    notes = [f"{path}: read as {encoding}, may be {other}; --encoding={other} reads it so"] if other else []
    if places:
        shown = ", ".join(examples)
        notes.append(f"warning: {path}: damaged {encoding.upper()}; bad places, now �: {places:,}: {shown}")
    return encoding, notes


def _is_utf_8(path):
    """Whether all of a file is UTF-8, without zeros. What is not, mostly shows it at once."""
    with open(path, encoding="utf-8") as file:
        try:
            return all("\0" not in text for text in iter(lambda: file.read(PIECE), ""))
        except UnicodeError:
            return False


def _samples(path):
    """Some bytes of a file, from places all over it, the first in each that are not plain ASCII."""
    size = path.stat().st_size
    step = max(SAMPLE, size // N_SAMPLES & ~1)  # UTF-16 has two bytes a character.
    with open(path, "rb") as file:
        for begin in range(0, size, step):
            file.seek(begin)
            for _ in range(begin, min(begin + step, size), SAMPLE):
                sample = file.read(SAMPLE)
                if not sample.isascii() or b"\0" in sample:
                    yield sample
                    break


def _survey(path, encoding):
    """(characters of a file, places of damage, the first three with the text around them)."""
    size = places = 0
    examples = []
    for text in characters(path, encoding, damage=MARK):
        size += len(text)
        places += text.count(MARK)
        for found in itertools.islice(re.finditer(MARK, text), 3 - len(examples)):
            around = text[max(0, found.start() - 8) : found.end() + 8]
            examples.append(f"“{one_line(DAMAGE.sub('�', around).strip())}”")
    return size, places, examples


def characters(path, encoding, damage="�"):
    """Yield the text of a file in pieces, none of them empty. Raises UserError.

    Line ends are \\n, and each run of bytes that are no characters is a �, or what `damage` says.
    """
    with open(path, encoding=encoding, errors="mark") as file:
        try:
            while read := file.read(PIECE):
                # A mark of the byte order is no text. Files that were put together have several.
                if text := read.replace("\ufeff", ""):
                    yield DAMAGE.sub(damage, text) if MARK in text else text
        except UnicodeError as error:  # of UTF-16 without a mark, for instance
            hint = "say --encoding=NAME with another one (auto, utf-16-le, utf-16-be, …)"
            raise UserError(f"{path}: not {encoding.upper()} ({error}); {hint}") from None


# --- prompts


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
