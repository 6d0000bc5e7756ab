"""Reads the text of a corpus piece by piece, so that memory stays flat however large it is."""

import codecs
import io
import json
from pathlib import Path

from lib.errors import UserError

# All in characters.
PIECE = 1 << 16  # A file is read in pieces of this size.
LONGEST_LINE = 1 << 16  # A longer line is cut into parts, since BPE takes hours over a word without end.
CUT = 1 << 12  # the size of these parts
LONGEST_RECORD = 1 << 26  # A longer line of a .jsonl is refused.


class Corpus:
    """The documents of a corpus, in the order of their file names.

    A .txt file is a document, a line of a .jsonl file is one. Opening it reads everything once: the
    encodings are found and verified, and `characters`, `bytes` (as UTF-8), `documents` and `longest`
    (characters of the longest document) are counted. Raises UserError.

    shard: (K, N) for the K-th of N parts of about as many bytes, of which nothing else is read.
    """

    def __init__(self, config, shard=(1, 1)):
        paths = _find_files(config)
        sizes = [path.stat().st_size for path in paths]
        self.file_bytes = sum(sizes)
        parts = list(_cut_files(paths, sizes, config.encoding, shard))
        self.parts = [(path, _find_encoding(path, config.encoding, *ends), *ends) for path, *ends in parts]
        self.val_fraction = config.val_fraction
        self.characters = self.bytes = self.documents = self.longest = length = 0
        for text, is_new in self.pieces():
            length = len(text) + (0 if is_new else length)
            self.longest = max(self.longest, length)
            self.characters += len(text)
            self.bytes += len(text.encode())
            self.documents += is_new
        if not self.characters and shard == (1, 1):
            raise UserError(f"the corpus {paths[0]} holds no text")
        if not self.characters:
            raise UserError(
                f"shard {shard[0]}/{shard[1]} holds no text: the corpus is too small for so many; use fewer"
            )

    def describe(self):
        """What was found, with the first line as decoded: the reader sees a wrong encoding at once."""
        for path, encoding, *ends in self.parts[:5]:
            text = next((text for text, _ in _read(path, encoding, *ends)), "")
            print(f"{path} ({encoding.removesuffix('-sig')}): {' '.join(text[:200].split())[:40]} …")
        if len(self.parts) > 5:
            print(f"… and {len(self.parts) - 5} more files")
        print(f"{self.documents:,} documents, {self.characters:,} characters, {self.bytes / 1e6:.1f} MB as UTF-8")

    def pieces(self):
        """Yield (text, whether a document begins here). A piece ends where a line does, if it can."""
        for part in self.parts:
            yield from _read(*part)

    def split(self):
        """Yield ("train" or "val", text, whether a document begins here).

        Validation is the last val_fraction of the text, so that it never overlaps training text: from the
        start of a document if all are short beside it, else from the start of a line (which then begins
        a document).
        """
        cut = round(self.characters * (1 - self.val_fraction))
        whole_documents = self.longest <= (self.characters - cut) / 2
        split, position = "train", 0
        for text, is_new in self.pieces():
            offset = cut - position
            if split == "val":
                head = 0
            elif whole_documents:
                head = 0 if is_new and offset <= 0 else len(text)
            else:
                head = len(text) if offset >= len(text) else _line_start(text, offset)
            if head:
                yield "train", text[:head], is_new
            if head < len(text):
                yield "val", text[head:], is_new or split == "train"
                split = "val"
            position += len(text)


def _line_start(text, offset):
    """Where the line at `offset`, or else the one before it, starts; `offset` itself in one long line."""
    after = text.find("\n", max(offset - 1, 0)) + 1 if offset > 0 else 0
    if offset <= 0 or 0 < after < len(text):
        return after
    return text.rfind("\n", 0, offset) + 1 or offset


def _find_files(config) -> list[Path]:
    folder = config.corpus_dir
    if config.corpus:
        places = [Path(config.corpus)]
    else:
        places = [folder / "corpus.txt", folder / "corpus.jsonl", folder / "corpus"]
    place = next((p for p in places if p.exists()), None)
    if place is None:
        fetch = f"python data/{config.dataset}.py"
        known = (folder.parent / f"{config.dataset}.py").exists()
        hint = f"fetch it: {fetch}" if known else f"put your text into {places[0]}, or name it with --corpus"
        raise UserError(f"no corpus at {places[0]}; {hint}")
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix in (".txt", ".jsonl") and p.is_file())
        if not files:
            raise UserError(f"the corpus folder {place} holds no .txt or .jsonl file")
        return files
    if place.suffix not in (".txt", ".jsonl"):
        raise UserError(f"{place}: a corpus is a .txt, a .jsonl with the key text, or a folder of them")
    return [place]


