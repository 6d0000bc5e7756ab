"""The texts of JSON records, whatever their keys and however they are written."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Config
from lib.errors import UserError
from lib.text.corpus import Corpus
from lib.text.records import read_values

TEXTS = ["清晨，老渔夫在码头修椅子。\n邻居问他：", '他"笑"着说：{记不清了}。', "[雨后]，孩子们\\n跑到河边。"]


def documents(path, text, **values):
    path.write_text(text, encoding="utf-8")
    found = []
    for piece, is_new in Corpus(Config(corpus=str(path), **values)).pieces():
        if is_new:
            found.append("")
        found[-1] += piece
    return found


def lines(values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


@pytest.mark.parametrize("piece", [3, 1 << 16])
@pytest.mark.parametrize("record", [lambda text: {"text": text}, lambda text: {"id": 7, "content": text}, str])
@pytest.mark.parametrize(
    "write",
    [
        lines,
        lambda values: "\n\r\n".join(map(json.dumps, values)),  # blank lines, and no line end at the end
        lambda values: ",\n".join(json.dumps(value, indent=2) for value in values),
        lambda values: "".join(map(json.dumps, values)),
        lambda values: json.dumps(values),
        lambda values: json.dumps(values, indent=4, ensure_ascii=False),
        lambda values: "\ufeff" + json.dumps(values) + "\n" + json.dumps(values[:0]),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_records_are_found_however_they_are_written(tmp_path, monkeypatch, suffix, write, record, piece):
    monkeypatch.setattr("lib.text.decoding.PIECE", piece)
    assert documents(tmp_path / f"x{suffix}", write([record(text) for text in TEXTS])) == TEXTS


numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
leaves = st.none() | st.booleans() | numbers | st.text(st.sampled_from('字"\\\n[]{},: 1😀'))
objects = st.recursive(leaves, lambda inner: st.dictionaries(st.text(max_size=2), inner | st.lists(inner, max_size=2)))


@given(
    st.lists(leaves | objects, max_size=6),
    st.sampled_from([("", "\n", ""), ("", " , \n", "\n"), ("[", ",", "]"), ("[\n", ",\n", "\n]\n")]),
    st.sampled_from([None, 1]),
    st.integers(1, 60),
)
def test_the_values_are_those_of_the_whole_text(values, marks, indent, size):
    """Wherever it is cut into pieces. Each is said to be in the line in which it begins."""
    text, expected = marks[0], []
    for i, value in enumerate(values):
        text += marks[1] if i else ""
        expected.append((value, f"x line {text.count(chr(10)) + 1}"))
        text += json.dumps(value, indent=indent, ensure_ascii=False)
    text += marks[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.text.records.LONGEST_NUMBER", 30)
        assert list(read_values([text[i : i + size] for i in range(0, len(text), size)], "x")) == expected


@pytest.mark.parametrize(
    ("record", "keys", "expected"),
    [
        ({"raw_content": "一", "url": "x", "meta": {}}, "", "一"),
        ({"completion": "一", "id": "x"}, "", "一"),
        ({"story": "一"}, "", "一"),
        ({"whatever": "清晨，老渔夫在码头修椅子。", "n": 3, "id": "u1"}, "", "清晨，老渔夫在码头修椅子。"),
        ({"a": {"b": [{"c": "一"}, {"c": "二", "d": "三"}]}}, "a.b.c", "一\n二"),
        ({"a.b": "一", "a": {"b": "二"}}, "a.b", "一"),
        ({"text": "一", "content": "二"}, "", "一"),
        ({"text": "一", "content": "二"}, "content", "二"),
        ({"title": "一", "body": ["二", None, "三"]}, "title, body", "一\n二\n三"),
        ({"instruction": "一", "input": "二", "output": "三"}, "", "一\n二\n三"),
        ({"instruction": "一", "input": "", "output": "三"}, "", "一\n三"),
        ({"output": "三", "instruction": "一"}, "", "一\n三"),
        ({"prompt": "一", "completion": "二"}, "", "一\n二"),
        ({"question": "一", "answer": "二"}, "", "一\n二"),
        ({"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]}, "", "一\n\n二"),
        ({"conversations": [{"from": "human", "value": "一"}, {"from": "gpt", "value": "二"}]}, "", "一\n\n二"),
        ({"messages": [{"content": [{"type": "text", "text": "一"}]}, {"content": None}]}, "", "一"),
    ],
)
def test_where_the_text_of_a_record_is(tmp_path, capsys, record, keys, expected):
    path = tmp_path / "x.jsonl"
    assert documents(path, lines([record]), text_key=keys) == [expected]
    Corpus(Config(corpus=str(path), text_key=keys)).describe()
    out = capsys.readouterr().out
    assert ("the text of a record is its" in out) == ("text" not in record or bool(keys))
    assert ("a turn a paragraph" in out) == ("messages" in record or "conversations" in record)


def test_records_without_text_are_skipped_and_counted(tmp_path, capsys):
    values = [{"text": "一"}, {"text": None}, {"text": ""}, {"text": " \n"}, {"text": "二", "more": 1}, {"text": []}]
    values += [{"text": 666}, {"text": True}, {"text": float("nan")}, 3, None]
    path = tmp_path / "x.jsonl"
    assert documents(path, lines(values)) == ["一", "二"]
    Corpus(Config(corpus=str(path))).describe()
    out = capsys.readouterr().out
    assert "skipped records without text: 9" in out and "2 documents, 2 characters" in out
    with pytest.raises(UserError, match="holds no text"):
        documents(path, lines(values[5:]))


def test_half_characters_are_replaced_and_counted(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    assert documents(path, '{"text": "一\\ud800"}\n{"text": "\\ud83d\\ude00"}\n') == ["一�", "😀"]
    Corpus(Config(corpus=str(path))).describe()
    assert "half characters, which become �: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ('{"text": "x"', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": "x", "n": ' + "1" * 5000 + "}", "not JSON"),
        ('{"text": ' + "[" * 500 + "]" * 500 + "}", "not a text"),
        ("[3]\n", "not a record"),
        ('{"txt": "x", "id": 7}', "keys are txt, id.*--text_key"),
        ('{"text": {"a": "b"}}', "text is not a text; its keys are text.a"),
    ],
)
def test_a_bad_record_is_named(tmp_path, line, words):
    with pytest.raises(UserError, match=f"x.jsonl line 3: .*{words}"):
        documents(tmp_path / "x.jsonl", '{"text": "好"}\n\n' + line + "\n")


@pytest.mark.parametrize(
    ("record", "text_key", "words"),
    [
        ({"a": "x", "b": "y"}, "", "which key.*--text_key.*keys are a, b"),
        ({"content": "x", "body": "y"}, "", "which key.*--text_key.*keys are content, body"),
        ({"n": 3}, "", "keys are n"),
        ({"id": "u000001", "dialog": ["一", "二"]}, "", "which key.*keys are id, dialog"),
        (
            {"version": "v2.0", "data": [{"title": "一", "paragraphs": [{"context": "二", "qas": [{"id": "3"}]}]}]},
            "",
            r"which key.*keys are version, data\.title, data\.paragraphs\.context, data\.paragraphs\.qas\.id",
        ),
        ({"url": "https://example.org/a/long/address/of/a/page.html", "lines": []}, "", "keys are url, lines"),
        ({"a": {"b": "一"}}, "a.c", r"lacks a\.c; its keys are a\.b"),
        ({}, "", "keys are none"),
        ({"text": "x"}, "content", "lacks content; its keys are text"),
        ({"text": "x"}, "a,b", "lacks a and b"),
    ],
)
def test_what_cannot_be_read_names_its_keys(tmp_path, record, text_key, words):
    with pytest.raises(UserError, match=f"x.jsonl line 1: .*{words}"):
        documents(tmp_path / "x.jsonl", lines([record]), text_key=text_key)


def test_the_line_of_a_bad_record_in_a_long_list(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.text.decoding.PIECE", 100)
    text = json.dumps([{"text": "字\n" * 300}] * 20, indent=0)
    with pytest.raises(UserError, match=r"line 63: not JSON"):  # A record has three lines here.
        documents(tmp_path / "x.json", text[:-1] + ",\n{]")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            [{"id": f"u{i:06}", "role": "the same long words in every record"} for i in range(400)],
            "id, role",
        ),
        ([{"name": "阿木", "time": f"2024-05-01 12:{i % 60:02}"} for i in range(400)], "name, time"),
        ([{"a": TEXTS[0] * (i + 1), "b": TEXTS[1] * (i + 1)} for i in range(5)], "a, b"),
    ],
)
def test_what_does_not_read_like_the_text_is_not_taken_for_it(tmp_path, values, words):
    with pytest.raises(UserError, match=f"x.jsonl line 1: which key.*its keys are {words}"):
        documents(tmp_path / "x.jsonl", lines(values))


# --- tables


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".CSV", ";"), (".tsv", "\t")])
def test_tables_as_excel_saves_them(tmp_path, capsys, suffix, delimiter, encoding):
    texts = [f"{text}{i}，“他”说\n" for i, text in enumerate(TEXTS * 100)]
    path = tmp_path / f"chat{suffix}"
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["时间", "谁", "内容"], *([f"2024-05-{i:02}", "阿木", text] for i, text in enumerate(texts))])
        writer.writerows([["2024-06-01", "阿木"], ["2024-06-02", "阿木", "", "多"]])
    for key in ("", "内容"):
        c = Corpus(Config(corpus=str(path), text_key=key))
        found = [text for text, is_new in c.pieces() if is_new]
        assert found == texts
        c.describe()
        out = capsys.readouterr().out
        assert "the text of a record is its 内容" in out and "skipped records without text: 2" in out
    with pytest.raises(UserError, match=r"line 4: it lacks 标题; its keys are 时间, 谁, 内容"):  # where the row ends
        Corpus(Config(corpus=str(path), text_key="标题"))


def test_a_table_that_is_none(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    monkeypatch.setattr("lib.text.records.LONGEST_RECORD", 100)
    for text, words in (("text\n" + "字" * 200 + "\n", "field larger"), ("字" * 200, "longer than 100")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=words):
            Corpus(Config(corpus=str(path)))
