import json

import prepare
import train
import train_tokenizer
from tests.conftest import TINY
from tools.lab import verse

REGULAR = "静夜思\n李白\n\n床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"


def test_the_form_of_a_poem():
    assert verse.lines(REGULAR) == ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"]
    assert verse.form(REGULAR) == (5, 1.0)
    assert verse.ends(REGULAR) == ["霜", "乡"]
    assert verse.form(REGULAR.replace("低头", "低")) == (5, 0.75)
    assert verse.form("title\nnobody\n\n") == (0, 0.0) and verse.lines("床前明月光") == []


RHYMES = ["霜乡", "流楼", "山间", "新人", "花家", "风空", "天年", "来开"]


def poem(*ends):
    return "题\n人\n\n" + "".join(f"白日依山尽，黄河入海{end}。\n" for end in ends)


def test_rhymes_are_what_poets_rhyme():
    known = verse.rhymes([poem(a, b, a) for a, b in RHYMES] + [poem("霜", "流"), poem("花", "花", "花")])
    assert known == {pair for a, b in RHYMES for pair in ((a, b), (b, a))}
    figures = verse.judge_verse([poem("霜", "乡"), poem("流", "楼"), poem("霜", "楼")], known)
    assert figures["rhymes"] == 2 / 3 and figures["of 5s"] == figures["all lines"] == 1.0


def test_the_poems_of_a_run(home, capsys):
    (home / "data" / "book").mkdir(parents=True)
    records = "".join(json.dumps({"text": poem(a, b, a)}) + "\n" for a, b in RHYMES * 20)
    (home / "data" / "book" / "corpus.jsonl").write_text(records)
    for script in (train_tokenizer, prepare, train):
        assert script.main(TINY) == 0
    capsys.readouterr()
    assert verse.main(["run", "--num_samples=8", "--temperature", "0.5", "1"]) == 0
    real, *written = capsys.readouterr().out.splitlines()
    assert real.startswith(
        "validation text  of 5s 100.0%  of 7s 0.0%  lines right 100.0%  all lines 100.0%  rhymes 100.0%"
    )
    assert [line.partition("  ")[0] for line in written] == ["temperature 0.5", "temperature 1"]


def test_a_text_without_poems_is_refused(run, fails):
    assert "no poems as data/poetry.py writes them" in fails(verse.main, ["run"])
