"""The documents of a part of a corpus, in pieces of text."""

import collections
import itertools
import re

from lib.errors import UserError
from lib.text.files import PIECE, TABLES, characters
from lib.text.records import read_rows, read_values, to_text

SEPARATORS = {  # what ends a document in texts for other tools, and what begins one there
    "<|endoftext|>": "<|startoftext|>",
    "<|end_of_text|>": "<|begin_of_text|>",
    "<|im_end|>": "<|im_start|>",
    "</s>": "<s>",
    "<eos>": "<bos>",
    "[SEP]": "[CLS]",
}

# In characters.
LONGEST_LINE = 1 << 16  # A longer line is cut into parts, so that memory stays flat.
CUT = 1 << 12  # the size of these parts
LONGEST_SEPARATOR = 1 << 12


def read(part, split="", tally=None):
    """Yield (text, whether a document begins here). A piece ends where a line does, if it can.

    split: of the config. tally: a Counter that learns of records without text, and of lines that end in separators.
    """
    tally = collections.Counter() if tally is None else tally
    if part.is_records:
        return _cut(_records(part, tally))
    if split:
        return _cut(_split(characters(part), separator(split)))
    return _cut(_whole(part, tally))


def separator(split):
    """What stands between the documents of a text: a compiled pattern. split: of the config. Raises UserError."""
    if split in SEPARATORS:
        return re.compile(f"{re.escape(split)}|{re.escape(SEPARATORS[split])}")
    try:
        return re.compile({"line": r"\n", "blank": r"\n\s*\n"}.get(split, split), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"split: {split!r} is not line, blank or a regular expression ({error})") from None


def _whole(part, tally):
    """A file is a document."""
    for i, text in enumerate(characters(part)):
        for word in SEPARATORS:
            tally[word] += text.count(f"{word}\n")
        yield text, i == 0


def values(part):
    """Yield (value, its place for an error message) of the records in a part."""
    read = read_rows if part.path.suffix.lower() in TABLES else read_values
    return read(characters(part), part.where)


def _records(part, tally):
    """A record is a document."""
    for value, where in values(part):
        text = to_text(value, part.keys, where)
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can hold halves of characters. Two that belong together become one.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            tally["half characters"] += 1
        if text.strip():
            yield text, True
        else:
            tally["without text"] += 1


def _split(parts, pattern):
    """What stands between two matches of a pattern is a document, if it is more than white space."""
    text, place, begins = "", 0, True  # What is before `place` has been given, but patterns such as ^ look at it.
    for part in itertools.chain(parts, [""]):
        text += part
        end = max(place, len(text) - LONGEST_SEPARATOR) if part else len(text)
        documents = []
        for match in pattern.finditer(text, place):
            if part and match.end() >= end:  # With more text it might be longer.
                end = max(place, min(end, match.start()))
                break
            documents.append(text[place : match.start()])
            place = match.end()
        if part and text[place:end].isspace():  # What follows tells whether this belongs to a document.
            end = place
        documents.append(text[place:end])
        for i, document in enumerate(documents):
            begins = begins or i > 0  # A blank one has not begun.
            document = document.lstrip("\n") if begins else document
            if document and not (begins and document.isspace()):
                yield document, begins
                begins = False
        kept = max(0, end - LONGEST_SEPARATOR)
        text, place = text[kept:], end - kept


def _cut(parts):
    """Yield (piece, whether it is the first) of documents that come in parts of any size.

    A piece ends at the end of a line whose next line starts with no white space: there the tokenizer cuts
    too, so that the pieces give the same tokens as the whole.
    """
    rest, begins = "", True
    for part, is_new in parts:
        if is_new:
            if rest:
                yield rest, begins
            rest, begins = "", True
        for i in range(0, len(part), PIECE):
            rest += part[i : i + PIECE]
            while len(rest) >= PIECE:
                end = _line_end(rest)
                if not end and len(rest) < LONGEST_LINE:
                    break
                end = end or CUT
                yield rest[:end], begins
                rest, begins = rest[end:], False
    if rest:
        yield rest, begins


def _line_end(text):
    """The last place in `text` where a piece may end, 0 if there is none."""
    end = text.rfind("\n", 0, -1) + 1
    while end and text[end].isspace():
        end = text.rfind("\n", 0, end - 1) + 1
    return end
