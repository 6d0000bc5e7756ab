"""The files of a corpus: which they are, what a shard has of them, and how their bytes become characters."""

import dataclasses
import io
import json
import os
import re
from pathlib import Path

from lib.errors import UserError
from lib.machine.terminal import one_line
from lib.text.encoding import DAMAGE, MARK, guess

TEXTS, JSON, TABLES = (".txt", ".text", ".md"), (".jsonl", ".json", ".ndjson"), (".csv", ".tsv")
KNOWN = TEXTS + JSON + TABLES
ADVICE = {  # for what holds texts, but is none
    ".parquet": 'make a .jsonl of it: python -c "import pandas; pandas.read_parquet({name!r})'
    ".to_json('{stem}.jsonl', orient='records', lines=True, force_ascii=False)\"",
    ".zip": 'unpack it: python -m zipfile -e "{name}" "{stem}"',
    ".tar": 'unpack it: python -m tarfile -e "{name}" "{stem}"',
    ".tgz": 'unpack it: python -m tarfile -e "{name}" "{stem}"',
    ".gz": 'unpack it: python -m gzip -d "{name}"',
}
OTHERS, NO_TEXT = "files of other kinds", "files without text, or damaged"
PIECE = 1 << 16  # characters read at a time
SAMPLE, N_SAMPLES = 1 << 16, 16  # bytes that an encoding is guessed from, and places they are taken from


@dataclasses.dataclass(frozen=True)
class Part:
    """A file, or the bytes of it that belong to a shard, and how they are read."""

    path: Path
    begin: int
    end: int
    encoding: str = ""
    keys: tuple[str, ...] = ()  # of the text in its records, see lib/text/records.py

    @property
    def is_records(self):
        return self.path.suffix.lower() in JSON + TABLES

    @property
    def where(self):
        """Its name in an error message, where lines are counted from its first."""
        return f"{self.path} after byte {self.begin:,}," if self.begin else str(self.path)


def find_files(config):
    """(the files of a corpus in their order, {kind: files that were passed over}). Raises UserError."""
    folder = config.corpus_dir
    places = [Path(config.corpus)] if config.corpus else [folder / f"corpus{suffix}" for suffix in (*KNOWN, "")]
    place = next((p for p in places if p.exists()), None)
    if place is None:
        fetch = f"python data/{config.dataset}.py"
        known = (folder.parent / f"{config.dataset}.py").exists()
        hint = f"fetch it: {fetch}" if known else f"put your text into {places[0]}, or name it with --corpus"
        raise UserError(f"no corpus at {places[0]}; {hint}")
    if not place.is_dir():  # A file that is named is read if it is text, whatever it is called.
        if advice := _advice(place):
            raise UserError(f"{place}: {advice}")
        return [place], {}
    files, hidden, tokens, others = [], [], [], []
    paths, lost = _walk(place)
    made = {path.parent for path in paths if path.name == "tokenizer.json"}  # by train_tokenizer.py, inside the folder
    for path in sorted(paths, key=_as_people_count):
        is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(place).parts)
        is_known = path.suffix.lower() in KNOWN
        (hidden if is_hidden else tokens if path.parent in made else files if is_known else others).append(path)
    if not files:
        advice = _advice(others[0]) or f"to read {others[0].name}, name it .txt" if others else "put your text there"
        raise UserError(f"the corpus folder {place} holds no {', '.join(KNOWN)} file; {advice}")
    return files, {
        "links that lead nowhere new, and what cannot be opened": lost,
        "hidden files": hidden,
        "files beside a tokenizer": tokens,
        OTHERS: others,
    }


def _walk(place):
    """(the files in a folder and behind its links, each folder once; what cannot be followed), two lists of paths."""
    paths, lost = [], []
    seen = set(place.resolve().parents)  # A link to one of these would bring its own folder again.
    for folder, subfolders, names in os.walk(place, followlinks=True, onerror=lambda e: lost.append(Path(e.filename))):
        if (real := Path(folder).resolve()) in seen:
            lost.append(Path(folder))
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort(key=lambda name: (Path(folder, name).is_symlink(), name))
        for path in (Path(folder, name) for name in names):
            (paths if path.is_file() else lost).append(path)
    return paths, lost


def _advice(path):
    """What to do with a file that holds texts, but is none; "" where nothing is known."""
    advice = ADVICE.get(".tar" if path.stem.endswith(".tar") else path.suffix.lower(), "")
    return advice.format(name=path.name, stem=path.stem)


def _as_people_count(path):
    """A key to sort paths by, in which 9 comes before 10."""
    parts = (re.split(r"(\d+)", part) for part in path.parts)
    return [[int(word) if i % 2 else word for i, word in enumerate(words)] for words in parts]


# --- shards


