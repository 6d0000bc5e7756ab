"""What the READMEs and docs/ tell a reader to type and to open exists."""

import importlib
import json
import re
import shlex

import pytest

from config import load_config
from lib import qwen3
from lib.errors import ArgumentParser
from tests.conftest import SCRIPTS

PAGES = sorted([*SCRIPTS.glob("*.md"), *(SCRIPTS / "docs").glob("*.md"), *(SCRIPTS / "docs").glob("*.ipynb")])
WITH_CONFIG = ("train_tokenizer", "prepare", "train")


def read(page):
    """The text of a page, of a notebook its explanations, in which run("train.py …") is a command."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return text
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return re.sub(r'run\("(.+?)"\)', r"python \1", "\n\n".join(cells))


def commands(page, inline=False):
    text = read(page)
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)) if inline else []
    return [line for line in lines if line.startswith(("python ", "torchrun ", "make ", "git ", "."))]


def module_and_flags(command):
    """("tools.report", its flags) of `python -m tools.report …`; (None, []) of what is not ours."""
    words = shlex.split(re.sub(r"^torchrun .* -- ", "python ", command).removeprefix(".venv/bin/"))
    if words[:2] == ["python", "-m"] and words[2].startswith(("tools.", "tests.")):
        return words[2], words[3:]
    if words[0] == "python" and words[1].endswith(".py"):
        return words[1].removesuffix(".py").replace("/", "."), words[2:]
    return None, []


def test_both_languages_give_the_same_commands():
    pairs = [(page.with_name(page.name.replace(".zh-CN", "")), page) for page in PAGES if ".zh-CN" in page.name]
    assert len(pairs) >= 7
    for english, chinese in pairs:
        inline = english.suffix == ".ipynb"  # Its exercises are lists with commands in them.
        same = [command.replace(".zh-CN", "") for command in commands(chinese, inline)]
        assert commands(english, inline) == same, chinese.name
        assert len(commands(english, inline)) > 8 or not inline
    assert len(commands(SCRIPTS / "README.md")) > 20


def test_the_notebooks_differ_in_their_explanations_only():
    names = ("walkthrough.ipynb", "walkthrough.zh-CN.ipynb")
    books = [json.loads((SCRIPTS / "docs" / name).read_text(encoding="utf-8"))["cells"] for name in names]
    for english, chinese in zip(*books, strict=True):
        if english["cell_type"] == "markdown":
            english, chinese = english | {"source": ""}, chinese | {"source": ""}
        assert english == chinese, english["id"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_exist(page, monkeypatch, capsys):
    monkeypatch.setattr(qwen3, "read_settings", lambda init_from: {})  # of models that are not here
    for command in commands(page, inline=True):
        command = command.replace("config/novel.py", "config/tiny.py")  # tools.recipe writes the former.
        name, words = module_and_flags(command)
        if not name:
            continue
        path = SCRIPTS / name.replace(".", "/")
        is_package = (path / "__main__.py").exists()
        assert is_package or path.with_suffix(".py").exists(), command
        if name.startswith("tests."):
            continue
        module = importlib.import_module(f"{name}.__main__" if is_package else name)
        with pytest.raises(SystemExit):
            module.main(["--help"])
        known = capsys.readouterr().out
        flags = [word.split("=")[0] for word in words if word.startswith("--")]
        assert all(re.search(rf"{flag}\b", known) for flag in flags), command
        if name in WITH_CONFIG:
            own = ("--resume", "--overwrite", "--plan", "--shard", "--help")
            load_config([word for word in words if word.split("=")[0] not in own], ArgumentParser())


def test_the_tests_that_are_named_exist():
    names = " ".join(
        name
        for path in (SCRIPTS / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    )
    found = [words for page in PAGES for command in commands(page, True) if "pytest" in (words := shlex.split(command))]
    chosen = [word for words in found if "-k" in words for word in words[words.index("-k") + 1].split(" or ")]
    assert len(chosen) > 8
    for word in chosen:
        assert word in names, word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", read(page)):
        if target.startswith("http"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_files_that_are_named_exist():
    for page in PAGES:
        for name in re.findall(r"`((?:lib|tools|data|tests)/[\w/]+\.py)`", read(page)):
            assert (SCRIPTS / name).exists(), f"{page.name}: {name}"


def test_the_readmes_are_short():
    for name in ("README.md", "README.zh-CN.md"):
        assert (SCRIPTS / name).stat().st_size <= 13 << 10
