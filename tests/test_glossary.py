"""docs/glossary.md explains what the scripts really print."""

import ast
import re

import pytest

from tests.conftest import SCRIPTS

GLOSSARIES = [SCRIPTS / "docs" / name for name in ("glossary.md", "glossary.zh-CN.md")]
FILES = {  # that print what a section shows
    "train_tokenizer.py": "train_tokenizer.py config/*.py lib/text/*.py lib/tokens/*.py lib/errors.py lib/storage.py",
    "prepare.py": "prepare.py",
    "train.py": "train.py lib/run/*.py lib/machine/*.py lib/tokens/prepared.py lib/errors.py",
    "sample.py": "sample.py lib/generation.py",
    "plot_loss.py": "plot_loss.py",
    "tools.report": "tools/report/*.py",
    "tools.recipe": "tools/recipe.py lib/errors.py",
}
# What is computed in a line: numbers, paths, files, settings, what is in no Latin letters or left out, names.
COMPUTED = re.compile(
    r"\S*\d\S*(?: [MG]B)?|\b(?!tok/)\w\S*/\S*|\S+\.(?:py|txt)\b|\S+=\S*|--\S+|[^\x00-\x7f]+"
    r"|AMD EPYC|world!|\b(?:tiny|utf|cpu)\b"
)


def sections(page):
    """{heading: (the lines that it shows, the words in `code` that its tables explain)}."""
    found = {}
    for section in page.read_text(encoding="utf-8").split("\n## ")[2:]:
        lines = "".join(re.findall(r"^```\n(.*?)^```", section, re.M | re.S)).splitlines()
        cells = re.findall(r"^\| (`.*?) \|", section, re.M)
        found[section.partition("\n")[0]] = lines, [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]
    return found


def texts_in(patterns):
    """The texts that the code of some files holds, in strings and between the braces of f-strings."""
    paths = [path for pattern in patterns.split() for path in SCRIPTS.glob(pattern)]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    values = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    texts = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
    return {text for text in texts if isinstance(text, str)}


def phrases(line):
    """What the words of a line are, without what is computed."""
    parts = re.split(r"^\s+(?:- )?|[][|(),:;{}'\"`<]| [+-] ", COMPUTED.sub("|", line))
    return [part for part in parts if re.search("[a-z]{2}", part)]


def is_in(phrase, texts) -> bool:
    """Whether one of the texts holds a phrase, or two texts its columns.

    A single word is everywhere. So it needs its spaces, as a label does, or is a text of its own.
    """
    word = phrase.strip()
    exact = " " not in word or phrase.endswith("  ")
    if word in texts or any((phrase if exact else word) in text for text in texts):
        return True
    columns = re.split(r"(?<=  )(?=\w)", phrase)
    return len(columns) > 1 and all(is_in(column, texts) for column in columns)


@pytest.mark.parametrize("page", GLOSSARIES, ids=lambda page: page.name)
def test_the_lines_that_are_shown_are_printed(page):
    shown = sections(page)
    assert {heading.split(" ")[0] for heading in shown} == {*FILES}
    for heading, (lines, _) in shown.items():
        texts = texts_in(FILES[heading.split(" ")[0]])
        for line in lines:
            for phrase in phrases(line):
                assert is_in(phrase, texts), f"{heading}: {phrase!r} of {line}"


@pytest.mark.parametrize("page", GLOSSARIES, ids=lambda page: page.name)
def test_the_words_that_are_explained_are_in_the_lines_above(page):
    for heading, (lines, words) in sections(page).items():
        assert len(words) > 1 and all(any(word in line for line in lines) for word in words), heading


def test_both_languages_show_the_same_lines():
    english, chinese = map(sections, GLOSSARIES)
    assert english == chinese
