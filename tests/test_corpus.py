import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Config
from lib.errors import UserError
from lib.text.corpus import Corpus
from lib.text.decoding import PIECE
from lib.text.documents import TextFile, compile_separator, read_documents
from tests.conftest import make_text

CHINESE = "话说天下大势，分久必合，合久必分。\n周末七国分争，并入于秦。\n"
TRADITIONAL = "話說天下大勢，分久必合，合久必分。\n周末七國分爭，併入於秦。\n"


def read(path, **values):
    return Corpus(Config(corpus=str(path), **values))


def text_of(c):
    return "".join(text for text, _ in c.pieces())


def documents(c):
    found = []
    for text, is_new in c.pieces():
        if is_new:
            found.append("")
        found[-1] += text
    return found


# --- encodings


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "gbk"]
)
def test_encodings_are_found(tmp_path, encoding):
    path = tmp_path / "novel.txt"
    path.write_bytes((CHINESE * 50).encode(encoding))
    c = read(path)
    assert text_of(c) == CHINESE * 50 and not c.notes


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (TRADITIONAL, "big5"),
        ("朝早く、年を取った漁師は港で古い椅子をゆっくり直していた。\n", "cp932"),
        ("이른 아침 늙은 어부가 부두에서 낡은 의자를 고치고 있었다.\n", "cp949"),
        ("Рано утром старый рыбак медленно чинил на пристани стул.\n", "cp1251"),
    ],
)
def test_other_scripts_are_found(tmp_path, text, encoding):
    path = tmp_path / "novel.txt"
    path.write_bytes((text * 50).encode(encoding))
    assert text_of(read(path)) == text * 50


def test_the_encoding_of_what_comes_after_much_plain_text(tmp_path):
    path = tmp_path / "novel.txt"
    text = "plain words\n" * 100_000 + CHINESE * 20 + "plain words\n" * 100_000
    path.write_bytes(text.encode("gb18030"))
    assert text_of(read(path)) == text


