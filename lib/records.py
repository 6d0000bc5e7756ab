"""The texts of JSON records, under the many keys that data sets have for them."""

import itertools
import json
import re

from lib.errors import UserError

LONGEST_RECORD = 1 << 26  # characters
FIELDS = ("content", "raw_content", "completion", "body", "article", "document", "paragraphs", "story", "passage")
CHATS = ("messages", "conversations", "conversation")  # lists of turns
TURNS = ("content", "value", "text")  # the keys of what is said in a turn
JOINED = (
    ("instruction", "input", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
BETWEEN = re.compile(r"[\s,]*")
BETWEEN_IN_LIST = re.compile(r"[\s,\[\]]*")


def read_values(parts, where):
    """Yield (value, its place for an error message) of JSON that comes in parts of text.

    The values follow one another, on a line each or on several, or stand in a list. Raises UserError.
    """
    scan = json.JSONDecoder().raw_decode
    text, line, enough, between = "", 1, 0, None
    for part in itertools.chain(parts, [""]):
        text += part
        if part and len(text) < enough:
            continue  # A long record is not tried anew at every part.
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
                value, end = scan(text, place)
            except RecursionError:
                raise UserError(f"{here}: nested too deeply for a record") from None
            except json.JSONDecodeError as error:
                # Where the text so far ends inside a record, the error is at its end, or where a string began.
                is_cut = error.pos >= len(text) - 16 or error.msg.startswith("Unterminated string")
                is_longer = part and is_cut
                if is_longer and len(text) - place < LONGEST_RECORD:
                    break
                problem = f"not JSON ({error.msg[0].lower()}{error.msg[1:]})"
                problem = f"longer than {LONGEST_RECORD:,} characters" if is_longer else problem
                raise UserError(f"{here}: {problem}; mend this record, or remove it") from None
            yield value, here
            line += text.count("\n", place, end)
            place = end
        text = text[place:]
        enough = 2 * len(text)


def find_keys(record, text_key, where) -> tuple[str, ...]:
    """The keys of the text in records like this one: those in `text_key`, or else what is obvious. Raises UserError."""
    if not isinstance(record, dict):
        return ()
    if text_key:
        return tuple(key.strip() for key in text_key.split(","))
    if "text" in record:
        return ("text",)
    for keys in (*((key,) for key in CHATS), *JOINED):
        if all(key in record for key in keys if key != "input"):
            return keys
    known = [key for key in FIELDS if key in record] or [key for key, value in record.items() if type(value) is str]
    if len(known) == 1:
        return (known[0],)
    raise UserError(f"{where}: which key holds the text? say --text_key=KEY; {_its_keys(record)}")


def to_text(record, keys, where) -> str:
    """The text of a record, "" if it holds none: the values of `keys`, each on lines of its own. Raises UserError."""
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise UserError(f'{where}: not a record like {{"text": "…"}}')
    if not any(key in record for key in keys):
        raise UserError(f"{where}: it lacks {' and '.join(keys) or 'a text'}; {_its_keys(record)}; say --text_key=KEY")
    try:
        texts = [_plain(record.get(key)) for key in keys]
    except (TypeError, RecursionError):
        raise UserError(f"{where}: its {' or '.join(keys)} is not a text; {_its_keys(record)}") from None
    return "\n".join(text for text in texts if text)


def _plain(value) -> str:
    """A value as text. Of a list, an item a line; of a chat, a turn a paragraph."""
    if value is None:
        return ""
    if isinstance(value, list):
        is_chat = any(isinstance(item, dict) for item in value)
        items = [next((x[k] for k in TURNS if k in x), None) if isinstance(x, dict) else x for x in value]
        return ("\n\n" if is_chat else "\n").join(text for text in map(_plain, items) if text)
    if not isinstance(value, str):
        raise TypeError
    return value


def _its_keys(record):
    return f"its keys are {', '.join(map(str, list(record)[:12])) or 'none'}"
