"""A corpus: the documents of one text or of many, read piece by piece: memory stays flat however large it is.

The four steps are files of their own: which files (files), their bytes as characters (encoding, decoding), these as
documents (records, documents), and documents in pieces that can be encoded by themselves (pieces).
"""

import collections
import dataclasses

from lib.errors import UserError
from lib.machine.terminal import first_few, one_line
from lib.text.decoding import check_name
from lib.text.documents import SEPARATORS, compile_separator, inspect, read_documents
from lib.text.files import files_of_shard, find_files
from lib.text.pieces import cut, line_start
from lib.text.records import CHATS


class Corpus:
    """The documents of a corpus, in the order of their file names.

    A .txt file is a document, or several with config.split; a record of a .jsonl or .json file is one. Opening it reads
    everything once: the encodings are found and verified, and `characters`, `bytes` (as UTF-8), `documents` and
    `longest` (characters of the longest document) are counted. `val` is the corpus config.val_corpus, or None. Raises
    UserError.

    shard: (K, N) for the K-th of N runs of files of about as many bytes. Only the sizes of the others are looked at.
    """

    def __init__(self, config, shard=(1, 1)):
        if config.encoding != "auto":
            check_name(config.encoding)
        self.config, self.separator, self.val = config, compile_separator(config.split), None
        paths, self.skipped = find_files(config)
        if config.val_corpus:
            self.val = Corpus(dataclasses.replace(config, corpus=config.val_corpus, val_corpus=""), shard)
            apart = {path.resolve() for path in self.val.sizes}
            paths = [path for path in paths if path.resolve() not in apart]
            if not paths:
                raise UserError(f"val_corpus: {config.val_corpus} is all that the corpus has; name another text")
        self.sizes = {path: path.stat().st_size for path in paths}  # of all files, whatever the shard
        self.files, self.notes, unread = [], [], {}
        for path in files_of_shard(self.sizes, shard):
            try:
                file, notes = inspect(path, config)
                self.files.append(file)
                self.notes += notes
            except UserError as error:  # of one file among many
                unread[path] = error
        if len(unread) > len(self.files):
            raise next(iter(unread.values()))
        self.skipped.append(("files without text, or damaged", list(unread), "; --corpus=FILE says why"))
        self.characters = self.bytes = self.documents = self.longest = length = 0
        for text, is_new in self.pieces():
            length = len(text) + (0 if is_new else length)
            self.longest = max(self.longest, length)
            self.characters += len(text)
            self.bytes += len(text.encode())
            self.documents += is_new
        if not self.characters:
            raise UserError(f"{paths[0]}: the corpus, or this shard of it, holds no text")

    def pieces(self):
        """Yield (text, whether a document begins here)."""
        self.tally = collections.Counter()
        for file in self.files:
            yield from cut(read_documents(file, self.separator, self.tally))

    def train_and_val(self):
        """Yield ("train" or "val", text, whether a document begins here).

        Validation is the text of config.val_corpus, or the last val_fraction of this one, so that it never overlaps
        training text: from the start of a document if all are short beside it, else from the start of a line (which
        then begins a document).
        """
        if self.val:
            yield from (("train", text, is_new) for text, is_new in self.pieces())
            yield from (("val", text, is_new) for text, is_new in self.val.pieces())
            return
        left = round(self.characters * (1 - self.config.val_fraction))  # characters that are still for training
        whole_documents = self.longest <= (self.characters - left) / 2
        pieces = self.pieces()
        for text, is_new in pieces:
            if whole_documents:
                head = 0 if is_new and left <= 0 else len(text)
            else:
                head = len(text) if left >= len(text) else line_start(text, left)
            left -= len(text)
            if head:
                yield "train", text[:head], is_new
            if head < len(text):
                yield "val", text[head:], True
                break
        yield from (("val", text, is_new) for text, is_new in pieces)

    def describe(self):
        """What was found, with the first line as decoded: the reader sees a wrong encoding at once."""
        for file in self.files[:5]:
            text = next((text for text, _ in read_documents(file, self.separator, collections.Counter())), "")
            print(one_line(f"{file.path} ({file.encoding}): {' '.join(text[:200].split())[:40]} …"))
        if len(self.files) > 5:
            print(f"… and {len(self.files) - 5} more files")
        for note in self.notes:
            print(one_line(note))
        for keys in sorted({file.keys for file in self.files} - {(), ("text",)}):
            turns = ", a turn a paragraph" if keys[0] in CHATS else ""
            print(one_line(f"the text of a record is its {' and '.join(keys)}{turns}; --text_key=KEY takes another"))
        for word in SEPARATORS:
            if self.tally[word]:
                print(f"{self.tally[word]:,} lines end in {word}; --split='{word}' makes documents of them")
        if self.tally["without text"]:
            print(f"skipped records without text: {self.tally['without text']:,}")
        if self.tally["half characters"]:
            print(f"warning: records with half characters, which become �: {self.tally['half characters']:,}")
        for kind, paths, advice in self.skipped:
            if paths:
                print(one_line(f"skipped {kind} ({len(paths):,}): {first_few([p.name for p in paths])}{advice}"))
        print(f"{self.documents:,} documents, {self.characters:,} characters, {self.bytes / 1e6:.1f} MB as UTF-8")
        if self.val:
            print("and for validation:")
            self.val.describe()