def test_line_ends_become_newlines(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes("一二三四五\r\n从前\r有座山\n".encode("gb18030"))
    assert text_of(read(path)) == "一二三四五\n从前\n有座山\n"


def test_marks_of_files_that_were_put_together_are_no_text(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes(CHINESE.encode("utf-8-sig") * 3)
    assert text_of(read(path)) == CHINESE * 3


def test_a_named_encoding_is_held_to(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes("話說天下大勢".encode("big5"))
    assert text_of(read(path, encoding="big5")) == "話說天下大勢"
    path.write_text("café " * 10, encoding="utf-8")
    assert text_of(read(path, encoding="cp1252")) == "cafÃ© " * 10
    path.write_bytes(CHINESE.encode() * 100 + b"\xff")
    c = read(path, encoding="utf-8")
    assert text_of(c) == CHINESE * 100 + "�" and "bad places, now �: 1: " in c.notes[0]
    path.write_bytes(CHINESE.encode("gb18030") * 100)
    with pytest.raises(UserError, match=r"read as UTF-8 .* bad places .* --encoding=NAME"):
        read(path, encoding="utf-8")
    with pytest.raises(UserError, match=r"not UTF-16 .*utf-16-le"):
        read(path, encoding="utf-16")


def test_a_doubtful_encoding_is_said_with_the_flag_that_decides(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes("曹操".encode("big5"))
    assert re.search(r"read as gb18030, may be big5hkscs; --encoding=big5hkscs ", read(path).notes[0])


@pytest.mark.parametrize("name", ["klingon", "rot13", "a\0b", "", "idna", "utf-7", "unicode_escape", "undefined"])
def test_unknown_encoding(tmp_path, name):
    path = tmp_path / "novel.txt"
    path.write_text(CHINESE, encoding="utf-8")
    with pytest.raises(UserError, match=r"encoding: .* try auto"):
        read(path, encoding=name)


# --- damage

BOOK = CHINESE * 345  # about 10,000 characters


def damaged(encoding, n, where):
    """The bytes of BOOK, of which n are wrong: at the beginning, all over it, or at the end."""
    data = bytearray(BOOK.encode(encoding))
    step = len(data) // n if where == "all over" else 40
    first = {"beginning": 3, "all over": 10, "end": len(data) - 40 * n}[where]
    for i in range(n):
        data[first + i * step] = 0xFF
    return bytes(data)


@pytest.mark.parametrize("wanted", ["auto", "named"])
@pytest.mark.parametrize("where", ["beginning", "all over", "end"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5hkscs"])
def test_damage_is_counted_and_shown_wherever_it_lies(tmp_path, monkeypatch, capsys, encoding, where, wanted):
    monkeypatch.setattr("lib.text.decoding.PIECE", 1000)
    path = tmp_path / "novel.txt"
    wanted = encoding if wanted == "named" else "auto"
    if encoding == "big5hkscs":  # which has no simplified characters
        monkeypatch.setattr("tests.test_corpus.BOOK", TRADITIONAL * 345)
    path.write_bytes(damaged(encoding, 9, where))
    c = read(path, encoding=wanted)
    assert text_of(c).count("�") == 9
    assert len(text_of(c).replace("�", "")) > len(BOOK) - 30
    c.describe()
    [line] = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert f"damaged {encoding.upper()}; bad places, now �: 9: “" in line and line.count("“") == 3
    path.write_bytes(damaged(encoding, 20, where))
    with pytest.raises(UserError, match=rf"read as {encoding.upper()} it has 20 bad places .* --encoding=NAME"):
        read(path, encoding=wanted)


@pytest.mark.parametrize("cut", [1, 2])
def test_a_download_cut_inside_a_character_is_one_place(tmp_path, cut):
    path = tmp_path / "novel.txt"
    path.write_bytes(BOOK.removesuffix("\n").encode()[:-cut])
    c = read(path)
    assert text_of(c) == BOOK[:-2] + "�" and "now �: 1: " in c.notes[0]


def test_one_bad_place_is_no_reason_to_refuse_a_short_text(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes(CHINESE.encode() + b"\xff")
    assert text_of(read(path)) == CHINESE + "�"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a text file"),
        (bytes(range(256)) * 40, "not a text file"),
    ],
)
def test_what_is_not_text(tmp_path, content, words):
    path = tmp_path / "novel.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read(path)


# --- files


def test_where_a_corpus_may_be(home, tmp_path):
    with pytest.raises(UserError, match="no corpus at"):
        Corpus(Config(dataset="x"))
    folder = home / "data" / "x" / "corpus"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no \.txt"):
        Corpus(Config(dataset="x"))
    (folder / "b.txt").write_text("二", encoding="utf-8")
    (folder / "a.jsonl").write_text('{"text": "一"}\n', encoding="utf-8")
    (folder / "c.pdf").write_text("no", encoding="utf-8")
    assert text_of(Corpus(Config(dataset="x"))) == "一二"
    for name in ("corpus.json", "corpus.md", "corpus.txt"):
        content = json.dumps([name]) if name.endswith("json") else name
        (home / "data" / "x" / name).write_text(content, encoding="utf-8")
        assert text_of(Corpus(Config(dataset="x"))) == name
    assert text_of(Corpus(Config(corpus=str(folder / "c.pdf")))) == "no"  # A file that is named is read if it is text.


def test_links_are_followed(tmp_path, capsys):
    for name in ("store/deep/a.txt", "store/b.txt", "corpus/own.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n", encoding="utf-8")
    links = {"more": "../store", "again": "../store/deep", "up": "..", "gone.txt": "nowhere", "gone": "nowhere"}
    links |= {"file.txt": "../store/b.txt", "loop.txt": "loop.txt"}
    for name, target in links.items():
        (tmp_path / "corpus" / name).symlink_to(target)
    (tmp_path / "store" / "back").symlink_to("../corpus")
    c = read(tmp_path / "corpus")
    assert documents(c) == ["store/deep/a.txt\n", "store/b.txt\n", "store/b.txt\n", "corpus/own.txt\n"]
    c.describe()
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("skipped links that lead nowhere new")]
    assert "(6): " in line and {"gone", "gone.txt", "loop.txt", "up"} & set(line.split(": ")[1].split(", "))
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "books").symlink_to("../store")
    assert "b.txt" in text_of(read(tmp_path / "corpora"))


def test_a_file_without_text_is_passed_over_unless_most_are_such(tmp_path, capsys):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(CHINESE * 100, encoding="utf-8")
    (tmp_path / "5.txt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "6.txt").write_bytes(damaged("utf-8", 200, "all over"))
    read(tmp_path).describe()
    assert "skipped files without text, or damaged (2): 5.txt, 6.txt" in capsys.readouterr().out
    for name in ("5.txt", "6.txt"):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)
    for i in range(4):
        (tmp_path / f"{i}.txt").unlink()
    with pytest.raises(UserError, match=r"5\.txt: not a text file"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["film.srt", "main.py", "wiki_00", "诗.v1"])
def test_a_named_file_is_read_if_it_is_text(tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text(CHINESE, encoding="utf-8")
    assert text_of(read(path)) == CHINESE
    with pytest.raises(UserError, match=rf"holds no \.txt, .* file; to read {name}, name it \.txt"):
        read(tmp_path)


def test_a_folder_as_people_have_it(tmp_path, capsys):
    texts = ["第2章 a.md", "第9章.TXT", "第10章.text", "附录/1.txt"]
    made = ["bpe5000/tokenizer.json", "bpe5000/merges.txt", "bpe5000/vocab.txt"]
    skipped = [*made, "._第2章.txt", ".DS_Store", ".git/x.txt", "__MACOSX/a.txt", "cover.png", "书.csv"]
    for name in texts + skipped:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "书.csv").write_text("名,页\n一,1\n", encoding="utf-8")
    (tmp_path / "附录" / "2.JSONL").write_text('{"text": "JSONL"}\n', encoding="utf-8")
    c = read(tmp_path)
    assert documents(c) == [*texts, "JSONL"]
    c.describe()
    out = capsys.readouterr().out
    assert "skipped hidden files (4): " in out and "._第2章.txt" in out
    assert "skipped files beside a tokenizer (3): merges.txt" in out
    assert "skipped files of other kinds (1): cover.png; what is text among them is read if it is named .txt" in out
    assert "skipped files without text, or damaged (1): 书.csv; --corpus=FILE says why" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("诗 1.parquet", r"read_parquet\('诗 1.parquet'\)\.to_json\('诗 1.jsonl', orient='records', lines=True"),
        ("诗 1.txt.gz", r'python -m gzip -d "诗 1\.txt\.gz"'),
        ("诗 1.ZIP", r'python -m zipfile -e "诗 1\.ZIP" "诗 1"'),
        ("x.tar.xz", r'python -m tarfile -e "x\.tar\.xz" "x\.tar"'),
    ],
)
def test_what_holds_texts_says_how_to_get_at_them(tmp_path, name, words):
    path = tmp_path / name
    path.write_bytes(b"PAR1")
    for place in (path, tmp_path):  # also as all that a folder has
        with pytest.raises(UserError, match=words):
            read(place)


def test_the_first_line_controls_no_terminal(tmp_path, capsys):
    path = tmp_path / "log.txt"
    path.write_text("\x1b[2J\x1b[31m红\x1b[0m 　می\u200cروم 👩\u200d💻\n", encoding="utf-8")
    read(path).describe()
    assert "\\x1b[2J\\x1b[31m红\\x1b[0m می\u200cروم 👩\u200d💻 …\n" in capsys.readouterr().out


# --- documents in a text


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    ("split", "text", "expected"),
    [
        ("line", "一\n\n  二\n \n三", ["一", "  二", "三"]),
        ("blank", "\n\n一\n一\n\n　　二\n \t\n\n\n三\n", ["一\n一", "　　二", "三\n"]),
        ("<|endoftext|>", "一\n<|endoftext|>\n二 <|endoftext|><|endoftext|>三", ["一\n", "二 ", "三"]),
        ("[SEP]", "一[SEP]二S", ["一", "二S"]),
        ("<|endoftext|>", "<|startoftext|>一<|endoftext|>\n<|startoftext|>二<|endoftext|>\n", ["一", "二"]),
        ("</s>", "<s>一</s>\n<s>二</s>", ["一", "二"]),
        (r"-{3,}\n", "一\n-----\n二--\n--------\n\n三---", ["一\n", "二--\n", "三---"]),
        ("^(?=第)", "序\n第一章\n说第\n第二章\n", ["序\n", "第一章\n说第\n", "第二章\n"]),
        (r"(?<=。\n)\s*", "一。\n\n  二\n。\n三", ["一。\n", "二\n。\n", "三"]),
        (r"$\n", "一\n二", ["一", "二"]),
        ("absent", "一\n\n二", ["一\n\n二"]),
    ],
)
def test_documents_of_a_text(tmp_path, monkeypatch, split, text, expected, piece):
    """Also where a separator lies on the border of two pieces of the text."""
    monkeypatch.setattr("lib.text.decoding.PIECE", piece)
    path = tmp_path / "x.txt"
    path.write_text(text, encoding="utf-8")
    assert documents(read(path, split=split)) == expected


