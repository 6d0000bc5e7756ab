"""The texts of records, in JSON or a table, under the many keys that data sets have for them."""

import csv
import itertools
import json
import re

from lib.errors import UserError

LONGEST_RECORD, LONGEST_NUMBER = 1 << 26, 1 << 13  # characters; Python reads numbers of up to 4,300 digits
TEXT_KEYS = ("content", "raw_content", "completion", "body", "article", "document", "paragraphs", "story", "passage")
CHATS = ("messages", "conversations", "conversation")  # lists of turns
TURNS = ("content", "value", "text")  # the keys of what is said in a turn
JOINED = (("instruction", "input", "output"), ("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
N_LOOKED_AT = 100  # records
SHORTEST_TEXT = 30  # bytes, on average, of what reads like a text
BETWEEN = re.compile(r"[\s,]*")
BETWEEN_IN_LIST = re.compile(r"[\s,\[\]]*")


def read_values(pieces, where):
    """Yield (value, its place for an error message) of JSON that comes in pieces of text, none of them empty.

    The values follow one another, on a line each or on several, or stand in a list. The pieces may be cut anywhere:
    what cannot be decoded may lack its end, and waits for more text, up to LONGEST_RECORD. Raises UserError.
    """
    decode = json.JSONDecoder().raw_decode
    text, line, enough, between = "", 1, 0, None
    for piece in itertools.chain(pieces, [""]):
        text += piece
        if piece and len(text) < enough:
            continue  # A long record is not tried anew at every piece.
        if between is None and text.strip():
            between = BETWEEN_IN_LIST if text.lstrip().startswith("[") else BETWEEN
        place = 0
        while between:
            start = between.match(text, place).end()
            line += text.count("\n", place, start)
            place, here = start, f"{where} line {line:,}"
            if place == len(text):
                break
            try:
                value, end = decode(text, place)
            except RecursionError:
                raise UserError(f"{here}: nested too deeply for a record") from None
            except ValueError as error:
                if piece and len(text) - place < LONGEST_RECORD:
                    break
                too_long = f"longer than {LONGEST_RECORD:,} characters, or " if piece else ""
                message = getattr(error, "msg", error)  # A number of too many digits is another error.
                raise UserError(f"{here}: {too_long}not JSON ({message}); mend this record, or remove it") from None
            if piece and len(text) - end < LONGEST_NUMBER:
                break  # It may be the first digits of a number.
            yield value, here
            line += text.count("\n", place, end)
            place = end
        text = text[place:]
        enough = 2 * len(text)


def read_rows(pieces, where):
    """Yield (row, its place for an error message) of a table that comes in pieces of text. Raises UserError.

    Its first line names the columns. A row is a dict.
    """
    lines = _lines(pieces, where)
    head = next(lines, "")
    csv.field_size_limit(LONGEST_RECORD)
    rows = csv.DictReader(itertools.chain([head], lines), delimiter=max(",;\t", key=head.count))
    try:
        for row in rows:
            row.pop(None, None)  # what stands to the right of the last column
            yield row, f"{where} line {rows.line_num:,}"
    except csv.Error as error:
        raise UserError(f"{where} line {rows.line_num:,}: {error}; mend this row, or remove it") from None


def _lines(pieces, where):
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        yield from (f"{line}\n" for line in lines)
        if len(rest) > LONGEST_RECORD:
            raise UserError(f"{where}: a line is longer than {LONGEST_RECORD:,} characters; is this a table?")
    if rest:
        yield rest


def find_keys(values, text_key) -> tuple[str, ...]:
    """The keys of the text in records: those in `text_key`, or else what is obvious. Raises UserError.

    values: (value, its place for an error message) of the records, of which the first ones are looked at.
    """
    if text_key:
        return tuple(key.strip() for key in text_key.split(","))
    records = ((v, where) for v, where in itertools.islice(values, N_LOOKED_AT) if isinstance(v, dict))
    record, where = next(records, (None, ""))
    if record is None:
        return ()
    if "text" in record:
        return ("text",)
    for keys in (*((key,) for key in CHATS), *JOINED):
        if all(key in record for key in keys if key != "input"):
            return keys
    known = [key for key in TEXT_KEYS if key in record]
    if not known:
        first = [record, *(record for record, _ in records)]
        known = [key for key in record if _reads_like_text([record.get(key) for record in first])]
    if len(known) != 1:
        raise UserError(f"{where}: which key holds the text? say --text_key=KEY; {_its_keys(record)}")
    return tuple(known)


def _reads_like_text(values):
    """Whether most of them are long, differ, and are more than a word such as a version, an id or an address."""
    texts = {v for v in values if isinstance(v, str) and (not v.isascii() or len(v.split()) > 1)}
    sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    return len(texts) > len(values) / 2 and sum(sizes) >= SHORTEST_TEXT * len(texts)


def to_text(record, keys, where) -> str:
    """The text of a record, "" if it holds none: the values of `keys`, each on lines of its own. Raises UserError."""
    if isinstance(record, list):
        raise UserError(f'{where}: not a record like {{"text": "…"}}')
    if not isinstance(record, dict):
        return _plain(record)
    found = [value for key in keys for value in _find(record, key)]
    if not found:
        raise UserError(f"{where}: it lacks {' and '.join(keys) or 'a text'}; {_its_keys(record)}; say --text_key=KEY")
    try:
        texts = [_plain(value) for value in found]
    except (TypeError, RecursionError):
        raise UserError(f"{where}: its {' or '.join(keys)} is not a text; {_its_keys(record)}") from None
    return "\n".join(text for text in texts if text)


def _find(value, key) -> list:
    """The values under a key such as data.paragraphs.context, of which a list may hold many."""
    if isinstance(value, list):
        return [found for item in value for found in _find(item, key)]
    if not isinstance(value, dict):
        return []
    if key in value:
        return [value[key]]
    first, _, rest = key.partition(".")
    return _find(value[first], rest) if rest and first in value else []


def _plain(value) -> str:
    """A value as text, "" if it is a number or nothing. Of a list, an item a line; of a chat, a turn a paragraph."""
    if isinstance(value, list):
        is_chat = any(isinstance(item, dict) for item in value)
        items = [next((x[k] for k in TURNS if k in x), None) if isinstance(x, dict) else x for x in value]
        return ("\n\n" if is_chat else "\n").join(text for text in map(_plain, items) if text)
    if isinstance(value, dict):
        raise TypeError
    return value if isinstance(value, str) else ""


def _its_keys(record):
    return f"its keys are {', '.join(itertools.islice(_paths(record), 12)) or 'none'}"


def _paths(record, depth=4):
    """Yield the keys of a record, those of what is inside as data.paragraphs.context."""
    for key, value in record.items():
        inner = next((item for item in value if isinstance(item, dict)), {}) if isinstance(value, list) else value
        if isinstance(inner, dict) and inner and depth > 1:
            yield from (f"{key}.{path}" for path in _paths(inner, depth - 1))
        else:
            yield str(key)
