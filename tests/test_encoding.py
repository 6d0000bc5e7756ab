"""The encoding of a text is found, whatever is broken in it, and what is broken stays small."""

import codecs
import gzip
import io
import itertools
import operator
import pickle
import random
import re
import zipfile

import matplotlib.figure
import numpy as np
import pytest

from lib.errors import UserError
from lib.text.decoding import MARK, characters, decode, find_encoding
from lib.text.encoding import LATIN, OTHER_SCRIPTS, guess
from tests.encodings import CASES, ENGLISH, GREEK, JAPANESE, KOREAN, SIMPLIFIED, TRADITIONAL, count

ONE_LINE = re.sub("[\n -~]", "", SIMPLIFIED)


@pytest.mark.parametrize(("name", "text", "encoding"), CASES, ids=[f"{name}-{encoding}" for name, _, encoding in CASES])
def test_the_encoding_is_found_however_short_long_or_broken_the_text(name, text, encoding):
    texts, prompts = count(text, encoding, n_texts=8, n_prompts=20, longest=4_000)
    assert texts["cases"] == 8 and texts["wrong"] == 0
    assert prompts["cases"] == 20 and prompts["wrong"] <= 6


COMMON = {"utf-8", "utf-16-le", "utf-16-be", "gb18030", "big5hkscs", "cp932", "euc_jp", "cp949"}
COMMON |= {"cp1252", "cp1251", "koi8-r"}
COMMON_CASES = [case for case in CASES if case[2] in COMMON]


@pytest.mark.parametrize(
    ("name", "text", "encoding"), COMMON_CASES, ids=[f"{name}-{encoding}" for name, _, encoding in COMMON_CASES]
)
def test_the_common_encodings_are_found_without_a_doubt(name, text, encoding):
    words = random.Random(0)
    for data in (text.encode(encoding), (text * 5).encode(encoding)):
        broken, lost = bytearray(data), bytearray(data)
        for _ in range(3):
            broken[words.randrange(len(data))] = words.choice([0xFF, 0x80])
        del lost[len(data) * 2 // 3]
        for kind in (data, bytes(broken), bytes(lost), data[:-1]):
            assert guess([kind]) == (encoding, None)


@pytest.mark.parametrize(("text", "encoding"), [(SIMPLIFIED, "gb18030"), (TRADITIONAL, "big5hkscs")])
def test_no_chinese_is_taken_for_letters(text, encoding):
    """One byte a character is plausible for nearly any bytes, above all for few of them."""
    letters = " ".join(encodings for encodings, _ in LATIN + OTHER_SCRIPTS).split()
    assert guess(["Μια φορά".encode("cp1253")])[0] in letters
    words = random.Random(0)
    for start in range(len(text)):
        data = (text * 2)[start : start + words.randint(4, 30)].encode(encoding)
        assert guess([data])[0] not in letters


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8", "utf-16-le"])
def test_samples_are_cut_anywhere(encoding):
    """A long line without ASCII does not show where a character begins."""
    data = (ONE_LINE * 300).encode(encoding)
    assert guess([data[:300], *(data[i : i + 5000] for i in range(998, 50_000, 4242))]) == (encoding, None)


def test_a_long_line_may_be_out_of_step_from_its_start():
    data = (ONE_LINE * 50).encode("gb18030")
    for broken in (data[1:], b"\xff" + data[1:]):
        assert guess([broken]) == ("gb18030", None)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("我", "gb18030"),
        ("你好", "gb18030"),
        ("联通", "gb18030"),
        ("你好，世界！", "gb18030"),
        ("1949年", "gb18030"),
        ("从前有座山", "gb18030"),
        ("Tell me 故事", "gb18030"),
        ("從前有座山", "big5hkscs"),
        ("話說天下大勢", "big5hkscs"),
        ("むかしむかし", "cp932"),
        ("café", "cp1252"),
        ("Привет", "cp1251"),
        ("Μια φορά κι έναν καιρό", "cp1253"),
        ("كان يا ما كان", "cp1256"),
        ("היה היה פעם מלך זקן", "cp1255"),
        ("กาลครั้งหนึ่ง", "cp874"),
        ("Dawno temu żył sobie król", "cp1250"),
        ("Bir varmış bir yokmuş", "cp1254"),
        ("Labai seniai gyveno žmogus su žąsimi", "cp1257"),
        ("é", "utf-8"),
        ("我", "utf-8"),
        ("hello", "utf-8"),
        ("", "utf-8"),
    ],
)
def test_short_prompts(text, encoding):
    assert guess([text.encode(encoding)])[0] == encoding


