"""The files that the scripts hand to each other: how each is written without loss and read without trust."""

from errors import UserError

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import signal
import tempfile
import zipfile
from pathlib import Path

import config

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
BOS, EOS = 1, 2  # their positions in that list are their ids
BEST, LATEST, LOG = "best.pt", "ckpt.pt", "loss_log.json"
LARGEST = 1 << 28  # bytes
TOKENIZER_REMEDY = "run train_tokenizer.py with the same config"
PREPARE_REMEDY = "run prepare.py with the same config"
ITEM_SIZE = {"uint16": 2, "uint32": 4}
SUMS = ("tokens", "documents", "characters", "bytes")


@contextlib.contextmanager
def atomic_write(path, mode="wb"):
    """Open a file that appears under its name only when it is complete and on the disk.

    Until then the previous file of that name stays. The temporary name is always the same, so that
    what a killed process left behind is overwritten by the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # Half characters, as odd file names hold them, become \ud800 and the like, which is how JSON writes them.
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def only_writer(folder, shard="", wait=False):
    """Keep other processes from writing into a folder, and clear away what a killed one left half-written.

    The lock ends with the process, however that ends. Raises UserError if another process has it, unless it
    is to wait. shard: the suffix of the only files that are meant; there is a lock for each.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / f".lock{shard}", blocking=wait).acquire()
    except Timeout:
        what = f"{folder}/*{shard}.*" if shard else folder
        raise UserError(f"{what} is being written by another process; wait for its end, or stop it") from None
    with lock:
        for leftover in folder.glob(".*.tmp"):
            if suffix_of(leftover.name[1:-4]) == shard:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


def write_json(path, value, indent=None):
    with atomic_write(path, "w") as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def scratch_folder(folder):
    """A folder for files on the way into `folder`; what a killed process leaves there, only_writer clears away."""
    return tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp")


def read_text(path, remedy) -> str:
    """A file that is read whole. `remedy`: what the user should do if it is missing or damaged."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; {remedy}")
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UserError(f"{path} is damaged (larger than {LARGEST:,} bytes); {remedy}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None


def parse_json(text, where, remedy) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} is damaged (not a JSON object); {remedy}")
    return value


def read_json(path, remedy) -> dict:
    return parse_json(read_text(path, remedy), path, remedy)


def is_number(value) -> bool:
    """Whether a value of a file is a number that can be calculated with."""
    return type(value) in (int, float) and abs(value) < 1e300


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- tokenizer


def read_tokenizer(folder) -> str:
    """The text of tokenizer.json, which is stored and compared as it is."""
    return read_text(Path(folder) / "tokenizer.json", TOKENIZER_REMEDY)


def parse_tokenizer(text, where):
    """The tokenizers.Tokenizer in a JSON text. `where`: its file, for the error message."""
    from tokenizers import Tokenizer

    settings = parse_json(text, where, TOKENIZER_REMEDY)
    try:
        for key in ("normalizer", "truncation", "padding", "post_processor"):
            if settings[key] is not None:  # could turn a short text into gigabytes, or a long one into nothing
                raise ValueError(f"it has a {key}")
        if [(token["id"], token["content"]) for token in settings["added_tokens"]] != [*enumerate(SPECIAL_TOKENS)]:
            raise ValueError(f"its special tokens are not {' '.join(SPECIAL_TOKENS)}")
        tokenizer = Tokenizer.from_str(text)
        token_bytes(tokenizer)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise UserError(f"{where}: not a tokenizer of train_tokenizer.py ({error}); {TOKENIZER_REMEDY}") from None
    # A corpus may contain the text "<eos>". tokenizer.json does not keep this setting.
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_bytes(tokenizer) -> list[bytes]:
    """The bytes that each token id stands for; none for the special tokens. ValueError if one stands for none.

    Byte-level BPE writes each byte as a printable character, the same mapping as GPT-2's: printable
    Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    try:
        return [b"" if t in SPECIAL_TOKENS else bytes(byte_of[c] for c in t) for t in tokens]
    except (KeyError, TypeError):
        raise ValueError("a token is not made of bytes, or missing") from None


# --- tokens


def parse_shard(text) -> tuple[int, int]:
    """(K, N) of "K/N", the K-th of N shards. ValueError if it is none."""
    match = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text, re.ASCII)
    if not match or int(match[1]) > int(match[2]):
        raise ValueError("not a shard")
    return int(match[1]), int(match[2])


def shard_suffix(k, n) -> str:
    """What the names of the files of a shard have before the dot; nothing if there is one only."""
    return f"_{k - 1:04}" if n > 1 else ""


