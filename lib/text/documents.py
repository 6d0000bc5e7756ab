"""The documents of a file: the texts of its records, what stands between its separators, or all of it."""

import dataclasses
import itertools
import re
from pathlib import Path

from lib.errors import UserError
from lib.text.decoding import characters, find_encoding
from lib.text.files import JSON, TABLES
from lib.text.records import find_keys, read_rows, read_values, to_text

SEPARATORS = {  # what ends a document in texts for other tools, and what begins one there
    "<|endoftext|>": "<|startoftext|>",
    "<|end_of_text|>": "<|begin_of_text|>",
    "<|im_end|>": "<|im_start|>",
    "</s>": "<s>",
    "<eos>": "<bos>",
    "[SEP]": "[CLS]",
}
LONGEST_SEPARATOR = 1 << 12  # characters


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file of a corpus, as it is now, and how it is read."""

    path: Path
    size: int
    modified: float
    encoding: str
    keys: tuple[str, ...]  # of the text in its records


def inspect(path, config):
    """(the file as a TextFile, lines for the user about its encoding). Raises UserError if it is no text."""
    stat = path.stat()
    encoding, notes = find_encoding(path, config.encoding)
    keys = find_keys(_values(path, encoding), config.text_key) if _holds_records(path) else ()
    return TextFile(path, stat.st_size, stat.st_mtime, encoding, keys), notes


def read_documents(file, separator, tally):
    """Yield (text, whether a document begins here) of a file. Long documents come in several texts.

    separator: a pattern, see `compile_separator`, or None. tally: a Counter that learns of records without text, and
    of lines that end in separators.
    """
    if _holds_records(file.path):
        return _records(file, tally)
    pieces = characters(file.path, file.encoding)
    return _without_blank(_between(pieces, separator)) if separator else _whole(pieces, tally)


def compile_separator(text):
    """What stands between the documents of a text: a pattern, None for nothing. Raises UserError."""
    if not text:
        return None
    if text in SEPARATORS:
        return re.compile(f"{re.escape(text)}|{re.escape(SEPARATORS[text])}")
    try:
        return re.compile({"line": r"\n", "blank": r"\n\s*\n"}.get(text, text), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"split: {text!r} is not line, blank or a regular expression ({error})") from None


def _holds_records(path):
    return path.suffix.lower() in JSON + TABLES


def _values(path, encoding):
    """Yield (value, its place for an error message) of the records in a file."""
    read = read_rows if path.suffix.lower() in TABLES else read_values
    return read(characters(path, encoding), path)


def _records(file, tally):
    """A record is a document."""
    for value, where in _values(file.path, file.encoding):
        text = to_text(value, file.keys, where)
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can hold halves of characters. Two that belong together become one.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            tally["half characters"] += 1
        if text.strip():
            yield text, True
        else:
            tally["without text"] += 1


def _whole(pieces, tally):
    """A file is a document."""
    for i, text in enumerate(pieces):
        for word in SEPARATORS:
            tally[word] += text.count(f"{word}\n")
        yield text, i == 0


def _between(pieces, separator):
    """What stands between two matches of a pattern is a document.

    The documents are those of the whole text, however it is cut into pieces, as long as no match is longer than
    LONGEST_SEPARATOR, what it looks at before and behind it included: a match counts once so much text follows.
    """
    text, place, is_new = "", 0, True  # What is before `place` has been given, but patterns such as ^ look at it.
    for piece in itertools.chain(pieces, [""]):
        text += piece
        known = len(text) - LONGEST_SEPARATOR if piece else len(text) + 1  # Matches that begin before this are certain.
        for match in separator.finditer(text, place):
            if match.start() >= known:
                break
            yield text[place : match.start()], is_new
            place, is_new = match.end(), True
        if place < known:
            yield text[place:known], is_new
            place, is_new = known, False
        kept = max(0, place - LONGEST_SEPARATOR)
        text, place = text[kept:], place - kept


def _without_blank(documents):
    """Documents without line ends at their beginning, and without those that are only white space."""
    for text, is_new in documents:
        if is_new:
            begins, blank = True, ""
        if begins:
            text = blank = (blank + text).lstrip("\n")  # all that has come of this document
        if text and not (begins and text.isspace()):
            yield text, begins
            begins = False
