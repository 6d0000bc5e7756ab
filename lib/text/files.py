"""The files of a corpus: which they are, in which order, and which of them belong to a shard."""

import bisect
import itertools
import os
import re
from pathlib import Path

from lib.errors import UserError

TEXTS, JSON, TABLES = (".txt", ".text", ".md"), (".jsonl", ".json", ".ndjson"), (".csv", ".tsv")
KNOWN = TEXTS + JSON + TABLES
ADVICE = {  # for what holds texts, but is none
    ".parquet": 'make a .jsonl of it: python -c "import pandas; pandas.read_parquet({name!r})'
    ".to_json('{stem}.jsonl', orient='records', lines=True, force_ascii=False)\"",
    ".zip": 'unpack it: python -m zipfile -e "{name}" "{stem}"',
    ".tar": 'unpack it: python -m tarfile -e "{name}" "{stem}"',
    ".tgz": 'unpack it: python -m tarfile -e "{name}" "{stem}"',
    ".gz": 'unpack it: python -m gzip -d "{name}"',
}


def find_files(config):
    """(the files of a corpus in their order, [(kind, files that were passed over, advice)]). Raises UserError."""
    folder = config.corpus_dir
    places = [Path(config.corpus)] if config.corpus else [folder / f"corpus{suffix}" for suffix in (*KNOWN, "")]
    place = next((p for p in places if p.exists()), None)
    if place is None:
        fetch = f"python data/{config.dataset}.py"
        known = (folder.parent / f"{config.dataset}.py").exists()
        hint = f"fetch it: {fetch}" if known else f"put your text into {places[0]}, or name it with --corpus"
        raise UserError(f"no corpus at {places[0]}; {hint}")
    if not place.is_dir():  # A file that is named is read if it is text, whatever it is called.
        if advice := _advice(place):
            raise UserError(f"{place}: {advice}")
        return [place], []
    files, hidden, tokens, others = [], [], [], []
    paths, lost = _walk(place)
    made = {path.parent for path in paths if path.name == "tokenizer.json"}  # by train_tokenizer.py, inside the folder
    for path in sorted(paths, key=_as_people_count):
        is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(place).parts)
        is_known = path.suffix.lower() in KNOWN
        (hidden if is_hidden else tokens if path.parent in made else files if is_known else others).append(path)
    if not files:
        advice = _advice(others[0]) or f"to read {others[0].name}, name it .txt" if others else "put your text there"
        raise UserError(f"the corpus folder {place} holds no {', '.join(KNOWN)} file; {advice}")
    return files, [
        ("links that lead nowhere new, and what cannot be opened", lost, ""),
        ("hidden files", hidden, ""),
        ("files beside a tokenizer", tokens, ""),
        ("files of other kinds", others, "; what is text among them is read if it is named .txt"),
    ]


def _walk(place):
    """(the files in a folder and behind its links, each folder once; what cannot be followed), two lists of paths."""
    paths, lost = [], []
    seen = set(place.resolve().parents)  # A link to one of these would bring its own folder again.
    for folder, subfolders, names in os.walk(place, followlinks=True, onerror=lambda e: lost.append(Path(e.filename))):
        if (real := Path(folder).resolve()) in seen:
            lost.append(Path(folder))
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort(key=lambda name: (Path(folder, name).is_symlink(), name))
        for path in (Path(folder, name) for name in names):
            (paths if path.is_file() else lost).append(path)
    return paths, lost


def _advice(path):
    """What to do with a file that holds texts, but is none; "" where nothing is known."""
    advice = ADVICE.get(".tar" if path.stem.endswith(".tar") else path.suffix.lower(), "")
    return advice.format(name=path.name, stem=path.stem)


def _as_people_count(path):
    """A key to sort paths by, in which 9 comes before 10."""
    parts = (re.split(r"(\d+)", part) for part in path.parts)
    return [[int(word) if i % 2 else word for i, word in enumerate(words)] for words in parts]


def files_of_shard(sizes, shard) -> list[Path]:
    """The files of shard (K, N): the K-th of N runs of files, of about as many bytes each, and none without a file.

    No run is larger than an Nth of all plus the largest file. sizes: {path: bytes} of all files; empty ones are in no
    shard. Raises UserError.
    """
    (k, n), paths = shard, [path for path in sizes if sizes[path]]
    if n > max(1, len(paths)):
        largest = max(sizes, key=sizes.get)
        raise UserError(
            f"shard {k}/{n}: a shard is whole files, and there are {len(paths)}; use fewer shards, or cut a file:"
            f" split -n l/{n} --additional-suffix={largest.suffix} {largest} FOLDER/part-, and name FOLDER instead"
        )
    ends = list(itertools.accumulate(sizes[path] for path in paths))
    middles = [end - sizes[path] / 2 for path, end in zip(paths, ends, strict=True)]
    begins = [0]
    for i in range(1, n):
        nearest = bisect.bisect(middles, ends[-1] * i / n)
        begins.append(min(max(nearest, begins[-1] + 1), len(paths) - (n - i)))
    return paths[begins[k - 1] : [*begins, len(paths)][k]]