def suffix_of(name) -> str:
    """The suffix in the name of a file of a shard, "" if it is none."""
    match = re.fullmatch(r"(?:meta|train|val)(_\d{4})\.(?:json|bin)", name, re.ASCII)
    return match[1] if match else ""


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
    import numpy as np

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
    import numpy as np

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


# --- runs


def find_run(run, *names) -> Path:
    """The file of a run: the first of `names` that it has.

    run: a folder or a file (relative to the working folder), a name under out/, or "" for the run
    that was written to last. Raises UserError.
    """
    out = config.ROOT / "out"
    if not run:
        found = [p for name in names for p in out.glob(f"*/{name}")]
        if not found:
            raise UserError(f"no run in {out}; train one first: python train.py config/tiny.py")
        folder = max(found, key=lambda p: p.stat().st_mtime).parent
    else:
        folder = next((p for p in (Path(run), out / run) if p.exists()), None)
        if folder is None:
            known = ", ".join(sorted({p.parent.name for name in names for p in out.glob(f"*/{name}")}))
            raise UserError(f"no run named {run!r}; there is {known or 'none yet'}")
        if folder.is_file():
            return folder
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no {' or '.join(names)}; train the run first, or name another with --run")


def save_checkpoint(path, checkpoint):
    import torch

    with atomic_write(path) as file, signals_wait():
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # says that a write failed, but not why
            raise (error.__context__ or error) from None


@contextlib.contextmanager
def signals_wait():
    """Let Ctrl-C and SIGTERM wait: a KeyboardInterrupt in the middle of torch.save can abort the process."""
    waiting = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for number in waiting:
        signal.raise_signal(number)


def load_checkpoint(path, resumable=False) -> dict:
    """A checkpoint of train.py, on the CPU, its config a Config. resumable: with what --resume needs.

    Executes no code that a stranger's file may hold, and takes no more memory than the file is large. The
    tensors are for check_tensors to compare. Raises UserError.
    """
    import torch

    kinds = {"model": dict, "config": dict, "tokenizer": str, "step": int}
    if resumable:
        kinds |= {"optimizer": list, "scaler": dict, "best_val_loss": float, "data": str, "seconds": float}
        kinds |= {"records": list}
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        for key, kind in kinds.items():
            if not isinstance(checkpoint.get(key), kind):
                raise ValueError(f"it lacks {key}")
        if not 0 <= checkpoint["step"] < 1 << 31:
            raise ValueError(f"it is of step {checkpoint['step']}")
        if resumable:
            records = checkpoint["records"]
            numbers = [v for record in records for v in (record["step"], *record.values())]
            numbers += [checkpoint["seconds"], *checkpoint["scaler"].values()]
            states = [part["state"] for part in checkpoint["optimizer"]]
            if not all(isinstance(state, dict) for part in states for state in (part, *part.values())):
                raise ValueError("its optimizer has no state")
            if not all(is_number(n) and n >= 0 for n in numbers) or math.isnan(checkpoint["best_val_loss"]):
                raise ValueError("its records are not numbers")
        return checkpoint | {"config": config.Config(**checkpoint["config"])}
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a torn or foreign file fails in many ways: zip, pickle, key and type errors
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(f"{path}: not a checkpoint of train.py, or a damaged one ({reason})") from None


def check_tensors(tensors, expected, path):
    """Raise UserError unless the dict of tensors of a checkpoint has the names and shapes of `expected`."""
    import torch

    for name in [*expected, *tensors]:
        tensor = tensors.get(name)
        ok = isinstance(tensor, torch.Tensor) and name in expected and tensor.shape == expected[name].shape
        # a small file can hold a large tensor whose elements are all the same memory
        if not (ok and tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous()):
            raise UserError(f"{path}: damaged: {str(name)[:40]} is not what its config and tokenizer ask for")
        if not tensor.isfinite().all():
            raise UserError(f"{path}: damaged: {name} holds numbers that are not finite")


# --- fetched corpora


def is_complete(corpus, checksum) -> bool:
    """Whether a data/ script has nothing to do. What is there is never overwritten."""
    if not corpus.exists():
        return False
    same = file_sha256(corpus) == checksum
    print(f"{corpus} is there already" + ("" if same else ", with another text than the published one"))
    print("to fetch it again, move it away first")
    return True


def file_sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_corpus(path, texts):
    """Write a corpus of one record a text."""
    with atomic_write(path, "w") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"wrote {path}: {len(texts):,} documents, {sum(map(len, texts)):,} characters")
