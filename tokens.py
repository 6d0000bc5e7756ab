"""The token ids on the disk: the .bin files of prepare.py, one of a split or many shards, what it says of them."""

from errors import UserError

import contextlib
import re
from pathlib import Path

import numpy as np

from files import is_number, read_json, read_tokenizer, sha256, suffix_of

PREPARE_REMEDY = "run prepare.py with the same config"
ITEM_SIZE = {"uint16": 2, "uint32": 4}
SUMS = ("tokens", "documents", "characters", "bytes")


def parse_shard(text) -> tuple[int, int]:
    """(K, N) of "K/N", the K-th of N shards. ValueError if it is none."""
    match = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text, re.ASCII)
    if not match or int(match[1]) > int(match[2]):
        raise ValueError("not a shard")
    return int(match[1]), int(match[2])


def shard_suffix(k, n) -> str:
    """What the names of the files of a shard have before the dot; nothing if there is one only."""
    return f"_{k - 1:04}" if n > 1 else ""


def shard_of(meta, path) -> tuple[int, int]:
    """(K, N) of a meta file that was read. ValueError if it does not fit its name."""
    shard = parse_shard(meta.get("shard", "1/1"))
    if Path(path).name != f"meta{shard_suffix(*shard)}.json":
        raise ValueError("of another shard")
    return shard


def missing_shards(folder, n) -> list[str]:
    return [f"{k}/{n}" for k in range(1, n + 1) if not (folder / f"meta{shard_suffix(k, n)}.json").exists()]


def remove_other_divisions(folder, n):
    """Remove the tokens in a folder that are not shards of n."""
    for suffix in {"", *(suffix_of(path.name) for path in folder.iterdir())}:
        meta = folder / f"meta{suffix}.json"
        try:
            stays = shard_of(read_json(meta, ""), meta)[1] == n
        except (UserError, TypeError, ValueError):  # it is damaged, or there is none
            stays = False
        if not stays:
            for path in (meta, folder / f"train{suffix}.bin", folder / f"val{suffix}.bin"):  # no .bin counts without it
                path.unlink(missing_ok=True)


def entropy(counts) -> float:
    """Nats per token of a model that knows only how frequent each token is."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def read_meta(folder) -> dict:
    """What prepare.py says of its tokens, of all shards together, checked against the tokenizer and the .bin files.

    A meta.json is complete by itself. What else is there then, a killed prepare.py had no time to remove.
    """
    folder = Path(folder)
    whole = folder / "meta.json"
    paths = [whole] if whole.exists() else sorted(folder.glob("meta_[0-9][0-9][0-9][0-9].json")) or [whole]
    metas, counts, tokenizer = [], 0, None
    for path in paths:
        meta = _read_one_meta(path)
        k, n = meta["shard"]
        remedy = PREPARE_REMEDY + (f" and --shard={k}/{n}" if n > 1 else "")
        tokenizer = tokenizer or sha256(read_tokenizer(folder))
        if meta["tokenizer_sha256"] != tokenizer:
            raise UserError(f"{path}: tokenizer.json has changed since the tokens were made; {remedy}")
        metas.append(meta | {"shards": n, "counts": None})
        for key in ("shards", "corpus_bytes", "vocab_size", "dtype"):
            if metas[0].get(key) != metas[-1].get(key):
                raise UserError(
                    f"{paths[0]} and {path.name} are not of one preparation ({key}: {metas[0].get(key)} and"
                    f" {metas[-1].get(key)}); {PREPARE_REMEDY} for every shard"
                )
        for split in ("train", "val"):
            file = folder / f"{split}{shard_suffix(k, n)}.bin"
            size = meta[split]["tokens"] * ITEM_SIZE[meta["dtype"]]
            actual = file.stat().st_size if file.is_file() else 0
            if actual != size:
                raise UserError(f"{file} has {actual:,} bytes, {path.name} says {size:,}; {remedy}")
        counts = counts + meta["counts"]
    missing = missing_shards(folder, n) if n > 1 else []
    if missing:
        raise UserError(f"{folder} lacks {first_few(missing)}; {PREPARE_REMEDY} and --shard={missing[0]}")
    total = {key: metas[0][key] for key in ("dtype", "vocab_size", "tokenizer_sha256", "unigram_entropy")}
    if n > 1:
        total["unigram_entropy"] = entropy(counts)
    for split in ("train", "val"):
        parts = [meta[split] for meta in metas]
        total[split] = {key: sum(part[key] for part in parts) for key in SUMS}
        total[split]["shards"] = [part["tokens"] for part in parts]
        total[split]["sha256"] = sha256("".join(part["sha256"] for part in parts)) if n > 1 else parts[0]["sha256"]
    return total


def _read_one_meta(path) -> dict:
    """A meta file, its fields checked. `shard` becomes (K, N), `counts` an array."""
    meta = read_json(path, PREPARE_REMEDY)
    try:
        shard = shard_of(meta, path)
        splits = meta["train"], meta["val"]
        numbers = [meta["vocab_size"], *(part[key] for part in splits for key in SUMS)]
        texts = [meta["tokenizer_sha256"], *(part["sha256"] for part in splits)]
        ok = meta["dtype"] in ITEM_SIZE and is_number(meta["unigram_entropy"])
        ok = ok and all(type(n) is int and n > 0 for n in numbers) and all(type(text) is str for text in texts)
        counts = 0
        if shard[1] > 1:
            counts = np.array([int(n) for n in meta["counts"].split()], dtype=np.int64)
            ok = ok and len(counts) == meta["vocab_size"] and counts.min() >= 0 and counts.sum() > 0
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        ok = False
    if not ok:
        of = "" if Path(path).name == "meta.json" else " for this shard"
        raise UserError(f"{path} is damaged (fields are missing or of the wrong type); {PREPARE_REMEDY}{of}")
    return meta | {"shard": shard, "counts": counts}


def open_tokens(folder, meta, split) -> list:
    """The .bin files of a split, one for each shard, open and unbuffered."""
    n = len(meta[split]["shards"])
    with contextlib.suppress(ImportError, OSError, ValueError):  # many systems let no more than 1,024 be open, or 256
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * n + 256), hard))
    return [open(Path(folder) / f"{split}{shard_suffix(k, n)}.bin", "rb", buffering=0) for k in range(1, n + 1)]


def first_few(names) -> str:
    return ", ".join(names[:8]) + (f", … ({len(names):,} in all)" if len(names) > 8 else "")