def test_documents_of_a_long_text(tmp_path, monkeypatch):
    """What is between two separators may be longer or shorter than what is read at a time."""
    monkeypatch.setattr("lib.text.decoding.PIECE", 500)
    monkeypatch.setattr("lib.text.documents.LONGEST_SEPARATOR", 64)
    texts = [" " * (i % 3) + make_text(1 + i * i % 40, i) for i in range(100)]
    path = tmp_path / "x.txt"
    path.write_text("".join(text + "\n" * (1 + i % 70) for i, text in enumerate(texts)), encoding="utf-8")
    assert documents(read(path, split="blank")) == [text.removesuffix("\n") for text in texts]


def test_separators_are_noticed(tmp_path, capsys):
    path = tmp_path / "x.txt"
    path.write_text("一\n<|endoftext|>\n二<|endoftext|>\n三 </s>", encoding="utf-8")
    read(path).describe()
    out = capsys.readouterr().out
    assert "2 lines end in <|endoftext|>; --split='<|endoftext|>'" in out and "</s>" not in out.split("lines end")[1]
    read(path, split="<|endoftext|>").describe()
    out = capsys.readouterr().out
    assert "3 documents" in out and "lines end" not in out


@pytest.mark.parametrize("split", ["(", "*", "a{99999999999}", "(?P<a"])
def test_a_split_that_is_no_regular_expression(tmp_path, split):
    (tmp_path / "x.txt").write_text("一", encoding="utf-8")
    with pytest.raises(UserError, match=r"split: .* is not line, blank or a regular expression"):
        read(tmp_path / "x.txt", split=split)


