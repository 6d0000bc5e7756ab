"""The tokenizer and the tokens of a text are the same on every machine and in every version, byte for byte."""

import hashlib
import json

import prepare
import train_tokenizer
from tests.conftest import TINY, make_text

PINNED = {
    "tokenizer.json": "eebaf95b030293de",
    "vocab.json": "5abc84d2cfdd8d43",
    "merges.txt": "2efc6c2da65c9e80",
    "train.bin": "47a0dce634cfb54d",
    "val.bin": "ee4b4441e8fbd5e1",
}
PINNED_SHARDS = {"train": "fab99a9c0862b972", "val": "9797fe2cd8b7833b"}
PINNED_RECORDS = {
    "tokenizer.json": "f3401ebeb03821a7",
    "train.bin": "57aa95aa71b0584f",
    "val.bin": "28d6070e4de6d7c2",
}


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


def test_one_file_and_its_shards(book):
    folder = book / "data" / "book" / "bpe400"
    assert {name: digest((folder / name).read_bytes()) for name in PINNED} == PINNED
    for k in (1, 2, 3):
        assert prepare.main([*TINY, f"--shard={k}/3"]) == 0
    for split, pinned in PINNED_SHARDS.items():
        assert digest(b"".join((folder / f"{split}_000{k}.bin").read_bytes() for k in range(3))) == pinned


def test_records_in_gb18030(home):
    records = [json.dumps({"text": make_text(9, seed)}, ensure_ascii=False) + "\n" for seed in range(60)]
    (home / "records.jsonl").write_text("".join(records), encoding="gb18030")
    flags = [f"--corpus={home / 'records.jsonl'}", "--vocab_size=500"]
    assert train_tokenizer.main(flags) == 0 and prepare.main(flags) == 0
    folder = home / "data" / "records" / "bpe500"
    assert {name: digest((folder / name).read_bytes()) for name in PINNED_RECORDS} == PINNED_RECORDS