@pytest.mark.parametrize("word", ["São Paulo", "Molière", "château", "façade", "crêpe", "maître", "Bjørn", "El Niño"])
@pytest.mark.parametrize("n", [2, 10, 500])
def test_a_foreign_word_makes_no_other_language(word, n):
    assert guess([f"They saw {word} again, and nobody knew why.\n".encode("cp1252") * n])[0] == "cp1252"


def test_what_two_encodings_explain_is_doubtful():
    assert guess(["曹操".encode("big5")]) == ("gb18030", "big5hkscs")  # 变巨
    assert guess([]) == guess([b""]) == guess([b"plain"]) == ("utf-8", None)


def test_there_is_no_doubt_between_two_that_read_the_same():
    assert guess(["schöne Grüße".encode("cp1250")]) == ("cp1252", None)
    assert guess(["το ποτάμι".encode("iso8859-7")]) == ("cp1253", None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides(encoding):
    assert guess(["ab".encode(encoding)]) == (encoding, None)


@pytest.mark.parametrize("text", ["สวัสดีชาวโลก ", "مرحبا بالعالم ", "Γειά σου Κόσμε ", "नमस्ते दुनिया ", "😀🎉👍 "])
def test_broken_utf_8_of_any_script_is_utf_8(text):
    data = bytearray(text.encode() * 20)
    data[50] = data[100] = data[150] = 0xFF
    assert guess([bytes(data)]) == ("utf-8", None)


def packed(text, compression):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("book.txt", text)
        return file.getvalue()


def drawn(text, compression):
    """A page with a text, as a PDF."""
    with io.BytesIO() as file, matplotlib.rc_context({"pdf.compression": compression}):
        figure = matplotlib.figure.Figure()
        figure.text(0, 0, text)
        figure.savefig(file, format="pdf")
        return file.getvalue()


def saved(values):
    with io.BytesIO() as file:
        np.save(file, values)
        return file.getvalue()


def test_what_is_no_text_is_told():
    text = SIMPLIFIED * 50
    noise = random.Random(0).randbytes(3000)
    numbers = np.random.default_rng(0)
    ids = numbers.zipf(1.3, 5000).clip(max=4999)
    keys = [b"general.name", b"block_count"] * 50
    no_texts = {
        "zip": packed(text, zipfile.ZIP_DEFLATED),
        "zip, as it is": packed(text, zipfile.ZIP_STORED),
        "zip of GB18030": packed(text.encode("gb18030"), zipfile.ZIP_STORED),
        "gzip": gzip.compress(text.encode()),
        "pdf": drawn(ENGLISH * 50, compression=6),
        "pdf, as it is": drawn(ENGLISH * 50, compression=0),
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + noise,
        "mp3": b"ID3\3\0\0\0\0\0\0" + b"\xff\xfb\x90\x64".join(noise[i : i + 400] for i in range(0, 3000, 400)),
        "doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(496) + b"\xff" * 512 + text.encode("utf-16-le"),
        "gguf": b"GGUF\3\0\0\0" + b"".join(len(key).to_bytes(8, "little") + key for key in keys),
        "pickle": pickle.dumps(text.split("。")),
        "npy": saved(numbers.standard_normal(999)),
        "npy of ones": saved(np.ones(999, "float32")),
        "tokens": ids.astype("<u2").tobytes(),
        "wide tokens": ids.astype("<i4").tobytes(),
        "zeros": bytes(1000),
        "noise": noise,
    }
    for name, data in no_texts.items():
        assert guess([data]) == (None, None), name


# --- damage


def n_equal(one, other):
    """How many characters two texts begin with in common."""
    return sum(itertools.accumulate(map(operator.eq, one, other), operator.and_))


def damage(text, encoding, data):
    """What is wrong in the broken bytes of a text, as (what was in its place, what is there now)."""
    with io.TextIOWrapper(io.BytesIO(data), encoding, errors="mark", newline="") as file:
        found = file.read()
    assert found == data.decode(encoding, "mark")
    before = n_equal(text, found)
    after = n_equal(text[before:][::-1], found[before:][::-1])
    return text[before : len(text) - after], re.sub(f"{MARK}+", "�", found[before : len(found) - after])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(ONE_LINE, "gb18030"), (TRADITIONAL, "big5hkscs"), (TRADITIONAL, "big5"), (KOREAN, "cp949"), (JAPANESE, "euc_jp")],
)
def test_one_bad_byte_costs_one_character(text, encoding):
    """Taken for half a character it would shift all others up to the end of the line."""
    costs, data = [], text.encode(encoding)
    for place in range(len(data) - 40):
        lost, found = damage(text, encoding, data[:place] + b"\xff" + data[place + 1 :])
        assert "�" in found
        costs.append(len(lost))
    assert np.mean(costs) < 2
    assert np.median(costs) == 1