SEPARATORS = ["line", r"\n\s{0,6}\n", "[SEP]", r"-{3,6}\n", "^(?=第)", r"(?<=。\n)\s{0,6}", r"$\n", "x?", "^", r"\b"]
WORDS = ["一", "第", "字字字", "x", "。\n", "\n", " ", "  \n", "---\n", "----", "[SEP]", "[CLS]"]


@given(st.lists(st.sampled_from(WORDS), min_size=10).map("".join), st.sampled_from(SEPARATORS), st.integers(1, 30))
def test_the_documents_are_those_of_the_whole_text(text, separator, size):
    """Wherever it is cut into pieces. Blank ones are none."""
    pattern = compile_separator(separator)
    ends = [(match.start(), match.end()) for match in pattern.finditer(text)]
    begins = [0, *(end for _, end in ends)]
    whole = [text[i:j].lstrip("\n") for i, j in zip(begins, [*(start for start, _ in ends), len(text)], strict=True)]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("lib.text.decoding.PIECE", size)
        patch.setattr("lib.text.documents.LONGEST_SEPARATOR", 12)
        path = Path(folder, "x.txt")
        path.write_text(text, encoding="utf-8", newline="")
        found = []
        for piece, is_new in read_documents(TextFile(path, 0, 0, "utf-8", ()), pattern, {}):
            assert piece
            found += [piece] if is_new else [found.pop() + piece]
    assert found == [document for document in whole if document.strip()]


# --- training and validation


def split(c):
    parts = {"train": [], "val": []}
    for name, text, is_new in c.train_and_val():
        if is_new:
            parts[name].append("")
        parts[name][-1] += text
    return parts


@pytest.mark.parametrize("piece", [200, 1 << 16])
@pytest.mark.parametrize("documents", [1, 3, 200])
def test_the_split_keeps_all_text_and_never_overlaps(tmp_path, monkeypatch, documents, piece):
    monkeypatch.setattr("lib.text.pieces.PIECE", piece)
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


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_a_text_for_validation_of_ones_own(tmp_path, capsys, inside, n):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.txt").write_text(make_text(20, i), encoding="utf-8")
    place = (folder if inside else tmp_path) / "val"
    place.mkdir()
    records = [make_text(2, 10 + i) for i in range(20)]
    for i in range(2):
        lines = [json.dumps({"content": text}) + "\n" for text in records[10 * i : 10 * (i + 1)]]
        (place / f"{i}.jsonl").write_text("".join(lines), encoding="utf-8")
    found = {"train": [], "val": []}
    for k in range(1, n + 1):
        c = Corpus(Config(corpus=str(folder), val_corpus=str(place)), (k, n))
        for name, texts in split(c).items():
            found[name] += texts
    assert "".join(found["train"]) == "".join(make_text(20, i) for i in range(4)) and found["val"] == records
    c.describe()
    assert "and for validation:" in capsys.readouterr().out


def test_a_validation_text_that_is_all_there_is(tmp_path):
    (tmp_path / "x.txt").write_text(CHINESE, encoding="utf-8")
    for place in (tmp_path, tmp_path / "x.txt"):
        with pytest.raises(UserError, match=r"val_corpus: .* all that the corpus has"):
            read(tmp_path, val_corpus=str(place))
    with pytest.raises(UserError, match=r"no corpus at .*no\.txt"):
        read(tmp_path, val_corpus=str(tmp_path / "no.txt"))


def test_pieces_are_bounded_even_without_lines(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("字" * 3_000_000, encoding="utf-8")
    sizes = [len(text) for text, _ in read(path).pieces()]
    assert sum(sizes) == 3_000_000 and max(sizes) <= PIECE
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "ACGT" * 500_000}), encoding="utf-8")
    sizes = [len(text) for text, _ in read(path).pieces()]
    assert sum(sizes) == 2_000_000 and max(sizes) <= PIECE
