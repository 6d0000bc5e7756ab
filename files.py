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
BEST, LATEST, LOG, SAMPLES = "best.pt", "ckpt.pt", "loss_log.json", "samples.md"
LARGEST = 1 << 28  # bytes
TOKENIZER_REMEDY = "run train_tokenizer.py (with init_from, prepare.py) with the same config"


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


def suffix_of(name) -> str:
    """The suffix in the name of a file of a shard, "" if it is none."""
    match = re.fullmatch(r"(?:meta|train|val)(_\d{4})\.(?:json|bin)", name, re.ASCII)
    return match[1] if match else ""


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
    """The tokenizers.Tokenizer in a JSON text: byte-level BPE. `where`: its file, for the error message."""
    from tokenizers import Tokenizer

    settings = parse_json(text, where, TOKENIZER_REMEDY)
    try:
        if settings["normalizer"] not in (None, {"type": "NFC"}):  # could turn a short text into gigabytes
            raise ValueError("it has a normalizer other than NFC")
        for key in ("truncation", "padding"):
            if settings[key] is not None:
                raise ValueError(f"it has a {key}")
        tokenizer = Tokenizer.from_str(text)
        token_bytes(tokenizer)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise UserError(f"{where}: not a byte-level BPE tokenizer ({error}); {TOKENIZER_REMEDY}") from None
    # A corpus may contain the text "<eos>". tokenizer.json does not keep this setting.
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_ids(tokenizer, config, where):
    """(bos, eos): the tokens that begin and end a document. bos is None where there is none, as in Qwen3."""
    ids = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for key in ("bos_token", "eos_token"):
        name = getattr(config, key)
        if name not in ids and (name or key == "eos_token"):
            raise UserError(f"{where}: {key} {name!r} is no special token of it; set {key} to one that it has")
    return ids.get(config.bos_token), ids[config.eos_token]


def token_bytes(tokenizer) -> list[bytes]:
    """The bytes that each token id stands for; none for the special tokens. ValueError if one stands for none.

    Byte-level BPE writes each byte as a printable character, the same mapping as GPT-2's: printable
    Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}
    added = tokenizer.get_added_tokens_decoder()  # written as they are
    pieces = []
    for i in range(tokenizer.get_vocab_size()):
        try:
            if i in added:
                pieces.append(b"" if added[i].special else added[i].content.encode())
            else:
                pieces.append(bytes(byte_of[c] for c in tokenizer.id_to_token(i)))
        except (KeyError, TypeError):
            raise ValueError(f"token {i} is not made of bytes, or missing") from None
    return pieces


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
        if not checkpoint["model"]["embedding.weight"].dim() == 2:
            raise ValueError("its embedding is no matrix")
        if not 0 <= checkpoint["step"] < 1 << 31:
            raise ValueError(f"it is of step {checkpoint['step']}")
        if resumable:
            records = checkpoint["records"]
            texts = [text for record in records for pair in record.get("samples", {}).items() for text in pair]
            if not all(type(text) is str for text in texts):
                raise ValueError("its samples are not text")
            numbers = [v for r in records for v in (r["step"], *(r[key] for key in r if key != "samples"))]
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