def test_the_euro_of_windows_costs_nothing_else():
    """Windows writes it as one byte, 0x80, into what is GBK otherwise."""
    data = "一共".encode("gbk") + b"\x80" + "很贵，".encode("gbk") + b"\x80" + b"12.50"
    assert data.decode("gb18030", "mark") == f"一共{MARK}很贵，{MARK}12.50"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_lost_byte_does_not_shift_all_that_follows(encoding):
    data = (SIMPLIFIED * 20).encode(encoding)
    lost, found = damage(SIMPLIFIED * 20, encoding, data[:1001] + data[1002:])
    assert "�" in found
    assert len(lost) < 200


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("utf-8", b"\xe4\xbd\xa0\xe5\xa5"),
        ("gb18030", b"\xc4\xe3\xba"),
        ("cp932", b"\x82\xa0\x82"),
        ("utf-16-le", b"\x60\x4f\x7d"),
    ],
)
def test_a_torn_end_is_one_place(encoding, data):
    text = data.decode(encoding, "mark")
    assert len(text) == 2
    assert text.endswith(MARK)


def test_other_encodings_have_the_mark_too():
    assert b"a\x81b".decode("cp1252", "mark") == b"a\xffb".decode("ascii", "mark") == f"a{MARK}b"


# --- prompts


def test_a_prompt_in_utf_8_is_read_without_a_word(capsys):
    assert decode("\ufeff你好，é\ufeff 😀\n".encode(), "stdin") == "你好，é 😀\n"
    assert capsys.readouterr().err == ""


def test_a_prompt_in_another_encoding_is_named(capsys):
    assert decode("从前有座山".encode("gb18030"), "stdin") == "从前有座山"
    assert re.fullmatch(r"warning: stdin: read as gb18030\n", capsys.readouterr().err)
    assert decode("曹操".encode("gb18030"), "p.txt") == "曹操"
    assert re.fullmatch(r"warning: p.txt: read as gb18030; .*big5hkscs.*UTF-8.*\n", capsys.readouterr().err)
    assert decode("你好".encode("utf-16"), "p.txt") == "你好"
    assert "utf-16" in capsys.readouterr().err


def test_the_damage_of_a_prompt_is_counted(capsys):
    assert decode("从前有座山".encode()[:-1] + b"\xff, ok", "p.txt") == "从前有座�, ok"
    assert re.fullmatch(r"warning: p.txt: .*utf-8.*�.*1.*\n", capsys.readouterr().err)


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(UserError, match=r"p\.png is no text"):
        decode(b"\x89PNG\r\n\x1a\n" + bytes(50), "p.png")


# --- files


def read(path, content):
    """(the text of a file, the notes about it)."""
    path.write_bytes(content)
    encoding, notes = find_encoding(path, "auto")
    return "".join(characters(path, encoding)), notes


def test_no_other_encoding_is_decoded_as_utf_8(tmp_path):
    """A call for each byte that is not UTF-8 takes 20 seconds in a text of 100 MB."""
    calls, mark = [], codecs.lookup_error("mark")
    codecs.register_error("mark", lambda error: calls.append(error) or mark(error))
    try:
        for text, encoding in ((SIMPLIFIED, "gb18030"), (TRADITIONAL, "big5"), (GREEK, "cp1253")):
            assert read(tmp_path / "x.txt", (text * 100).encode(encoding)) == (text * 100, [])
        assert not calls
        assert read(tmp_path / "x.txt", SIMPLIFIED.encode() + b"\xff")[0] == SIMPLIFIED + "�"
        assert calls
    finally:
        codecs.register_error("mark", mark)


def test_damage_where_no_sample_is_taken(tmp_path):
    text = SIMPLIFIED * 3000
    data = bytearray(text.encode())
    data[100_000] = 0xFF  # a sample begins at each sixteenth of 2.6 MB
    found, [note] = read(tmp_path / "x.txt", data)
    assert "damaged UTF-8; bad places, now �: 1: " in note
    assert len(found) == len(text) and found.count("�") == 1
