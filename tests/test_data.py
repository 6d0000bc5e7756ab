import importlib
import json

import pytest
from conftest import SCRIPTS


@pytest.fixture(params=["sanguo", "poetry", "shakespeare"])
def script(request, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS / "data")
    return importlib.import_module(request.param)


@pytest.fixture
def poetry(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS / "data")
    return importlib.import_module("poetry")


@pytest.fixture
def sanguo(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS / "data")
    return importlib.import_module("sanguo")


def test_what_is_there_is_never_overwritten(script, home, capsys):
    path = home / "data" / script.__name__ / "corpus.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("mine", encoding="utf-8")
    assert script.main([]) == 0
    assert path.read_text(encoding="utf-8") == "mine"
    assert "another text than the published one" in capsys.readouterr().out


def test_another_file_than_expected_is_refused(sanguo, home, fails, monkeypatch):
    monkeypatch.setattr(sanguo, "fetch", lambda folder: b'["tampered"]')
    assert "nothing was written" in fails(sanguo.main, [])
    assert not (home / "data" / "sanguo" / "corpus.jsonl").exists()


def test_paragraphs_are_tidied(sanguo):
    assert sanguo.tidy("第一回 甲\u3000乙\n\n  \n\t话说。\n\n\t诗曰：\n") == "第一回 甲 乙\n话说。\n诗曰：\n"


def test_poems_from_a_clone(poetry, home, capsys):
    clone = home / "clone"
    poems = {
        "全唐诗/poet.tang.0.json": [
            {
                "title": "靜夜思",
                "author": "李白",
                "paragraphs": ["牀前看月光，疑是地上霜。", "舉頭望山月，低頭思故鄉。"],
            },
            {
                "title": "靜夜思",
                "author": "李白",
                "paragraphs": ["牀前看月光，疑是地上霜。", "舉頭望山月，低頭思故鄉。"],
            },
            {"title": "空", "author": "佚名", "paragraphs": [" "]},
        ],
        "宋词/ci.song.0.json": [{"rhythmic": "如梦令", "author": "李清照", "paragraphs": ["常记溪亭日暮。"]}],
        "strains/poet.tang.0.json": [{"strains": ["平平仄仄平"]}],
    }
    for name, content in poems.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert poetry.main([f"--from={clone}"]) == 0
    lines = (home / "data" / "poetry" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["text"] for line in lines} == {
        "静夜思\n李白\n\n床前看月光，疑是地上霜。\n举头望山月，低头思故乡。\n",
        "如梦令\n李清照\n\n常记溪亭日暮。\n",
    }


def test_folders_that_are_no_clone(poetry, home, fails):
    assert "has none of" in fails(poetry.main, [f"--from={home}"])
    (home / "yuanqu.json").write_text('[{"paragraphs": 3}]', encoding="utf-8")
    assert "yuanqu.json: not a list of poems" in fails(poetry.main, [f"--from={home}"])
    assert not (home / "data" / "poetry" / "corpus.jsonl").exists()


def test_without_npm_the_error_names_the_other_way(poetry, home, fails, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "--from FOLDER" in fails(poetry.main, [])
