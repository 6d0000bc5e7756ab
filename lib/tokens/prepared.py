"""What prepare.py leaves for train.py: token ids, one .bin file of a split or many shards, and meta.json."""

import argparse
import contextlib
import re
from pathlib import Path

import numpy as np

from lib.errors import UserError
from lib.machine.terminal import first_few
from lib.storage import lock_folder, read_json, sha256, write_json, write_text
from lib.tokens.tokenizer import read_tokenizer

RUN_PREPARE = "run prepare.py with the same config"
SUMS = ("tokens", "documents", "characters", "bytes")
SETTINGS, PATHS = ("encoding", "text_key", "split", "val_fraction"), ("corpus", "val_corpus")  # They shape the tokens.


# --- shards


def parse_shard(text) -> tuple[int, int]:
    """(K, N) of "K/N", the K-th of N shards: an argparse type."""
    match = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text, re.ASCII)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with 1 <= K <= N <= 9999, such as 3/16")
    return int(match[1]), int(match[2])


def shard_suffix(k, n) -> str:
    """What the names of the files of a shard have before the dot; nothing if there is one only."""
    return f"_{k - 1:04}" if n > 1 else ""


def missing_shards(folder, n) -> list[str]:
    return [f"{k}/{n}" for k in range(1, n + 1) if not (folder / f"meta{shard_suffix(k, n)}.json").exists()]


def publish(folder, shard, bins, meta, tokenizer="") -> list[str]:
    """Put new tokens in the place of those before. Returns the shards that are still missing.

    bins: an ExitStack of the new .bin files, which are on the disk, but not under their names yet. tokenizer: the JSON
    text of one that comes with the tokens.

    The order is what makes a crash harmless at any moment. Without a meta file tokens count as not prepared. So the old
    one goes before a .bin file takes its name, and the new one comes after both have theirs: what is there is either
    whole or refused. tokenizer.json may change before, because a meta file knows the hash of its own. What belongs to
    another division goes last, when the new tokens are there; and one shard at a time, lest two remove each other's.
    """
    k, n = shard
    meta_file = folder / f"meta{shard_suffix(k, n)}.json"
    with lock_folder(folder, ".lock_all", wait=True):
        if tokenizer:
            write_text(folder / "tokenizer.json", tokenizer)
        meta_file.unlink(missing_ok=True)
        bins.close()
        write_json(meta_file, meta, indent=1)
        remove_other_divisions(folder, n)
        return missing_shards(folder, n)


def remove_other_divisions(folder, n):
    """Remove the tokens in a folder that are not shards of n."""
    for path in folder.iterdir():
        if match := re.fullmatch(r"(?:meta|train|val)(|_\d{4})\.(?:json|bin)", path.name, re.ASCII):
            shard = ""  # Without a meta file it is of no division.
            with contextlib.suppress(UserError):
                shard = read_json(folder / f"meta{match[1]}.json", "").get("shard", "1/1")
            if not str(shard).endswith(f"/{n}"):
                path.unlink()


# --- meta.json


def describe_text(corpus) -> dict:
    """What meta.json says of the text: its files as they are now, and the settings that shape the tokens."""
    sources = [
        {"file": str(file.path.resolve()), "encoding": file.encoding, "bytes": file.size, "modified": file.modified}
        for file in (*corpus.files, *(corpus.val.files if corpus.val else ()))
    ]
    return {"sources": sources, "settings": _text_settings(corpus.config)}


def _text_settings(config):
    settings = {key: getattr(config, key) for key in SETTINGS + PATHS}
    return settings | {key: str(Path(settings[key]).absolute()) for key in PATHS if settings[key]}


def _is_same(one, other):
    """Whether two settings are equal, or two paths lead to one file."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        return one == other or Path(one).samefile(other)
    return False


def say_what_is_replaced(config):
    """Warn if a new tokenizer takes the place of another text's, of which the tokens and runs become useless."""
    with contextlib.suppress(UserError, AttributeError):
        corpus = read_json(config.tokens_dir / "meta.json", RUN_PREPARE).get("settings", {}).get("corpus")
        if corpus and not _is_same(corpus, _text_settings(config)["corpus"]):
            print(f"warning: this replaces the tokenizer of {corpus}; --dataset=NAME keeps both")


