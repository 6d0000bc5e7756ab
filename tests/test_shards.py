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
from hypothesis import given
from hypothesis import strategies as st

import prepare
import train
import train_tokenizer
from config import Config
from lib.errors import UserError
from lib.storage import lock_folder, sha256
from lib.text.corpus import Corpus
from lib.text.files import files_of_shard
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


def cut_into_files(home):
    """The same corpus in a folder of six files."""
    path = home / "data" / "book" / "corpus.txt"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.unlink()
    path.with_name("corpus").mkdir()
    for i in range(6):
        text = "".join(lines[100 * i : 100 * (i + 1)])
        (path.with_name("corpus") / f"{i}.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def parts(book):
    """A home folder with data/book, tokenized, whose text is in six files."""
    cut_into_files(book)
    return book


def text_of(home):
    return "".join(path.read_text(encoding="utf-8") for path in sorted((home / "data/book/corpus").iterdir()))


def change_words(home):
    """The same corpus with other words, just as long."""
    for path in (home / "data" / "book" / "corpus").iterdir():
        path.write_text(path.read_text(encoding="utf-8").replace("曹操", "孙权"), encoding="utf-8")


def prepare_all(n, *flags):
    for k in range(1, n + 1):
        assert prepare.main([*TINY, *flags, f"--shard={k}/{n}"]) == 0


# --- what a shard holds


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 40))
def test_a_shard_is_a_run_of_files_of_about_as_many_bytes(sizes, n):
    sizes = {Path(f"{i}.txt"): size for i, size in enumerate(sizes)}
    paths = [path for path in sizes if sizes[path]]
    if n > max(1, len(paths)):
        with pytest.raises(UserError, match="use fewer shards, or cut a file"):
            files_of_shard(sizes, (1, n))
        return
    found = [files_of_shard(sizes, (k, n)) for k in range(1, n + 1)]
    assert [path for part in found for path in part] == paths
    assert all(found) or not paths
    share = sum(sizes.values()) / n
    assert all(sum(sizes[path] for path in part) <= share + max(sizes.values()) for part in found)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_every_document_is_in_one_shard(tmp_path, n):
    """Of a folder of all kinds, in all encodings, with a file that is empty and one that is much larger."""
    texts = [make_text(3, seed) for seed in range(90)]
    (tmp_path / "1.txt").write_bytes(texts[0].encode("gb18030"))
    (tmp_path / "2.jsonl").write_bytes(records(texts[1:40]).encode())
    (tmp_path / "3.txt").write_bytes(texts[40].replace("\n", "\r\n").encode("utf-8-sig"))
    (tmp_path / "4.txt").write_bytes(b"")
    (tmp_path / "5.jsonl").write_bytes(records(texts[41:50]).encode("gb18030"))
    (tmp_path / "6.txt").write_bytes(texts[50].encode("utf-16"))
    (tmp_path / "7.json").write_text(json.dumps(texts[51:80], ensure_ascii=False), encoding="utf-8")
    rows = "".join(f'{i},"{text}"\n' for i, text in enumerate(texts[80:]))
    (tmp_path / "10.csv").write_text(f"id,text\n{rows}", encoding="utf-8")
    found = shards(tmp_path, n)
    assert all(found) and [text for part in found for text in part] == texts


