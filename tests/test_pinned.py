"""What the scripts compute, bit for bit, held while the house is rebuilt.

    python -m pytest tests/test_pinned.py                 compares with tests/pinned.json
    PIN=write python -m pytest tests/test_pinned.py       writes it, on the CPU at hand

The figures of training depend on the model of the CPU, those of the tokenizer and of prepare.py do not.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from tests.conftest import TINY, copy_scripts, make_text

PINNED = Path(__file__).with_name("pinned.json")
TRAIN = [*TINY, "--prompts=曹操|"]
RUNS = {
    "adamw": [],
    "muon": ["--optimizer=muon"],
    "untied": ["--tie_embeddings=False", "--weight_decay=0.3", "--hold_steps=3"],
    "dropout": ["--dropout=0.1"],
    "accumulation": ["--micro_batch_size=1"],
    "bfloat16": ["--dtype=bfloat16"],
}
SAMPLES = {
    "two": ["--num_samples=2", "--temperature=1", "--seed=1"],
    "greedy": ["--temperature=0", "--repetition_penalty=1.3", "--ignore_eos"],
    "narrow": ["--top_k=20", "--min_p=0.05", "--top_p=0.9", "--seed=7"],
}


def digest(value):
    """SHA-256 of nested values: tensors by their bytes, times left out."""
    sha = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            sha.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                if key not in ("seconds", "tokens_per_second"):
                    sha.update(str(key).encode())
                    add(value[key])
        elif isinstance(value, list | tuple):
            for inner in value:
                add(inner)
        elif isinstance(value, bytes):
            sha.update(value)
        else:
            sha.update(repr(value).encode())

    add(value)
    return sha.hexdigest()[:16]


def start(home, *words, module=()):
    result = subprocess.run(
        [sys.executable, *module, *words],
        cwd=home,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def export(home, *words):
    return start(home, "-m", "tools.export", *words)


def read_run(folder):
    checkpoint = torch.load(folder / "ckpt.pt", weights_only=True)
    return {
        "weights": digest(checkpoint["model"]),
        "optimizer": digest(checkpoint["optimizer"]),
        "records": digest(checkpoint["records"]),
        "best": digest(torch.load(folder / "best.pt", weights_only=True)["model"]),
        "samples": digest((folder / "samples.md").read_bytes()),
    }


def compute(home):
    copy_scripts(home)
    folder = home / "data" / "book" / "bpe400"
    folder.parent.mkdir(parents=True)
    (folder.parent / "corpus.txt").write_text(make_text(600), encoding="utf-8")
    found = {}

    start(home, "train_tokenizer.py", *TINY)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        found[name] = digest((folder / name).read_bytes())
    for k in (1, 2, 3):
        start(home, "prepare.py", *TINY, f"--shard={k}/3")
    for split in ("train", "val"):
        parts = [(folder / f"{split}_000{k}.bin").read_bytes() for k in range(3)]
        found[f"shards {split}"] = digest(b"".join(parts))
    start(home, "prepare.py", *TINY)
    for name in ("train.bin", "val.bin", "meta.json"):
        found[name] = digest((folder / name).read_bytes().replace(str(home).encode(), b""))

    records = [json.dumps({"text": make_text(9, seed)}, ensure_ascii=False) + "\n" for seed in range(60)]
    (home / "records.jsonl").write_text("".join(records), encoding="gb18030")
    flags = ["--corpus=records.jsonl", "--vocab_size=500"]
    start(home, "train_tokenizer.py", *flags)
    start(home, "prepare.py", *flags)
    for name in ("tokenizer.json", "train.bin", "val.bin", "meta.json"):
        found[f"records {name}"] = digest((home / "data" / "records" / "bpe500" / name).read_bytes())

    for run, flags in RUNS.items():
        if run != "bfloat16" or torch.cpu._is_avx512_bf16_supported():
            start(home, "train.py", *TRAIN, *flags, f"--run={run}")
            found[run] = read_run(home / "out" / run)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--", "train.py"]
    start(home, *torchrun, *TRAIN, "--dropout=0.1", "--micro_batch_size=1", "--run=two")
    found["two processes"] = read_run(home / "out" / "two")
    tuned = [*TRAIN[:1], *TRAIN[6:], "--init_from=adamw"]
    start(home, "prepare.py", *tuned)
    start(home, "train.py", *tuned, "--run=tuned")
    found["init_from"] = read_run(home / "out" / "tuned")

    for name, flags in SAMPLES.items():
        text = start(home, "sample.py", "--run=adamw", "--prompt=曹操", "--max_new_tokens=60", *flags)
        found[f"sample {name}"] = digest(text.encode())
    export(home, "adamw")
    export(home, "adamw", "--format=gguf", "--type=q8_0")
    hf = home / "out" / "adamw" / "hf"
    for path in (hf / "model.safetensors", hf / "config.json", hf / "tokenizer.json", hf / "generation_config.json"):
        found[f"export {path.name}"] = digest(path.read_bytes())
    found["export gguf"] = digest((home / "out" / "adamw" / "model.gguf").read_bytes())
    return found


def test_everything_is_computed_as_it_was(tmp_path):
    found = compute(tmp_path)
    if os.environ.get("PIN") == "write":
        PINNED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(PINNED.read_text(encoding="utf-8"))
