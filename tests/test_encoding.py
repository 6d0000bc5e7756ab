"""The encoding of a text is found, whatever is broken in it, and what is broken stays small."""

import io
import itertools
import operator
import random
import re
import zipfile

import numpy as np
import pytest

from lib.encoding import MARK, decode, guess
from lib.errors import UserError

SIMPLIFIED = (
    "清晨，老渔夫在码头慢慢地修一把旧椅子。邻居问他：“您今年多大岁数了？”他笑着说：“记不清了，只记得那年下了很大的雪。”\n"
    "第二天雨后，孩子们跑到河边去看船，有的数着路过的船，有的给远方的朋友写信。谁也没有想到，这把钥匙会丢在松林里！\n"
)
ONE_LINE = re.sub("[\n -~]", "", SIMPLIFIED)
TRADITIONAL = (
    "清晨，老漁夫在碼頭慢慢地修一把舊椅子。鄰居問他：「您今年多大歲數了？」他笑著說：「記不清了，只記得那年下了很大的雪。」\n"
    "第二天雨後，孩子們跑到河邊去看船，有的數著路過的船，有的給遠方的朋友寫信。誰也沒有想到，這把鑰匙會丟在松林裡！\n"
)
CLASSICAL = "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空，青山依旧在，几度夕阳红。白发渔樵江渚上，惯看秋月春风。"
JAPANESE = (
    "朝早く、年を取った漁師は港で古い椅子をゆっくり直していた。「おいくつですか」と隣の人が聞くと、彼は笑って答えた。\n"
    "雨の後、子供たちは川へ船を見に行き、カメラで写真を撮ったり、遠くの友達に手紙を書いたりした。\n"
)
KOREAN = (
    "이른 아침 늙은 어부가 부두에서 낡은 의자를 천천히 고치고 있었다. 이웃이 나이를 묻자 그는 웃으며 대답했다.\n"
    "비가 그친 뒤 아이들은 강가로 배를 보러 갔고, 먼 곳에 있는 친구에게 편지를 쓰기도 했다.\n"
)
RUSSIAN = (
    "Рано утром старый рыбак медленно чинил на пристани старый стул. Сосед спросил, сколько ему лет, и он засмеялся.\n"
    "После дождя дети побежали к реке смотреть на лодки и писать письма далёким друзьям.\n"
)
FRENCH = (
    "Tôt le matin, le vieux pêcheur réparait une chaise près du port. Son voisin lui demanda son âge, et il répondit.\n"
    "Après la pluie, les élèves allèrent voir les bateaux à la rivière. « Où est la clé ? » L’été était passé.\n"
)
GERMAN = (
    "Früh am Morgen saß der alte Fischer am Hafen und flickte für einen Nachbarn die Körbe. Er wußte nicht, wie alt\n"
    "er war. Später gingen die Schüler über die Brücke, zählten die Schiffe und schrieben schöne Grüße.\n"
)
ENGLISH = "Early in the morning, the old fisherman mended a chair on the quay. “How old are you?” a neighbour asked.\n"
MOSTLY_ASCII = (
    'def count(boats):  # 数一数河边的船\n    return sum(boat.passes for boat in boats)\n\nprint("钥匙丢了")\n'
)
JSONL = '{"title": "清晨的码头", "id": 17, "content": "老渔夫在码头慢慢地修一把旧椅子。"}\n'
FIGURES = "2023年3月14日，共1,234,567人（增长5.6%）；——3.1415926……“0.5～0.7”！！？？\n"

CASES = [
    *((text, encoding) for text in (SIMPLIFIED, CLASSICAL, JSONL, FIGURES) for encoding in ("utf-8", "gb18030")),
    *((text, encoding) for text in (SIMPLIFIED, JAPANESE, ENGLISH) for encoding in ("utf-16-le", "utf-16-be")),
    *((TRADITIONAL, encoding) for encoding in ("utf-8", "gb18030", "big5hkscs")),
    *((JAPANESE, encoding) for encoding in ("utf-8", "cp932", "euc_jp")),
    *((KOREAN, encoding) for encoding in ("utf-8", "cp949")),
    *((RUSSIAN, encoding) for encoding in ("utf-8", "cp1251", "koi8-r")),
    *((text, encoding) for text in (FRENCH, GERMAN) for encoding in ("utf-8", "cp1252")),
    *((MOSTLY_ASCII, encoding) for encoding in ("utf-8", "gb18030")),
]


@pytest.mark.parametrize(("text", "encoding"), CASES, ids=[f"{text[:4]}-{encoding}" for text, encoding in CASES])
def test_the_encoding_is_found_however_short_long_or_broken_the_text(text, encoding):
    words = random.Random(0)
    for data in (text.encode(encoding), (text * 60).encode(encoding)):
        broken, lost = bytearray(data), bytearray(data)
        for _ in range(3):
            broken[words.randrange(len(data))] = words.choice([0xFF, 0x80])
        del lost[len(data) * 2 // 3]
        for kind in (data, bytes(broken), bytes(lost), data[:-1]):
            assert guess([kind]) == (encoding, None)


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
        ("é", "utf-8"),
        ("我", "utf-8"),
        ("hello", "utf-8"),
        ("", "utf-8"),
    ],
)
def test_short_prompts(text, encoding):
    assert guess([text.encode(encoding)])[0] == encoding


def test_what_two_encodings_explain_is_doubtful():
    assert guess(["曹操".encode("big5")]) == ("gb18030", "big5hkscs")  # 变巨
    assert guess([]) == guess([b""]) == guess([b"plain"]) == ("utf-8", None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides(encoding):
    assert guess(["ab".encode(encoding)]) == (encoding, None)


@pytest.mark.parametrize("text", ["สวัสดีชาวโลก ", "مرحبا بالعالم ", "Γειά σου Κόσμε ", "नमस्ते दुनिया ", "😀🎉👍 "])
def test_broken_utf_8_of_any_script_is_utf_8(text):
    data = bytearray(text.encode() * 20)
    data[50] = data[100] = data[150] = 0xFF
    assert guess([bytes(data)]) == ("utf-8", None)


def test_what_is_no_text_is_told():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("book.txt", SIMPLIFIED * 50)
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + random.Random(0).randbytes(3000)
    keys = [b"general.name", b"block_count"] * 50
    model = b"GGUF\3\0\0\0" + b"".join(len(key).to_bytes(8, "little") + key for key in keys)
    ids = np.random.default_rng(0).zipf(1.3, 5000).clip(max=4999)
    tokens = [ids.astype(dtype).tobytes() for dtype in ("<u2", "<i4")]
    for data in (archive.getvalue(), picture, model, bytes(1000), *tokens):
        assert guess([data]) == (None, None)


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
