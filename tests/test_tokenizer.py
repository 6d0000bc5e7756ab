import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import trainers

import train_tokenizer
from config import Config
from lib.errors import UserError
from lib.text import pieces
from lib.text.corpus import Corpus
from lib.tokens.tokenizer import (
    EOS,
    SPECIAL_TOKENS,
    parse_tokenizer,
    read_tokenizer,
    special_ids,
    token_bytes,
    token_lengths,
)
from tests.conftest import TINY, make_text


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return parse_tokenizer(read_tokenizer(prepared / "data" / "book" / "bpe400"), "test")


any_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(any_text)
def test_any_text_comes_back_unchanged(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert b"".join(token_bytes(tokenizer)[i] for i in ids) == text.encode()


@given(st.text(st.sampled_from("汉字，。 \n\r\t1a!\u3000🙂<>"), max_size=400))
def test_pieces_give_the_tokens_of_the_whole(tokenizer, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", 8)
        parts = [piece for piece, _ in pieces.cut([(text, True)])]
    assert "".join(parts) == text
    ids = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in parts]
    assert [i for part in ids for i in part] == tokenizer.encode(text, add_special_tokens=False).ids


def test_special_tokens_in_the_text_are_text(tokenizer):
    text = "".join(SPECIAL_TOKENS)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert min(ids) >= len(SPECIAL_TOKENS) and tokenizer.decode(ids) == text


def test_the_special_tokens_are_the_first_ids(tokenizer):
    assert [tokenizer.token_to_id(t) for t in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert token_bytes(tokenizer)[:4] == [b""] * 4


def test_all_bytes_are_in_the_vocabulary(tokenizer):
    assert {bytes([b]) for b in range(256)} <= set(token_bytes(tokenizer))


def test_token_lengths_count_a_character_at_its_first_byte(tokenizer):
    lengths, characters = token_lengths(tokenizer)
    ids = tokenizer.encode("囍你好 a\n").ids
    assert sum(lengths[ids]) == 12 and sum(characters[ids]) == 6
    assert len(lengths) == len(characters) == tokenizer.get_vocab_size()
    assert lengths[EOS] == characters[EOS] == 0


def test_merges_do_not_cross_kinds_of_characters():
    tokenizer = train_tokenizer.new_tokenizer()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(["玄德曰：“善！”遂行12345 hello\n"] * 100, trainer)
    split = [tokenizer.decode([i]) for i in tokenizer.encode("玄德曰：“善！”遂行12345 hello\n").ids]
    assert split == ["玄德曰", "：“", "善", "！”", "遂行", "123", "45", " hello", "\n"]


def test_the_files_are_written_and_reproducible(book, capsys):
    folder = book / "data" / "book" / "bpe400"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {"tokenizer.json", "vocab.json", "merges.txt"} <= set(before)
    assert train_tokenizer.main(TINY) == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    out = capsys.readouterr().out
    assert "characters and" in out and "round trip      exact" in out and "next: python prepare.py" in out


def test_a_text_that_cannot_fill_the_vocabulary_says_so(home, capsys):
    path = home / "short.txt"
    path.write_text("天下大势\n" * 100, encoding="utf-8")
    assert train_tokenizer.main([f"--corpus={path}", "--vocab_size=5000"]) == 0
    out = capsys.readouterr().out
    learned = parse_tokenizer(read_tokenizer(home / "data" / "short" / "bpe5000"), "test").get_vocab_size()
    assert 260 < learned < 300 and f"only {learned} of the 5,000" in out


def test_validation_text_is_never_sampled(home, monkeypatch):
    path = home / "x.txt"
    path.write_text(make_text(300) + "囍\n" * 100, encoding="utf-8")
    texts = Corpus(Config(corpus=str(path), val_fraction=0.1))
    sample, held_out = train_tokenizer.sample_corpus(texts)
    assert "囍" not in "".join(sample) and "囍" in "".join(held_out)
    monkeypatch.setattr(pieces, "PIECE", 64)
    monkeypatch.setattr(train_tokenizer, "SAMPLE_BYTES", 5000)
    sample, _ = train_tokenizer.sample_corpus(texts)
    assert 2000 < len("".join(sample).encode()) < 9000


def test_bad_tokenizers(fails, book):
    path = book / "data" / "book" / "bpe400" / "tokenizer.json"
    with pytest.raises(UserError, match="run train_tokenizer"):
        read_tokenizer(path.parent / "no")
    good = path.read_text(encoding="utf-8")
    rewriting = good.replace('"normalizer": null', '"normalizer": {"type": "NFKC"}')
    for text in ("", "{", "{}", good.replace('"Ġ', '"天'), rewriting):
        with pytest.raises(UserError, match=r"run train_tokenizer\.py"):
            parse_tokenizer(text, path)
    with pytest.raises(UserError, match="eos_token '<eos>'"):
        special_ids(parse_tokenizer(good.replace("<eos>", "<end>"), path), Config(), path)
    assert "vocab_size" in fails(train_tokenizer.main, [*TINY, "--vocab_size=200"], code=2)


def test_the_vocabulary_can_be_read(book):
    lines = (book / "data" / "book" / "bpe400" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    assert rows[0] == ["id", "token", "count"] and [int(row[0]) for row in rows[1:]] == list(range(400))
    by_token = {token: int(count) for _, token, count in rows[1:]}
    assert by_token["<eos>"] == 0 and by_token["'曹操'"] > 0
    assert by_token[r"'。\n'"] > 0 and r"b'\xe4'" in by_token


def test_learning_sees_no_word_without_end(tmp_path):
    """Parts of a long word are learned, and the tokenizer that comes of it cuts text as it always did."""
    tokenizer = train_tokenizer.new_tokenizer()
    splits = tokenizer.to_str()
    train_tokenizer.learn(tokenizer, ["哈" * 100_000, "ab" * 50_000, "—" * 50_000], Config(vocab_size=400))
    lengths = [len(piece) for piece in token_bytes(tokenizer)]
    assert max(lengths) == 768
    assert json.loads(tokenizer.to_str())["pre_tokenizer"] == json.loads(splits)["pre_tokenizer"]
