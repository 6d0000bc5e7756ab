"""A corpus prepared in shards, and tokens larger than memory."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare
import train
import train_tokenizer
from config import Config
from lib.errors import UserError
from lib.storage import lock_folder, sha256
from lib.text.corpus import Corpus
from lib.tokens.memmap import Tokens
from lib.tokens.prepared import read_meta, shard_suffix
from lib.tokens.tokenizer import BOS
from sample import load
from tests.conftest import TINY, make_text, read_tokens

TOKENS = Path("data", "book", "bpe400")


def documents(path, k, n, **values):
    """The texts in a shard."""
    found = []
    for text, is_new in Corpus(Config(corpus=str(path), **values), (k, n)).pieces():
        if is_new:
            found.append("")
        found[-1] += text
    return found


def shards(path, n, **values):
    return [documents(path, k, n, **values) for k in range(1, n + 1)]


def records(texts):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def shards_of(folder, split):
    """The token ids of each shard."""
    return [np.fromfile(path, "<u2") for path in sorted(folder.glob(f"{split}_*.bin"))]


def change_words(home):
    """The same corpus with other words, just as long."""
    path = home / "data" / "book" / "corpus.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("曹操", "孙权"), encoding="utf-8")


def prepare_all(n, *flags):
    for k in range(1, n + 1):
        assert prepare.main([*TINY, *flags, f"--shard={k}/{n}"]) == 0


# --- what a shard holds


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_every_record_is_in_one_shard(tmp_path, encoding):
    texts = [make_text(1 + seed % 7, seed) for seed in range(150)]
    path = tmp_path / "x.jsonl"
    path.write_bytes(records(texts).encode(encoding))
    for n in (1, 2, 3, 16, 40):
        parts = shards(path, n)
        assert [text for part in parts for text in part] == texts
        sizes = [sum(map(len, part)) for part in parts]
        assert max(sizes) - min(sizes) < 2 * max(map(len, texts))


def test_a_folder_of_all_kinds_is_cut_between_lines(tmp_path):
    text = {name: make_text(60, seed) for seed, name in enumerate(("a", "b", "c", "d"))}
    (tmp_path / "a.txt").write_bytes(text["a"].encode("gb18030"))
    (tmp_path / "b.jsonl").write_bytes(records(text["b"].splitlines(keepends=True)).encode())
    (tmp_path / "c.txt").write_bytes(text["c"].replace("\n", "\r\n").encode("utf-8-sig"))
    (tmp_path / "d.jsonl").write_bytes(records(text["d"].splitlines(keepends=True)).encode("gb18030"))
    (tmp_path / "e.txt").write_bytes(b"")
    for n in (1, 2, 3, 7, 20):
        parts = shards(tmp_path, n)
        assert "".join(text for part in parts for text in part) == "".join(text.values())
        assert all(text.endswith("\n") for part in parts for text in part)


def test_all_shards_read_a_file_in_one_way(tmp_path):
    """By themselves some lines would be taken for GB18030."""
    text = "話說天下大勢，分久必合，合久必分。\n周末七國分爭，併入於秦。\n" * 20 + "曹操\n" * 300
    (tmp_path / "x.txt").write_bytes(text.encode("big5"))
    (tmp_path / "y.txt").write_bytes("曹操\n".encode("big5") * 300)
    assert "".join(documents(tmp_path / "y.txt", 1, 1)) != "曹操\n" * 300
    assert "".join(text for part in shards(tmp_path / "x.txt", 8) for text in part) == text


def test_utf16_stays_whole_in_the_shard_in_which_it_starts(tmp_path):
    for name, encoding in (("a", "utf-8"), ("b", "utf-16"), ("c", "utf-32"), ("d", "utf-8")):
        (tmp_path / f"{name}.txt").write_bytes((name + make_text(50)).encode(encoding))
    parts = ["".join(part) for part in shards(tmp_path, 3)]
    assert "".join(parts) == "".join(name + make_text(50) for name in "abcd")
    assert sum("b" + make_text(50) in part for part in parts) == sum("c" + make_text(50) in part for part in parts) == 1
    (tmp_path / "x.txt").write_bytes(make_text(50).encode("utf-16-le"))
    assert "".join(documents(tmp_path / "x.txt", 1, 2, encoding="utf-16-le")) == make_text(50)


def test_a_shard_reads_its_own_range_only(tmp_path):
    path = tmp_path / "x.jsonl"
    texts = [make_text(3, seed) for seed in range(40)]
    good = records(texts).encode()
    for bad, message in ((b"\xff " * 50 + b"\n", "read as UTF-8 it has 50 bad places"), (b"{\n", "not JSON")):
        path.write_bytes(good + bad + good)
        before, after = ([text for k in ks for text in documents(path, k, 5)] for ks in ((1, 2), (4, 5)))
        assert before == texts[: len(before)] and after == texts[-len(after) :]
        with pytest.raises(UserError, match=message) as error:
            documents(path, 3, 5)
    byte, line = str(error.value).split(" after byte ")[1].split(":")[0].split(", line ")
    assert path.read_bytes()[int(byte.replace(",", "")) :].splitlines()[int(line) - 1] == b"{"


# --- what prepare.py writes


def test_the_shards_together_are_what_one_count_over_their_tokens_says(book):
    prepare_all(3)
    folder = book / TOKENS
    meta = read_meta(folder)
    text = (book / "data" / "book" / "corpus.txt").read_text(encoding="utf-8")
    assert meta["train"]["characters"] + meta["val"]["characters"] == len(text)
    assert meta["train"]["bytes"] + meta["val"]["bytes"] == len(text.encode())
    ids = {split: read_tokens(folder, meta, split) for split in ("train", "val")}
    for split, array in ids.items():
        assert array.tolist() == np.concatenate(shards_of(folder, split)).tolist()
        assert meta[split]["tokens"] == len(array) and meta[split]["documents"] == (array == BOS).sum() == 3
    p = np.unique(ids["train"], return_counts=True)[1] / len(ids["train"])
    assert meta["unigram_entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)
    assert {p.name for p in folder.glob("[!.]*.[bj]*")} == {"tokenizer.json", "vocab.json"} | {
        f"{name}_000{i}.{kind}" for i in range(3) for name, kind in (("meta", "json"), ("train", "bin"), ("val", "bin"))
    }


def test_the_fingerprint_is_that_of_all_shards(book):
    prepare_all(2)
    before = read_meta(book / TOKENS)["train"]["sha256"]
    change_words(book)
    assert prepare.main([*TINY, "--shard=2/2"]) == 0
    assert read_meta(book / TOKENS)["train"]["sha256"] != before


def test_the_last_lines_say_what_is_next(book, capsys):
    last = []
    for shard in ("--shard=2/3", "--shard 1/3", "--shard=3/3", "--shard=1/1"):
        assert prepare.main([*TINY, *shard.split()]) == 0
        last.append(capsys.readouterr().out.splitlines()[-2:])
    words = " ".join(TINY)
    assert last[0] == ["missing 1/3, 3/3", f"next: python prepare.py {words} --shard=1/3"]
    assert last[1] == ["missing 3/3", f"next: python prepare.py {words} --shard=3/3"]
    assert "saved shard 3/3 in" in last[2][0]
    assert last[2][1] == last[3][1] == f"next: python train.py {words}"


def test_what_is_refused(book, home, fails):
    folder = book / TOKENS
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for value in ("", "3", "0/4", "5/4", "1/10000", "-1/4", "1/4/4", "１/4", "a/b", "01/4", "1/4\n"):
        assert "such as 3/16" in fails(prepare.main, [*TINY, f"--shard={value}"], code=2)
    (home / "line.txt").write_text(make_text(1), encoding="utf-8")
    few = [*TINY, f"--corpus={home / 'line.txt'}"]
    assert "use fewer" in fails(prepare.main, [*few, "--shard=2/2"])
    assert "fewer shards, or a larger val_fraction" in fails(
        prepare.main, [*few, "--shard=1/2", "--val_fraction=0.001"]
    )
    assert {p.name: p.read_bytes() for p in folder.glob("[!.]*")} == {k: v for k, v in before.items() if k[0] != "."}


def test_shards_that_are_not_a_whole(book, fails):
    folder = book / TOKENS
    kept = book / "kept"

    def again():
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)

    prepare_all(3)
    shutil.copytree(folder, kept)
    (folder / "meta_0001.json").unlink()
    assert "lacks 2/3; run prepare.py with the same config and --shard=2/3" in fails(train.main, TINY)
    again()
    (folder / "val_0002.bin").write_bytes(b"12")
    assert "--shard=3/3" in fails(train.main, TINY)
    for old, new, words in (
        ('"3/3"', '"3/4"', "not of one preparation (shards: 3 and 4)"),
        ('"3/3"', '"2/3"', "meta_0002.json is damaged"),
        ('"3/3"', "3", "meta_0002.json is damaged"),
        ('"counts": "0 ', '"counts": "', "meta_0002.json is damaged"),
        ('"counts": "0 ', '"counts": "99999999999999999999 ', "meta_0002.json is damaged"),
        ('"tokenizer_sha256": "', '"tokenizer_sha256": "0', "tokenizer.json has changed since the tokens were made"),
    ):
        again()
        text = (folder / "meta_0002.json").read_text(encoding="utf-8")
        assert old in text
        (folder / "meta_0002.json").write_text(text.replace(old, new), encoding="utf-8")
        assert words in fails(train.main, TINY)
    again()
    assert train_tokenizer.main([*TINY, "--min_frequency=50"]) == 0
    assert prepare.main([*TINY, "--shard=1/3"]) == 0
    assert "--shard=2/3" in fails(train.main, TINY)
    for flag, setting in (("--split=line", "split:  and line"), ("--encoding=utf-8", "encoding: auto and utf-8")):
        again()
        assert prepare.main([*TINY, "--shard=2/3", flag]) == 0
        assert f"not of one preparation ({setting})" in fails(train.main, TINY)
    again()
    with open(book / "data" / "book" / "corpus.txt", "a", encoding="utf-8") as file:
        file.write(make_text(1))
    assert prepare.main([*TINY, "--shard=1/3"]) == 0
    assert "not of one preparation (corpus_bytes" in fails(train.main, TINY)
    assert not (book / "out").exists()


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (3, 2), (2, 3)])
def test_a_kill_at_any_moment_of_another_division(book, monkeypatch, old, new):
    """What is there after each change of a name is whole, or refused."""
    prepare_all(old)
    folder = book / TOKENS
    before, states = read_meta(folder), []

    def then_copied(real):
        def call(*args, **kwargs):
            real(*args, **kwargs)
            states.append(book / f"state{len(states)}")
            shutil.copytree(folder, states[-1])

        return call

    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, then_copied(getattr(os, name)))
    prepare_all(new)
    after, accepted = read_meta(folder), []
    assert after != before and states
    for state in states:
        try:
            meta = read_meta(state)
        except UserError as error:
            assert "run prepare.py" in str(error)
        else:
            n = new if meta == after else old
            files = [state / f"train{shard_suffix(k, n)}.bin" for k in range(1, n + 1)]
            hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
            assert meta["train"]["sha256"] == (sha256("".join(hashes)) if n > 1 else hashes[0])
            accepted.append(meta)
    assert accepted[-1] == after and all(meta in (before, after) for meta in accepted)
    names = {f"{split}{shard_suffix(k, new)}.bin" for split in ("train", "val") for k in range(1, new + 1)}
    assert {path.name for path in folder.glob("*.bin")} == names


def test_jobs_at_once_in_one_folder(clone):
    command = [sys.executable, "prepare.py", *TINY]
    jobs = [
        subprocess.Popen([*command, f"--shard={k}/6"], cwd=clone, stdout=subprocess.PIPE, text=True)
        for k in range(1, 7)
    ]
    outputs = [job.communicate(timeout=60)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 6
    assert sum("next: python train.py" in output for output in outputs) == 1
    meta = read_meta(clone / TOKENS)
    assert len(meta["train"]["shards"]) == 6
    text = (clone / "data" / "book" / "corpus.txt").read_text(encoding="utf-8")
    assert meta["train"]["characters"] + meta["val"]["characters"] == len(text)


def test_each_shard_has_one_writer_who_leaves_the_others_alone(book, fails):
    folder = book / TOKENS
    with lock_folder(folder, ".lock_0001"):
        for name in (".train_0000.bin.tmp", ".train_0001.bin.tmp"):  # as a killed and a living process leave them
            (folder / name).write_bytes(b"half")
        assert "is being written by another process" in fails(prepare.main, [*TINY, "--shard=2/2"])
        assert prepare.main([*TINY, "--shard=1/2"]) == 0
        assert [p.name for p in folder.glob(".*.tmp")] == [".train_0001.bin.tmp"]
    assert prepare.main([*TINY, "--shard=2/2"]) == 0
    assert not list(folder.glob(".*.tmp"))


# --- what train.py reads


def write_by_hand(config, arrays, dtype="uint16", vocab_size=400):
    """Shards of token ids. Returns them as train.py reads them."""
    config.tokens_dir.mkdir(parents=True, exist_ok=True)
    for k, ids in enumerate(arrays, 1):
        path = config.tokens_dir / f"train{shard_suffix(k, len(arrays))}.bin"
        np.asarray(ids, dtype=np.dtype(dtype).newbyteorder("<")).tofile(path)
    meta = {"dtype": dtype, "vocab_size": vocab_size, "train": {"shards": [len(ids) for ids in arrays]}}
    return Tokens(config, meta, "train", torch.device("cpu"))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_blocks_lie_within_their_shard_and_every_one_has_its_offset(home, dtype):
    numbers = np.random.default_rng(0)
    arrays = [numbers.integers(0, 400, size).tolist() for size in (40, 1, 1, 2, 100, 7, 33, 32)]
    config = Config(dataset="x", block_size=32)
    tokens = write_by_hand(config, arrays, dtype)
    expected = [ids[i : i + 33] for ids in arrays for i in range(len(ids) - 32)]
    assert (tokens.n_tokens, tokens.n_offsets) == (216, len(expected))
    blocks = tokens.blocks(np.arange(tokens.n_offsets))
    assert blocks.dtype == torch.int64 and blocks.tolist() == expected
    offsets = numbers.permutation(tokens.n_offsets)  # in any order, and each is that of its own block
    assert tokens.blocks(offsets).tolist() == [expected[i] for i in offsets]
    tokens.on_gpu = torch.from_numpy(tokens.head(tokens.n_tokens).astype(np.int32))  # as on a GPU, if it has room
    assert tokens.blocks(offsets).tolist() == [expected[i] for i in offsets]
    tokens.on_gpu = None

    side_by_side = [ids[i : i + 33] for ids in arrays for i in range(0, len(ids) - 32, 32)]
    assert tokens.blocks(tokens.windows(0)).tolist() == side_by_side
    assert tokens.windows(10**9).tolist() == tokens.windows(0).tolist()
    assert [len(tokens.windows(limit)) for limit in (1, 32, 64, 95, 96)] == [1, 1, 2, 2, 3]
    whole = [i for ids in arrays for i in ids]
    assert [tokens.head(n).tolist() for n in (0, 41, 1000)] == [whole[:n] for n in (0, 41, 1000)]

    arrays[4][50] = 400
    tokens = write_by_hand(config, arrays, dtype)
    with pytest.raises(UserError, match=r"train_0000.bin is damaged, or a shard beside it: token id 400 "):
        tokens.blocks(np.arange(tokens.n_offsets))
    with pytest.raises(UserError, match="216 tokens for train, a block needs 101"):
        write_by_hand(Config(dataset="x", block_size=100), arrays)


def test_training_on_shards(book, capsys):
    prepare_all(3)
    folder = book / TOKENS
    assert train.main(TINY) == 0
    log = json.loads((book / "out" / "run" / "loss_log.json").read_text(encoding="utf-8"))
    losses = [record["val_loss"] for record in log["records"] if "val_loss" in record]
    assert losses[-1] < losses[0] - 1

    # the loss of the validation windows, each within its shard, computed again
    model = load("run", last=True).model
    windows = [ids[i : i + 33] for ids in shards_of(folder, "val") for i in range(0, len(ids) - 32, 32)]
    assert len({len(ids) % 32 for ids in shards_of(folder, "val")}) > 1
    windows = torch.tensor(np.stack(windows).astype(np.int64))
    with torch.no_grad():
        assert losses[-1] == pytest.approx(model(windows[:, :-1], windows[:, 1:]).item(), rel=1e-5)

    capsys.readouterr()
    assert train.main([*TINY, "--resume", "--max_steps=21"]) == 0
    assert "warning" not in capsys.readouterr().out  # The training tokens are those that it began with.
    change_words(book)
    assert prepare.main([*TINY, "--shard=2/3"]) == 0
    assert train.main([*TINY, "--resume", "--max_steps=22"]) == 0
    assert "the training tokens are not those that this run began with" in capsys.readouterr().out


def memory(kind):
    """Of this process, in MB: RssAnon is its own, RssFile is that of the files that it maps."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{kind}:")[1].split()[0]) / 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_twenty_gigabytes_take_no_memory(book, monkeypatch):
    """All of it holes, which read as token 0."""
    size, meta_file = 20 << 30, book / TOKENS / "meta.json"
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    for split in ("train", "val"):
        try:
            os.truncate(book / TOKENS / f"{split}.bin", size)
        except OSError:
            pytest.skip("the file system has no sparse files")
        meta[split]["tokens"] = size // 2
    meta_file.write_text(json.dumps(meta), encoding="utf-8")
    mapped, own, batches = memory("RssFile"), [], train.get_batch

    def get_batch(*args):
        own.append(memory("RssAnon"))
        return batches(*args)

    monkeypatch.setattr(train, "get_batch", get_batch)
    flags = ["--batch_size=128", "--max_steps=50", "--eval_interval=1000", "--eval_tokens=1000", "--n_layer=1"]
    assert train.main([*TINY, *flags]) == 0
    assert len(own) > 50 and max(own[10:]) - own[10] < 10
    assert memory("RssFile") - mapped < 2000  # of 40,000: nothing has read all of it
