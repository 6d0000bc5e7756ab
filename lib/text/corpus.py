"""A corpus: the documents of one text or of many, read piece by piece: memory stays flat however large it is."""

import collections
import dataclasses

from lib.errors import UserError
from lib.machine.terminal import one_line
from lib.text.documents import SEPARATORS, read, separator, values
from lib.text.encoding import check_name
from lib.text.files import NO_TEXT, OTHERS, can_be_cut, cut_files, find_encoding, find_files
from lib.text.records import CHATS, find_keys

HINTS = {OTHERS: "; what is text among them is read if it is named .txt", NO_TEXT: "; --corpus=FILE says why"}


class Corpus:
    """The documents of a corpus, in the order of their file names.

    A .txt file is a document, or several with config.split; a record of a .jsonl or .json file is one. Opening it reads
    everything once: the encodings are found and verified, and `characters`, `bytes` (as UTF-8), `documents` and
    `longest` (characters of the longest document) are counted. `val` is the corpus config.val_corpus, or None. Raises
    UserError.

    shard: (K, N) for the K-th of N parts of about as many bytes, of which nothing else is read.
    """

    def __init__(self, config, shard=(1, 1)):
        if config.encoding != "auto":
            check_name(config.encoding)
        separator(config.split)
        self.config, self.val = config, None
        paths, self.skipped = find_files(config)
        if config.val_corpus:
            self.val = Corpus(dataclasses.replace(config, corpus=config.val_corpus, val_corpus=""), shard)
            apart = {path.resolve() for path in self.val.files}
            paths = [path for path in paths if path.resolve() not in apart]
            if not paths:
                raise UserError(f"val_corpus: {config.val_corpus} is all that the corpus has; name another text")
        self.files = {path: path.stat() for path in paths}
        self.parts, self.notes, unread = [], [], {}
        sizes = {path: stat.st_size for path, stat in self.files.items()}
        for part in cut_files(sizes, config.encoding, shard):
            try:
                part, notes = find_encoding(part, config.encoding)
                if part.is_records:  # Those at the beginning of the file decide, so that all shards of it agree.
                    keys = find_keys(values(dataclasses.replace(part, begin=0)), config.text_key)
                    part = dataclasses.replace(part, keys=keys)
            except UserError as error:  # of one file among many
                unread[part.path] = error
                continue
            self.parts.append(part)
            self.notes += notes
        if len(unread) > len(self.parts):
            raise next(iter(unread.values()))
        self.skipped[NO_TEXT] = list(unread)
        self.characters = self.bytes = self.documents = self.longest = length = 0
        self.tally = collections.Counter()
        for text, is_new in self.pieces(self.tally):
            length = len(text) + (0 if is_new else length)
            self.longest = max(self.longest, length)
            self.characters += len(text)
            self.bytes += len(text.encode())
            self.documents += is_new
        if not self.characters and shard == (1, 1):
            raise UserError(f"the corpus {paths[0]} holds no text")
        if not self.characters:
            whole = next((path for path in sizes if not can_be_cut(path, sizes[path], config.encoding)), None)
            reason = "the corpus is too small for so many"
            if whole:
                reason = f"{whole} stays whole, as its lines end without \\n, or it is UTF-16, or a record has several"
            raise UserError(f"shard {shard[0]}/{shard[1]} holds no text: {reason}; use fewer")

    @property
    def file_bytes(self):
        return sum(stat.st_size for stat in self.files.values())

    @property
    def train_bytes(self):
        """About how much of the text is for training, in bytes."""
        return self.bytes * (1 if self.val else 1 - self.config.val_fraction)

    def describe(self):
        """What was found, with the first line as decoded: the reader sees a wrong encoding at once."""
        for part in self.parts[:5]:
            text = next((text for text, _ in read(part, self.config.split)), "")
            print(one_line(f"{part.path} ({part.encoding}): {' '.join(text[:200].split())[:40]} …"))
        if len(self.parts) > 5:
            print(f"… and {len(self.parts) - 5} more files")
        for note in self.notes:
            print(one_line(note))
        for keys in sorted({part.keys for part in self.parts} - {(), ("text",)}):
            turns = ", a turn a paragraph" if keys[0] in CHATS else ""
            print(one_line(f"the text of a record is its {' and '.join(keys)}{turns}; --text_key=KEY takes another"))
        for word in SEPARATORS:
            if self.tally[word] and not self.config.split:
                print(f"{self.tally[word]:,} lines end in {word}; --split='{word}' makes documents of them")
        if self.tally["without text"]:
            print(f"skipped records without text: {self.tally['without text']:,}")
        if self.tally["half characters"]:
            print(f"warning: records with half characters, which become �: {self.tally['half characters']:,}")
        for kind, paths in self.skipped.items():
            if paths:
                names = ", ".join(one_line(path.name) for path in paths[:5])
                hint = HINTS.get(kind, "")
                print(f"skipped {kind} ({len(paths):,}): {names}{', …' if len(paths) > 5 else ''}{hint}")
        print(f"{self.documents:,} documents, {self.characters:,} characters, {self.bytes / 1e6:.1f} MB as UTF-8")
        if self.val:
            print("and for validation:")
            self.val.describe()

    def pieces(self, tally=None):
        """Yield (text, whether a document begins here). tally: see `read`."""
        for part in self.parts:
            yield from read(part, self.config.split, tally)

    def split(self):
        """Yield ("train" or "val", text, whether a document begins here).

        Validation is the text of config.val_corpus, or the last val_fraction of this one, so that it never overlaps
        training text: from the start of a document if all are short beside it, else from the start of a line (which
        then begins a document).
        """
        if self.val:
            for name, corpus in (("train", self), ("val", self.val)):
                for text, is_new in corpus.pieces():
                    yield name, text, is_new
            return
        cut = round(self.characters * (1 - self.config.val_fraction))
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