def test_a_shard_reads_its_own_files_only(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text(make_text(20, i), encoding="utf-8")
    for i in (2, 3):
        (tmp_path / f"{i}.txt").write_bytes(("天下大势".encode() + b"\xff") * 50)
    assert documents(tmp_path, 1, 3) == [make_text(20, i) for i in (0, 1)]
    assert documents(tmp_path, 3, 3) == [make_text(20, i) for i in (4, 5)]
    with pytest.raises(UserError, match=r"2\.txt: read as .* it has 50 bad places"):
        documents(tmp_path, 2, 3)


@pytest.mark.skipif(not shutil.which("split"), reason="no split")
def test_what_the_error_says_cuts_a_file_into_shards(tmp_path):
    texts = [make_text(1, seed) for seed in range(200)]
    (tmp_path / "x.jsonl").write_text(records(texts), encoding="utf-8")
    with pytest.raises(UserError, match=r"shard 2/30: a shard is whole files, and there are 1") as error:
        documents(tmp_path / "x.jsonl", 2, 30)
    command = str(error.value).split("cut a file: ")[1].split(", and name")[0]
    (tmp_path / "folder").mkdir()
    if subprocess.run(command.replace("FOLDER", str(tmp_path / "folder")).split(), stderr=subprocess.PIPE).returncode:
        pytest.skip("split is not that of GNU")
    found = shards(tmp_path / "folder", 30)
    assert all(found) and [text for part in found for text in part] == texts


# --- what prepare.py writes


def test_the_shards_together_are_what_one_count_over_their_tokens_says(parts):
    prepare_all(3)
    folder = parts / TOKENS
    meta = read_meta(folder)
    text = text_of(parts)
    assert meta["train"]["characters"] + meta["val"]["characters"] == len(text)
    assert meta["train"]["bytes"] + meta["val"]["bytes"] == len(text.encode())
    ids = {split: read_tokens(folder, meta, split) for split in ("train", "val")}
    for split, array in ids.items():
        assert array.tolist() == np.concatenate(shards_of(folder, split)).tolist()
        assert meta[split]["tokens"] == len(array) and meta[split]["documents"] == (array == BOS).sum()
    assert (meta["train"]["documents"], meta["val"]["documents"]) == (6, 3)  # A validation text ends a document.
    p = np.unique(ids["train"], return_counts=True)[1] / len(ids["train"])
    assert meta["unigram_entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)
    assert {p.name for p in folder.glob("[!.]*.[bj]*")} == {"tokenizer.json", "vocab.json"} | {
        f"{name}_000{i}.{kind}" for i in range(3) for name, kind in (("meta", "json"), ("train", "bin"), ("val", "bin"))
    }


def test_the_fingerprint_is_that_of_all_shards(parts):
    prepare_all(2)
    before = read_meta(parts / TOKENS)["train"]["sha256"]
    change_words(parts)
    assert prepare.main([*TINY, "--shard=2/2"]) == 0
    assert read_meta(parts / TOKENS)["train"]["sha256"] != before


def test_the_last_lines_say_what_is_next(parts, capsys):
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
    assert "whole files, and there are 1; use fewer" in fails(prepare.main, [*TINY, "--shard=2/2"])
    for i in range(2):
        (home / "texts" / f"{i}.txt").parent.mkdir(exist_ok=True)
        (home / "texts" / f"{i}.txt").write_text(make_text(1), encoding="utf-8")
    few = [*TINY, f"--corpus={home / 'texts'}"]
    assert "fewer shards, or a larger val_fraction" in fails(
        prepare.main, [*few, "--shard=1/2", "--val_fraction=0.001"]
    )
    assert "whole files, and there are 1; use fewer" in fails(
        prepare.main, [*few, f"--val_corpus={home / 'texts' / '1.txt'}", "--shard=1/2"]
    )
    assert {p.name: p.read_bytes() for p in folder.glob("[!.]*")} == {k: v for k, v in before.items() if k[0] != "."}


def test_shards_that_are_not_a_whole(parts, fails):
    folder = parts / TOKENS
    kept = parts / "kept"

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
    corpus = parts / "data" / "book" / "corpus"
    text = (corpus / "1.txt").read_text(encoding="utf-8")
    (corpus / "1.txt").write_text(text[:100], encoding="utf-8")
    (corpus / "2 more.txt").write_text(text[100:], encoding="utf-8")
    assert prepare.main([*TINY, "--shard=1/3"]) == 0
    assert "not of one preparation (corpus_files: 7 and 6)" in fails(train.main, TINY)
    (corpus / "2 more.txt").write_text(text, encoding="utf-8")
    assert prepare.main([*TINY, "--shard=1/3"]) == 0
    assert "not of one preparation (corpus_bytes" in fails(train.main, TINY)
    assert not (parts / "out").exists()


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 2), (2, 1), (3, 2), (2, 3)])
def test_a_kill_at_any_moment_of_another_preparation(parts, monkeypatch, old, new):
    """What is there after each change of a name is whole, or refused."""
    prepare_all(old)
    path = parts / "data" / "book" / "corpus" / "0.txt"
    first, second, *others = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([second, first, *others]), encoding="utf-8")  # other tokens, but as many
    folder = parts / TOKENS
    before, states = read_meta(folder), []

    def then_copied(real):
        def call(*args, **kwargs):
            real(*args, **kwargs)
            states.append(parts / f"state{len(states)}")
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
    cut_into_files(clone)
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
    assert meta["train"]["characters"] + meta["val"]["characters"] == len(text_of(clone))


def test_each_shard_has_one_writer_who_leaves_the_others_alone(parts, fails):
    folder = parts / TOKENS
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


def test_training_on_shards(parts, capsys):
    prepare_all(3)
    folder = parts / TOKENS
    assert train.main(TINY) == 0
    log = json.loads((parts / "out" / "run" / "loss_log.json").read_text(encoding="utf-8"))
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
    change_words(parts)
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
    own, mapped, batches = [memory("RssAnon")], [memory("RssFile")], train.get_batch

    def get_batch(*args):
        own.append(memory("RssAnon"))
        mapped.append(memory("RssFile"))
        return batches(*args)

    monkeypatch.setattr(train, "get_batch", get_batch)
    flags = ["--block_size=1024", "--batch_size=1", "--max_steps=50", "--eval_interval=1000", "--eval_tokens=2000"]
    assert train.main([*TINY, *flags, "--n_layer=1", "--n_head=1", "--n_kv_head=1"]) == 0
    assert len(own) > 50 and max(own[10:]) - own[10] < 10
    # Of 40,000: nothing has read all of it. What is kept is the order of the blocks, 8 bytes each.
    assert max(own) - own[0] < 500 and max(mapped) - mapped[0] < 200