def check_text(config, given, meta):
    """Refuse settings of the text with which the tokens were not made, and say if the text has changed since then.

    given: {key: where the user has set it}. Raises UserError.
    """
    for key, setting in _text_settings(config).items():
        made_with = meta["settings"][key]
        is_moved = key in PATHS and made_with and not Path(str(made_with)).exists()
        if key in given and not is_moved and not _is_same(setting, made_with):
            raise UserError(
                f"{given[key]}: {setting!r}, but the tokens in {config.tokens_dir} were made with {made_with!r};"
                " run prepare.py with the same flags, or name another --dataset"
            )
    for name, known in meta["sources"].items():
        with contextlib.suppress(OSError, TypeError, ValueError):  # Tokens may be used where the text is not.
            stat = Path(name).stat()
            if known != (stat.st_size, stat.st_mtime):
                print(f"warning: {name} has changed since its tokens were made; to train on it now, {RUN_PREPARE}")


def entropy(counts) -> float:
    """Nats per token of a model that knows only how frequent each token is. counts: of each token."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def read_meta(folder) -> dict:
    """What prepare.py says of its tokens, of all shards together, checked against the tokenizer and the .bin files.

    A meta.json is complete by itself. What else is there then, a killed prepare.py had no time to remove.
    Raises UserError.
    """
    whole = folder / "meta.json"
    paths = [whole] if whole.exists() else sorted(folder.glob("meta_[0-9][0-9][0-9][0-9].json")) or [whole]
    tokenizer_sha256 = sha256(read_tokenizer(folder))
    metas = [_read_one_meta(path, tokenizer_sha256) for path in paths]
    for path, meta in zip(paths, metas, strict=True):
        # Where the text of a shard lies may differ from machine to machine.
        for key in ("shards", "corpus_bytes", "corpus_files", "vocab_size", "dtype", *SETTINGS):
            first, mine = metas[0].get(key), meta.get(key)
            if first != mine:
                raise UserError(
                    f"{paths[0]} and {path.name} are not of one preparation ({key}: {first} and {mine});"
                    f" {RUN_PREPARE} for every shard"
                )
    n = metas[0]["shards"]
    if missing := missing_shards(folder, n):
        raise UserError(f"{folder} lacks {first_few(missing)}; {RUN_PREPARE} and --shard={missing[0]}")
    total = {key: metas[0][key] for key in ("dtype", "vocab_size", "tokenizer_sha256", "unigram_entropy", "settings")}
    total["sources"] = {name: known for meta in metas for name, known in meta["sources"].items()}
    if n > 1:
        total["unigram_entropy"] = entropy(sum(meta["counts"] for meta in metas))
    for split in ("train", "val"):
        parts = [meta[split] for meta in metas]
        total[split] = {key: sum(part[key] for part in parts) for key in SUMS}
        total[split]["shards"] = [part["tokens"] for part in parts]
        total[split]["sha256"] = sha256("".join(part["sha256"] for part in parts)) if n > 1 else parts[0]["sha256"]
    return total


def _read_one_meta(path, tokenizer_sha256) -> dict:
    """The meta file of a shard, checked, with its settings. `shards` is the number of them, `counts` an array."""
    meta = read_json(path, RUN_PREPARE)
    try:
        k, n = parse_shard(meta.get("shard", "1/1"))
        numbers = [meta["vocab_size"], *(meta[split][key] for split in ("train", "val") for key in SUMS)]
        hashes = [meta["tokenizer_sha256"], meta["train"]["sha256"], meta["val"]["sha256"]]
        counts = np.array(meta["counts"].split(), dtype=np.int64) if n > 1 else None
        settings = {key: meta["settings"][key] for key in SETTINGS + PATHS}
        sources = {source["file"]: (source["bytes"], source["modified"]) for source in meta["sources"]}
        itemsize = {"uint16": 2, "uint32": 4}[meta["dtype"]]
        sound = {*map(type, numbers)} == {int} and min(numbers) > 0 and {*map(type, hashes)} == {str}
        sound = sound and 0 <= meta["unigram_entropy"] < 100 and path.name == f"meta{shard_suffix(k, n)}.json"
        if not sound or (n > 1 and (len(counts) != meta["vocab_size"] or counts.min() < 0)):
            raise ValueError
    except (argparse.ArgumentTypeError, AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise UserError(f"{path} is damaged (fields are missing or of the wrong type); {RUN_PREPARE}") from None
    hint = RUN_PREPARE + (f" and --shard={k}/{n}" if n > 1 else "")
    if meta["tokenizer_sha256"] != tokenizer_sha256:
        raise UserError(f"{path}: tokenizer.json has changed since the tokens were made; {hint}")
    for split in ("train", "val"):
        file = path.with_name(f"{split}{shard_suffix(k, n)}.bin")
        size, actual = meta[split]["tokens"] * itemsize, file.stat().st_size if file.is_file() else 0
        if actual != size:
            raise UserError(f"{file} has {actual:,} bytes, {path.name} says {size:,}; {hint}")
    return meta | settings | {"shards": n, "counts": counts, "sources": sources}
