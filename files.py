"""The files that the scripts hand to each other: how each is written without loss and read without trust."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import config
from errors import UserError

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
BOS, EOS = 1, 2  # their positions in that list are their ids
BEST, LATEST, LOG = "best.pt", "ckpt.pt", "loss_log.json"


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
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
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


def write_json(path, value, indent=None):
    with atomic_write(path, "w") as file:
        json.dump(value, file, ensure_ascii=False, indent=indent)
        file.write("\n")


def read_json(path, remedy):
    """The JSON object in a file. `remedy`: what the user should do if there is none."""
    try:
        value = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {remedy}")
    return value


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- tokenizer


def read_tokenizer(folder) -> str:
    """The text of tokenizer.json, which is stored and compared as it is."""
    path = Path(folder) / "tokenizer.json"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run train_tokenizer.py with the same config first") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged; run train_tokenizer.py again") from None


def parse_tokenizer(text, where):
    """The tokenizers.Tokenizer in a JSON text. `where`: its file, for the error message."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{where}: not a tokenizer ({error}); run train_tokenizer.py again") from None
    if tuple(tokenizer.id_to_token(i) for i in range(len(SPECIAL_TOKENS))) != SPECIAL_TOKENS:
        raise UserError(f"{where}: its first ids are not {' '.join(SPECIAL_TOKENS)}; run train_tokenizer.py again")
    # A corpus may contain the text "<eos>". tokenizer.json does not keep this setting.
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_bytes(tokenizer) -> list[bytes]:
    """The bytes that each token id stands for; none for the special tokens.

    Byte-level BPE writes each byte as a printable character, the same mapping as GPT-2's: printable
    Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}
    tokens = (tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size()))
    return [b"" if t in SPECIAL_TOKENS else bytes(byte_of[c] for c in t) for t in tokens]


# --- tokens


def read_meta(folder) -> dict:
    """meta.json of prepare.py, checked against the tokenizer and the .bin files beside it."""
    remedy = "run prepare.py with the same config"
    path = Path(folder) / "meta.json"
    meta = read_json(path, remedy)
    try:
        ok = meta["dtype"] in ("uint16", "uint32") and meta["vocab_size"] > 0 and meta["unigram_entropy"] >= 0
        itemsize = int(meta["dtype"][-2:]) // 8
        sizes = {split: int(meta[split]["tokens"]) * itemsize for split in ("train", "val")}
        fingerprint = meta["tokenizer_sha256"], meta["train"]["sha256"]
    except (KeyError, TypeError, ValueError, OverflowError):
        ok = False
    if not ok:
        raise UserError(f"{path} is damaged (fields are missing or of the wrong type); {remedy}")
    if sha256(read_tokenizer(folder)) != fingerprint[0]:
        raise UserError(f"{folder}: tokenizer.json has changed since the tokens were made; {remedy}")
    for split, size in sizes.items():
        file = Path(folder) / f"{split}.bin"
        actual = file.stat().st_size if file.exists() else 0
        if actual != size:
            raise UserError(f"{file} has {actual:,} bytes, meta.json says {size:,}; {remedy}")
    return meta


def read_tokens(folder, meta, split):
    """The token ids of a split, a numpy memmap: nothing is read before it is used."""
    import numpy as np

    return np.memmap(Path(folder) / f"{split}.bin", dtype=np.dtype(meta["dtype"]).newbyteorder("<"), mode="r")


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

    with atomic_write(path) as file:
        torch.save(checkpoint, file)


def load_checkpoint(path, *keys) -> dict:
    """A checkpoint of train.py, on the CPU, its config a Config; it must have these keys besides the usual ones.

    Executes no code that a stranger's file may hold.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"model", "config", "tokenizer", "step", *keys} - set(checkpoint)
        if missing:
            raise UserError(f"it lacks {', '.join(sorted(missing))}")
        return checkpoint | {"config": config.Config(**checkpoint["config"])}
    except OSError:
        raise
    except Exception as error:  # a torn or foreign file fails in many ways: zip, pickle, key and type errors
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(f"{path}: not a checkpoint of train.py, or a damaged one ({reason})") from None


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
