import json

import pytest

from config import Config
from lib import corpus
from lib.corpus import Corpus
from lib.errors import UserError
from tests.conftest import make_text

CHINESE = "话说天下大势，分久必合，合久必分。\n周末七国分争，并入于秦。\n"


def read(path, **values):
    return Corpus(Config(corpus=str(path), **values))


def text_of(c):
    return "".join(text for text, _ in c.pieces())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "gbk"])
def test_encodings_are_detected(tmp_path, encoding):
    path = tmp_path / "novel.txt"
    path.write_bytes((CHINESE * 50).encode(encoding))
    assert text_of(read(path)) == CHINESE * 50


def test_line_ends_become_newlines(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes("一\r\n二\r三\n".encode("gb18030"))
    assert text_of(read(path)) == "一\n二\n三\n"


def test_an_encoding_can_be_named(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes("話說天下大勢".encode("big5"))
    assert text_of(read(path, encoding="big5")) == "話說天下大勢"


@pytest.mark.parametrize("place", [5000, -1])
def test_damaged_utf8_is_not_read_as_gb18030(tmp_path, place):
    data = bytearray((CHINESE * 200).encode())
    if place == -1:
        data = data[:-2]  # torn inside a character... of which the line end was the last byte
        data = data[: data.rfind("。".encode()) + 2]
    else:
        data[place : place + 1] = b"\xff"
    path = tmp_path / "novel.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged UTF-8 at byte") as error:
        read(path)
    offset = int(str(error.value).split("at byte ")[1].split(" ")[0].replace(",", ""))
    assert data[:offset].decode() and abs(offset - (place if place > 0 else len(data))) <= 3


def test_the_offset_is_exact_beyond_the_first_chunk(tmp_path):
    data = ("汉" * 700_000).encode()
    path = tmp_path / "novel.txt"
    path.write_bytes(data + b"\xff" + data)
    with pytest.raises(UserError, match="2,100,000"):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a text file"),
        (b"abc \xff\xff\xff\xff", "neither UTF-8"),
        ("天下".encode("utf-16") + b"\0", "damaged UTF-16"),
    ],
)
def test_what_is_not_text(tmp_path, content, words):
    path = tmp_path / "novel.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read(path)


def test_unknown_encoding(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_text(CHINESE, encoding="utf-8")
    for name in ("klingon", "rot13", "a\0b"):
        with pytest.raises(UserError, match="no encoding"):
            read(path, encoding=name)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '{"txt": "x"}', '{"text": 3}', '{"text": null}', '{"text": "\\ud800"}', "[" * 100_000],
)
def test_bad_records_name_the_line(tmp_path, line):
    path = tmp_path / "poems.jsonl"
    path.write_text('{"text": "好"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3"):
        read(path)


def test_where_a_corpus_may_be(home, tmp_path):
    with pytest.raises(UserError, match="no corpus at"):
        Corpus(Config(dataset="x"))
    folder = home / "data" / "x" / "corpus"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"no \.txt or \.jsonl"):
        Corpus(Config(dataset="x"))
    (folder / "b.txt").write_text("二", encoding="utf-8")
    (folder / "a.jsonl").write_text('{"text": "一"}\n', encoding="utf-8")
    (folder / "c.pdf").write_text("no", encoding="utf-8")
    assert text_of(Corpus(Config(dataset="x"))) == "一二"
    (home / "data" / "x" / "corpus.txt").write_text("三", encoding="utf-8")
    assert text_of(Corpus(Config(dataset="x"))) == "三"
    with pytest.raises(UserError, match=r"a corpus is a \.txt"):
        Corpus(Config(corpus=str(folder / "c.pdf")))


def split(c):
    parts = {"train": [], "val": []}
    for name, text, is_new in c.split():
        if is_new:
            parts[name].append("")
        parts[name][-1] += text
    return parts


@pytest.mark.parametrize("piece", [200, 1 << 16])
@pytest.mark.parametrize("documents", [1, 3, 200])
def test_the_split_keeps_all_text_and_never_overlaps(tmp_path, monkeypatch, documents, piece):
    monkeypatch.setattr(corpus, "PIECE", piece)
    texts = [make_text(600 // documents, seed) for seed in range(documents)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    parts = split(read(path))
    whole = "".join(texts)
    assert "".join(parts["train"] + parts["val"]) == whole
    assert 0.09 < len("".join(parts["val"])) / len(whole) < 0.11
    if documents == 200:
        assert parts["train"] + parts["val"] == texts  # whole documents
    else:
        assert parts["train"][-1].endswith("\n")  # whole lines


@pytest.mark.parametrize("text", ["字" * 1000, "字" * 1000 + "\n", "字\n" + "字" * 1000 + "\n"])
def test_a_text_in_one_line_is_split_too(tmp_path, text):
    path = tmp_path / "x.txt"
    path.write_text(text, encoding="utf-8")
    parts = split(read(path))
    assert "".join(parts["train"] + parts["val"]) == text
    assert parts["val"] and parts["train"]


def test_pieces_are_bounded_even_without_lines(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("字" * 3_000_000, encoding="utf-8")
    sizes = [len(text) for text, _ in read(path).pieces()]
    assert sum(sizes) == 3_000_000 and max(sizes) <= corpus.PIECE
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "ACGT" * 500_000}), encoding="utf-8")
    sizes = [len(text) for text, _ in read(path).pieces()]
    assert sum(sizes) == 2_000_000 and max(sizes) <= corpus.PIECE
