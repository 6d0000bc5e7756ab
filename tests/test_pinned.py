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
PINNED_FILES = {"tokenizer.json": "4bdbc2d7700b0c41", "train.bin": "8537c78e06baecf1", "val.bin": "1d1026945f3520c9"}
PINNED_SHARDS = [  # the same tokens as those of a corpus of two files alone
    {"train": "d170b56956b2dc57", "val": "1584c49d3ec72dac"},
    {"train": "d1cf187ff2f022ad", "val": "32d921a9316ef743"},
    {"train": "82fc10cf26d686a0", "val": "daea63904184f91a"},
]
PINNED_RECORDS = {
    "tokenizer.json": "f3401ebeb03821a7",
    "train.bin": "57aa95aa71b0584f",
    "val.bin": "28d6070e4de6d7c2",
}


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


def test_one_file(book):
    folder = book / "data" / "book" / "bpe400"
    assert {name: digest((folder / name).read_bytes()) for name in PINNED} == PINNED


def test_several_files_and_their_shards(home):
    folder = home / "data" / "book"
    (folder / "corpus").mkdir(parents=True)
    for i, n_lines in enumerate((150, 40, 40, 170, 60, 140)):
        (folder / "corpus" / f"{i}.txt").write_text(make_text(n_lines, seed=i), encoding="utf-8")
    assert train_tokenizer.main(TINY) == 0 and prepare.main(TINY) == 0
    folder /= "bpe400"
    assert {name: digest((folder / name).read_bytes()) for name in PINNED_FILES} == PINNED_FILES
    for k, pinned in enumerate(PINNED_SHARDS, 1):
        assert prepare.main([*TINY, f"--shard={k}/3"]) == 0
        assert {split: digest((folder / f"{split}_000{k - 1}.bin").read_bytes()) for split in pinned} == pinned


def test_records_in_gb18030(home):
    records = [json.dumps({"text": make_text(9, seed)}, ensure_ascii=False) + "\n" for seed in range(60)]
    (home / "records.jsonl").write_text("".join(records), encoding="gb18030")
    flags = [f"--corpus={home / 'records.jsonl'}", "--vocab_size=500"]
    assert train_tokenizer.main(flags) == 0 and prepare.main(flags) == 0
    folder = home / "data" / "records" / "bpe500"
    assert {name: digest((folder / name).read_bytes()) for name in PINNED_RECORDS} == PINNED_RECORDS
