import json

import numpy as np
import pytest
from tokenizers import models, pre_tokenizers

import prepare
import train
import train_tokenizer
from lib.storage import sha256
from lib.tokens.prepared import read_meta
from lib.tokens.tokenizer import BOS, EOS, parse_tokenizer, read_tokenizer
from tests.conftest import TINY, make_text, read_tokens


def test_the_bins_hold_every_document_between_bos_and_eos(home):
    texts = [make_text(3, seed) for seed in range(100)] + ["<eos><bos>", "一\n\n二 \n\n"]
    folder = home / "data" / "book"
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    assert train_tokenizer.main(TINY) == 0
    assert prepare.main(TINY) == 0
    folder /= "bpe400"
    meta = read_meta(folder)
    tokenizer = parse_tokenizer(read_tokenizer(folder), folder)
    ids = [i for t in texts for i in (BOS, *tokenizer.encode(t, add_special_tokens=False).ids, EOS)]
    train, val = (read_tokens(folder, meta, split) for split in ("train", "val"))
    assert np.concatenate((train, val)).tolist() == ids
    assert (folder / "train.bin").read_bytes() == np.array(ids[: len(train)], dtype="<u2").tobytes()
    assert val[0] == BOS and train[-1] == EOS

    assert meta["train"]["documents"] + meta["val"]["documents"] == len(texts)
    assert meta["train"]["characters"] + meta["val"]["characters"] == sum(map(len, texts))
    assert meta["train"]["bytes"] + meta["val"]["bytes"] == sum(len(t.encode()) for t in texts)
    assert meta["tokenizer_sha256"] == sha256(read_tokenizer(folder))
    p = np.unique(train, return_counts=True)[1] / len(train)
    assert meta["unigram_entropy"] == pytest.approx(-(p * np.log(p)).sum())


def test_a_long_text_is_streamed_and_gives_the_tokens_of_the_whole(home, monkeypatch):
    text = make_text(4000)
    path = home / "book.txt"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(prepare, "BATCH", 10_000)
    argv = [*TINY, f"--corpus={path}"]
    assert train_tokenizer.main(argv) == 0
    assert prepare.main(argv) == 0
    folder = home / "data" / "book" / "bpe400"
    meta = read_meta(folder)
    tokenizer = parse_tokenizer(read_tokenizer(folder), folder)
    train = read_tokens(folder, meta, "train").tolist()
    head = text[: meta["train"]["characters"]]
    assert train == [BOS, *tokenizer.encode(head, add_special_tokens=False).ids, EOS]
    assert meta["train"]["documents"] == meta["val"]["documents"] == 1


def test_a_vocabulary_beyond_65536_is_stored_in_32_bits(book):
    folder = book / "data" / "book" / "bpe400"
    data = json.loads(read_tokenizer(folder))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", "<bos>", "<eos>", "<unk>", *letters, *(a + b for a in letters for b in letters)]
    data["model"] |= {
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [[a, b] for a in letters for b in letters],
    }
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    assert prepare.main(TINY) == 0
    meta = read_meta(folder)
    assert (meta["dtype"], meta["vocab_size"]) == ("uint32", 4 + 256 + 65536)
    ids = read_tokens(folder, meta, "train")
    assert ids.max() > 65535
    tokenizer = parse_tokenizer(read_tokenizer(folder), folder)
    assert isinstance(tokenizer.model, models.BPE)
    text = (book / "data" / "book" / "corpus.txt").read_text(encoding="utf-8")
    assert tokenizer.decode(ids[1:-1].tolist()) == text[: meta["train"]["characters"]]


def test_what_prepare_refuses(fails, home, book):
    folder = home / "data" / "book" / "bpe400"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert "train_tokenizer.py" in fails(prepare.main, [*TINY, "--vocab_size=300"])
    assert "no corpus" in fails(prepare.main, [*TINY, f"--corpus={home / 'no.txt'}"])
    (home / "data" / "book" / "corpus.txt").write_bytes(("汉字".encode() * 100 + b"\xff") * 10)
    assert "10 bad places in 2,010 characters" in fails(prepare.main, TINY)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_failure_while_writing_leaves_the_old_files(book, monkeypatch):
    folder = book / "data" / "book" / "bpe400"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.TokenFile, "summary", broken)
    monkeypatch.setattr(prepare, "encode", broken)
    assert prepare.main(TINY) == 130
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_stale_tokens(home, fails, capsys):
    """train.py says if its settings, or the text as it is now, are not what the tokens were made with."""
    one, other = home / "a" / "input.txt", home / "b" / "input.txt"
    for seed, path in enumerate((one, other)):
        path.parent.mkdir()
        path.write_text(make_text(600, seed), encoding="utf-8")
    flags = [*[word for word in TINY if "dataset" not in word], "--max_steps=1", f"--corpus={one}"]
    assert train_tokenizer.main(flags) == 0 and prepare.main(flags) == 0
    assert train.main([*flags, "--overwrite"]) == 0
    assert "has changed" not in capsys.readouterr().out
    (home / "link.txt").symlink_to(one)
    for path in (home / "b" / ".." / "a" / "input.txt", home / "link.txt"):  # the same text
        assert train.main([*flags, "--overwrite", f"--corpus={path}", "--dataset=input"]) == 0
    for words in ([f"--corpus={other}"], ["--val_fraction=0.2"], ["--split=line"]):
        assert "run prepare.py" in fails(train.main, [*flags, "--overwrite", *words])
    assert train_tokenizer.main([*flags, f"--corpus={other}"]) == 0
    assert f"replaces the tokenizer of {one}" in capsys.readouterr().out
    assert train_tokenizer.main(flags) == 0
    with open(one, "a", encoding="utf-8") as file:
        file.write("却说玄德。\n")
    assert train.main([*flags, "--overwrite"]) == 0
    assert "has changed since" in capsys.readouterr().out
    one.unlink()  # The tokens may be used without it, and with a copy elsewhere.
    assert train.main([*flags, "--overwrite", f"--corpus={other}"]) == 0


def test_flags_that_a_script_does_not_use_are_named(book, capsys):
    assert prepare.main([*TINY, "--min_frequency=3"]) == 0
    assert "does not use --min_frequency --n_layer" in capsys.readouterr().out
