import collections
import itertools
import math
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from config import Config
from model import GPT
from tools.report import measures
from tools.report.baselines import bigram_loss, compressed_bits, unigram_loss
from tools.report.copying import PART, Copies, find_copies
from tools.report.verdict import judge

few_letters = st.text("甲乙丙", max_size=60)


def sequences(text, n):
    return [text[i : i + n] for i in range(len(text) - n + 1)]


@given(few_letters, st.lists(few_letters, max_size=4))
def test_copies_are_those_that_a_search_finds(known, texts):
    found = find_copies(known, texts)
    for n, novel in found.novel.items():
        here = [part in known for text in texts for part in sequences(text, n)]
        assert novel == pytest.approx(1 - sum(here) / max(1, len(here)))
    lengths = range(1, 61)
    longest = max((n for n in lengths for text in texts if any(p in known for p in sequences(text, n))), default=0)
    assert len(found.longest) == longest and found.longest in known
    assert any(found.longest in text for text in [*texts, ""])


def test_a_copy_across_two_parts_of_a_long_text_is_found():
    known = "".join(map(chr, np.random.default_rng(0).integers(0x4E00, 0x9000, PART + 500)))
    copied = known[PART - 40 : PART + 60]
    found = find_copies(known, ["甲" + copied + "乙"])
    assert found.longest == copied


def test_the_baselines_are_what_their_definitions_say():
    random = np.random.default_rng(0)
    train, val, size = random.integers(0, 7, 500), random.integers(0, 7, 100), 8
    counts = collections.Counter(train.tolist())
    p = {token: (counts[token] + 1) / (500 + size) for token in range(size)}
    assert unigram_loss(train, val, size) == pytest.approx(-sum(math.log(p[b]) for b in val[1:]) / 99)
    pairs, before = collections.Counter(itertools.pairwise(train.tolist())), collections.Counter(train[:-1].tolist())

    def loss(k):
        guesses = [(pairs[a, b] + k * p[b]) / (before[a] + k) for a, b in itertools.pairwise(val.tolist())]
        return -sum(map(math.log, guesses)) / 99

    assert bigram_loss(train, val, size) == pytest.approx(min(loss(2.0**n) for n in range(13)))


def test_a_bigram_knows_what_follows_what():
    train = np.tile([1, 2, 3, 4], 500)
    assert bigram_loss(train, train[:80], 5) < 0.01 < 1 < unigram_loss(train, train[:80], 5)


def test_compressors():
    text = np.random.default_rng(0).bytes(20_000)
    bits = compressed_bits(text, known=text)
    assert 7.9 < bits["gzip"] < 8.2 and 7.9 < bits["xz"] < 8.2 and bits["xz+"] < 0.2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "vocab_size": 300, "dtype": "float32"}
    return GPT(Config(**shape, block_size=11), 300).eval()