def cut_files(files, wanted, shard):
    """Yield the parts of shard (K, N): bytes of the files one after another, cut between lines.

    Every shard finds the same places, and reads little more of the others than the line at its ends.
    files: {path: size}. wanted: the encoding in the config.
    """
    first, last = (sum(files.values()) * k // shard[1] for k in (shard[0] - 1, shard[0]))
    for path, size in files.items():
        begin, end = (_next_line(path, min(max(place, 0), size), size, wanted) for place in (first, last))
        if begin < end:
            yield Part(path, begin, end)
        first, last = first - size, last - size


def _next_line(path, place, size, wanted):
    """The first start of a line at `place` or after it, or else the end of the file."""
    if not 0 < place < size or not _has_plain_lines(path, size, wanted):
        return place if place <= 0 else size
    with open(path, "rb") as file:
        file.seek(place - 1)
        while line := file.readline(1 << 20):
            if line.endswith(b"\n"):
                return min(file.tell(), size)
    return size


def can_be_cut(path, size, wanted):
    """Whether a file can be in several shards. An empty one stands in nobody's way."""
    return size < 2 or _next_line(path, 1, size, wanted) < size


def _has_plain_lines(path, size, wanted):
    """Whether a file can be cut after any line end. If not, it stays whole, in the shard in which it starts."""
    with open(path, "rb") as file:
        head = file.read(SAMPLE)
    encoding = wanted if wanted != "auto" else guess([head[:4096]])[0] or "utf-8"
    if not "\n\n".encode(encoding).endswith(b"\n\n"):
        return False  # UTF-16 or UTF-32
    if path.suffix.lower() in TABLES:  # Their first line names the columns, and a field may have several lines.
        return False
    if path.suffix.lower() not in JSON:
        return True
    first_line, line_end, _ = head.decode(encoding, "ignore").lstrip("\ufeff \r\n").partition("\n")
    try:
        json.loads(first_line.rstrip(", \r"))
    except (ValueError, RecursionError):  # a record over several lines, or many records in a list
        return not line_end
    return True


# --- bytes to characters


def characters(part):
    """Yield the text of a part in pieces: line ends are \n, each run of bytes that are no characters is a �."""
    for text in _decode(part):
        yield DAMAGE.sub("�", text) if MARK in text else text


def _decode(part):
    with io.TextIOWrapper(io.BufferedReader(_Bytes(part)), part.encoding, errors="mark") as file:
        try:
            while text := file.read(PIECE):
                # A mark of the byte order is no text. Files that were put together have several.
                yield text.replace("\ufeff", "")
        except UnicodeError as error:  # of UTF-16 without a mark, for instance
            hint = "say --encoding=NAME with another one (auto, utf-16-le, utf-16-be, …)"
            raise UserError(f"{part.path}: not {part.encoding.upper()} ({error}); {hint}") from None


class _Bytes(io.FileIO):
    """The bytes of a part, as if there were no others."""

    def __init__(self, part):
        super().__init__(part.path)
        self.seek(part.begin)
        self.left = part.end - part.begin

    def readinto(self, buffer):
        count = super().readinto(memoryview(buffer)[: self.left])
        self.left -= count
        return count


def find_encoding(part, wanted):
    """(the part with its encoding, lines for the user: of what is damaged or in doubt). Raises UserError.

    wanted: the encoding in the config, which is held to. Else it is UTF-8, if all of the part is, or what `guess` says.
    """
    encoding, other = wanted, None
    if wanted == "auto":
        if _is_utf_8(part):
            return dataclasses.replace(part, encoding="utf-8"), []
        encoding, other = guess(list(_samples(part.path)))
        if encoding is None:
            raise UserError(f"{part.path}: not a text file; save it as .txt (if it is text, say --encoding=NAME)")
    part = dataclasses.replace(part, encoding=encoding)
    size, places, examples = _survey(part)
    if places > max(1, -(-size // 1000)):
        raise UserError(
            f"{part.path}: read as {part.encoding.upper()} it has {places:,} bad places in {size:,} characters, such as"
            f" {examples[0]}; say --encoding=NAME with another one (auto, utf-8, gb18030, big5, utf-16, …)"
        )
    notes = []
    if other:
        notes.append(f"{part.path}: read as {part.encoding}, may be {other}; --encoding={other} reads it so")
    if places:
        shown = ", ".join(examples)
        notes.append(f"warning: {part.path}: damaged {part.encoding.upper()}; bad places, now �: {places:,}: {shown}")
    return part, notes


def _is_utf_8(part):
    """Whether all of a part is UTF-8, without zeros. What is not, mostly shows it at once."""
    with io.TextIOWrapper(io.BufferedReader(_Bytes(part)), "utf-8") as file:
        try:
            return all("\0" not in text for text in iter(lambda: file.read(PIECE), ""))
        except UnicodeError:
            return False


def _samples(path):
    """Some bytes of a file, from places all over it, the first in each that are not plain ASCII.

    They are of the whole file, whatever a shard has of it, so that all shards read it in one way.
    """
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


def _survey(part):
    """(characters of a part, places of damage, the first three with the text around them)."""
    size = places = 0
    examples = []
    for text in _decode(part):
        size += len(text)
        for found in DAMAGE.finditer(text) if MARK in text else ():
            places += 1
            if len(examples) < 3:
                around = text[max(0, found.start() - 8) : found.end() + 8]
                examples.append(f"“{one_line(DAMAGE.sub('�', around).strip())}”")
    return size, places, examples