def _cut_files(paths, sizes, wanted, shard):
    """Yield (path, begin, end) of what shard (K, N) holds: bytes of the files one after another, cut between lines.

    Every shard finds the same places, and reads no more of the others than the line at its ends.
    """
    first, last = (sum(sizes) * k // shard[1] for k in (shard[0] - 1, shard[0]))
    for path, size in zip(paths, sizes, strict=True):
        begin, end = (_next_line(path, min(max(place, 0), size), size, wanted) for place in (first, last))
        if begin < end:
            yield path, begin, end
        first, last = first - size, last - size


def _next_line(path, place, size, wanted):
    """The first start of a line at `place` or after it, or else the end of the file."""
    if not 0 < place < size:
        return place
    if not "\n\n".encode(_probable_encoding(path, wanted)).endswith(b"\n\n"):
        return size  # A file in UTF-16 or UTF-32 stays whole, in the shard in which it starts.
    with open(path, "rb") as file:
        file.seek(place - 1)
        while line := file.readline(1 << 20):
            if line.endswith(b"\n"):
                return min(file.tell(), size)
    return size


def _probable_encoding(path, wanted) -> str:
    """What is `wanted`, or else what the first bytes say: UTF-16 or UTF-32 with a mark, or perhaps UTF-8."""
    if wanted != "auto":
        try:
            "".encode(wanted)
        except (LookupError, ValueError):
            raise UserError(
                f"encoding: {wanted!r} is no encoding that Python knows; try auto, gb18030 or big5"
            ) from None
        return wanted
    with open(path, "rb") as file:
        mark = file.read(4)
    if mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    return "utf-16" if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"  # with or without a mark


def _find_encoding(path, wanted, begin, end) -> str:
    """The encoding of a part of a file, verified to its last byte: what is wanted, or UTF-8, or else GB18030."""
    encoding = _probable_encoding(path, wanted)
    if wanted == "auto" and encoding == "utf-8-sig":
        encoding = "utf-8" if begin else encoding  # Only the head of a file can hold a mark.
        _refuse_binary(path, begin, end)
    error = _first_error(path, encoding, begin, end)
    if error is None:
        return encoding
    offset, reason = error
    if wanted != "auto":
        raise UserError(f"{path}: not {wanted} at byte {offset:,} ({reason}); try --encoding=auto")
    # GB18030 decodes almost anything, so a damaged UTF-8 file must not reach it. Chinese text in GB18030
    # breaks the rules of UTF-8 within a few characters, and seldom only in its last bytes.
    name = encoding.removesuffix("-sig").upper()
    if name != "UTF-8" or reason == "unexpected end of data" or _multibyte_before(path, begin, offset) > 20:
        raise UserError(f"{path}: damaged {name} at byte {offset:,} ({reason}); mend it, or say --encoding=NAME")
    error = _first_error(path, "gb18030", begin, end)
    if error:
        raise UserError(
            f"{path}: neither UTF-8 (byte {offset:,}: {reason}) nor GB18030 (byte {error[0]:,}); say --encoding=NAME"
        )
    return "gb18030"


def _refuse_binary(path, begin, end):
    for offset, chunk in _chunks(path, begin, end):
        zero = chunk.find(0)
        if zero >= 0:
            raise UserError(
                f"{path}: a zero byte at {offset + zero:,}: not a text file (if it is one, say --encoding=NAME)"
            )


def _first_error(path, encoding, begin, end):
    """(byte offset in the file, reason) of the first bytes that do not decode, or None."""
    decoder = codecs.getincrementaldecoder(encoding)()
    for offset, chunk in _chunks(path, begin, end):
        pending = len(decoder.getstate()[0])  # the start of a character whose end is in this chunk
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            return offset - pending + getattr(error, "start", 0), getattr(error, "reason", str(error))
    return None


def _chunks(path, begin, end):
    """Yield (offset in the file, bytes) of a part of it, then once with no bytes."""
    with open(path, "rb") as file:
        file.seek(begin)
        while chunk := file.read(min(1 << 20, end - begin)):
            yield begin, chunk
            begin += len(chunk)
    yield begin, b""


def _multibyte_before(path, begin, offset):
    """Characters of two or more bytes in the (at most) 64 KiB of UTF-8 between `begin` and `offset`."""
    begin = max(begin, offset - (1 << 16))
    with open(path, "rb") as file:
        file.seek(begin)
        return sum(byte >= 0xC0 for byte in file.read(offset - begin))


class _Part(io.FileIO):
    """The bytes of a file from `begin` to `end`, as if there were no others."""

    def __init__(self, path, begin, end):
        super().__init__(path)
        self.seek(begin)
        self.left = end - begin

    def readinto(self, buffer):
        count = super().readinto(memoryview(buffer)[: self.left])
        self.left -= count
        return count


def _read(path, encoding, begin, end):
    """Yield the pieces of a part of a file; line ends become \n."""
    with io.TextIOWrapper(io.BufferedReader(_Part(path, begin, end)), encoding) as file:
        if path.suffix != ".jsonl":
            yield from _cut(iter(lambda: file.read(PIECE), ""))
            return
        after = f" after byte {begin:,}" if begin else ""
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_RECORD), ""), 1):
            if line.strip():
                yield from _cut([_record(line, f"{path} line {number:,}{after}")])


def _record(line, where) -> str:
    if len(line) >= LONGEST_RECORD:
        raise UserError(f"{where}: longer than {LONGEST_RECORD:,} characters; split it into several records")
    try:
        record = json.loads(line)
        text = record["text"]
        text.encode()  # JSON can hold halves of surrogate pairs, which are no characters.
    except UnicodeEncodeError:
        raise UserError(f"{where}: holds half of a surrogate pair, which is no character") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f'{where}: not a record like {{"text": "…"}}') from None
    return text


def _cut(parts):
    """Yield (piece, whether it is the first) of one document that comes in parts of any size.

    A piece ends at the end of a line whose next line starts with no white space: there the tokenizer cuts
    too, so that the pieces give the same tokens as the whole.
    """
    rest, is_new = "", True
    for part in (whole[i : i + PIECE] for whole in parts for i in range(0, len(whole), PIECE)):
        rest += part
        while len(rest) >= PIECE:
            end = _line_end(rest)
            if not end and len(rest) < LONGEST_LINE:
                break
            end = end or CUT
            yield rest[:end], is_new
            rest, is_new = rest[end:], False
    if rest:
        yield rest, is_new


def _line_end(text):
    """The last place in `text` where a piece may end, 0 if there is none."""
    end = text.rfind("\n", 0, -1) + 1
    while end and text[end].isspace():
        end = text.rfind("\n", 0, end - 1) + 1
    return end