@pytest.mark.parametrize("length", [2, 7, 12, 13, 50])
def test_guesses_are_the_models(model, length):
    idx = torch.randint(300, (1, length), generator=torch.Generator().manual_seed(1))
    guesses = measures.guesses(model, idx[0].numpy())
    assert len(guesses) == length - 1
    for i, (token, nats, rank, likely) in enumerate(guesses):
        start = max(0, -(-(i - 10) // 5) * 5)  # where the window begins that it was guessed in
        with torch.no_grad():
            p = model(idx[:, start : i + 1])[0].softmax(dim=-1)
        assert i - start >= min(i, 5)  # half a block before it, or all there is
        assert token == idx[0, i + 1]
        assert nats == pytest.approx(-p[idx[0, i + 1]].log().item(), rel=1e-4)
        assert rank == (p > p[idx[0, i + 1]]).sum() + 1
        assert [token for token, _ in likely] == p.topk(5).indices.tolist()


def test_windows_cover_a_text_or_are_spread_over_it():
    assert measures.window_starts(101, 10, 10, 1000).tolist() == list(range(0, 100, 10))
    assert measures.window_starts(101, 10, 10, 5).tolist() == [0, 20, 40, 60, 90]
    assert measures.window_starts(101, 10, 5, 1000).tolist() == list(range(0, 91, 5))
    assert measures.window_starts(11, 10, 10, 0).tolist() == [0]


@pytest.mark.parametrize(("size", "n_bins"), [(1, 1), (2, 2), (11, 5), (32, 6)])
def test_loss_by_position_counts_what_was_seen(size, n_bins):
    seen = np.broadcast_to(np.arange(1.0, size + 1), (3, size))
    for length in (1, size):
        bins = measures.loss_by_position(seen[:, :length], seen)
        assert [tokens for tokens, _ in bins] == [loss for _, loss in bins]
        assert [tokens for tokens, _ in bins] == [1, 2, 3.5, 6.5, 10 if size == 11 else 12.5, 24.5][:n_bins]
    assert [loss for _, loss in measures.loss_by_position(seen[:, :2] - 9, seen)][:3] == [-8, -7, 3.5][:n_bins]


def test_the_losses_of_a_window_are_the_models(model, monkeypatch):
    ids, starts = np.random.default_rng(0).integers(0, 300, 60), np.array([0, 5, 30, 41, 48])
    with torch.no_grad():
        rows = [model.lm_head(model.hidden(torch.from_numpy(ids[None, i : i + 8])))[0] for i in starts]
    for logits in (measures.LOGITS, 2 * 8 * 300):  # at once, or two windows each
        monkeypatch.setattr(measures, "LOGITS", logits)
        nats, right = measures.token_losses(model, ids, starts, 8)
        for i, row, found, guessed in zip(starts, rows, nats, right, strict=True):
            follows = torch.from_numpy(ids[i + 1 : i + 9])
            expected = torch.nn.functional.cross_entropy(row, follows, reduction="none")
            assert found == pytest.approx(expected.numpy(), rel=1e-4)
            assert (guessed == (row.argmax(dim=-1) == follows).numpy()).all()


def copies(sixteen, longest=12):
    return Copies({4: 0.7, 8: 0.98, 16: 1 - sixteen}, "字" * longest)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("healthy", {}, "5.00 nats is below the 5.90"),
        ("healthy", {}, "python -m tools.export 'a run'"),
        ("overfitting", {"val_losses": [8.0, 5.0, 5.6]}, "since step 500"),
        ("memorising", {"model_copies": copies(0.5, 300)}, "50%"),
        ("memorising", {"model_copies": copies(0.5, 300), "val_losses": [8.0, 5.0, 5.6]}, "300 characters"),
        ("undertrained", {"max_steps": 4000}, "1,000 of its 4,000"),
        ("undertrained", {"val_loss": 6.1}, "not below"),
        ("undertrained", {"epochs": 0.3, "tokens_per_parameter": 2.0}, "30% of its text"),
        ("undertrained", {"epochs": 0.3, "tokens_per_parameter": 2.0}, "--max_steps=4000"),  # reads it once
        ("undertrained", {"epochs": 0.01, "tokens_per_parameter": 2.0}, "--max_steps=10000"),  # or suits the model
        ("undertrained", {"val_loss": 6.1}, "--max_steps=2000"),
        ("undertrained", {"epochs": 0.0, "tokens_per_parameter": 0.0, "steps": [0], "val_losses": [8.0]}, "0 of"),
        ("healthy", {"epochs": 0.3, "tokens_per_parameter": 30.0}, ""),
        ("healthy", {"val_losses": [8.0, 5.0, 5.01]}, ""),  # noise
    ],
)
def test_verdicts(name, change, words):
    figures = {
        "step": 1000,
        "n_parameters": 10**6,
        "epochs": 3.0,
        "tokens_per_parameter": 5.0,
        "val_loss": 5.0,
        "nats_to_bits_per_byte": 0.4,
        "nats_to_bits_per_character": 1.2,
        "sample_tokens": 3000,
        "sample": {"val": (5.0, 0.2), "train": (4.5, 0.3)},
        "baselines": {"bigram": 5.9},
        "unigram_gap": 0.1,
        "published": [],
        "positions": [],
        "passage": [],
        "model_copies": copies(0.001),
        "text_copies": copies(0.0005),
        "known_tokens": 10**6,
    }
    change = {"steps": [0, 500, 1000], "val_losses": [8.0, 5.5, 5.0], "max_steps": 1000} | change
    val = np.array(change.pop("steps")), np.array(change.pop("val_losses"))
    run, config = types.SimpleNamespace(val=val, folder=Path("a run")), Config(max_steps=change.pop("max_steps"))
    verdict = judge(types.SimpleNamespace(run=run, config=config, **figures | change))
    lines = [verdict.headline, *verdict.evidence, *verdict.advice]
    assert verdict.name.english == name
    assert words in " ".join(line.english for line in lines)
    for line in lines:  # The same figures and commands in both languages.
        english, chinese = (sorted(re.findall(r"\d+(?:[.,]\d+)*%?|`.*?`", text)) for text in line)
        assert english == chinese
    assert verdict.evidence and verdict.advice
