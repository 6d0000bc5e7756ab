"""docs/why.md: its diffs fit the code, its names are in it, and its figures are those that were measured."""

import ast
import json
import math
import re
import subprocess
import sys
import types
import xml.etree.ElementTree as ElementTree

import pytest
import torch

import config
from config import Config
from sample import load_model
from tests.conftest import SCRIPTS, WORDS
from tools.lab import picture

PAGES = [SCRIPTS / "docs" / name for name in ("why.md", "why.zh-CN.md")]
RESULTS = json.loads((SCRIPTS / "docs" / "results" / "why.json").read_text(encoding="utf-8"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}


def blocks(text, kind):
    """The texts between ```kind and ```."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    return [block for name, block in found if name == kind]


def sections(text):
    """{number: text} of the numbered sections, and "" for what comes before them."""
    parts = re.split(r"^### (\d+)\. ", text, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def commands(text):
    """{name of the run: its other flags} of the commands that train."""
    found = re.findall(r"^python train.py config/tiny.py --run=(\w+) --max_steps=250(.*)$", text, flags=re.M)
    return {name: flags.strip() for name, flags in found}


def change(diff) -> tuple[str, str]:
    """(file name, its text after the change). The lines of a diff must be in the file, in one place only."""
    name, _, body = diff.removeprefix("--- ").partition("\n")
    text = (SCRIPTS / name).read_text(encoding="utf-8")
    for hunk in body.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        assert all(line[0] in " -+" for line in lines), hunk
        old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        assert old != new and text.count(old) == 1, f"{name} has not one place with\n{old}"
        text = text.replace(old, new)
    return name, text


DIFFS = blocks(TEXTS["why.md"], "diff")


def test_both_pages_have_the_same_blocks_and_sections():
    english, chinese = TEXTS.values()
    for kind in ("diff", "sh", ""):
        assert blocks(english, kind) == blocks(chinese, kind)
    assert sections(english).keys() == sections(chinese).keys() == {"", *map(str, range(1, 26))}
    assert len(DIFFS) > 8 and all(text.count("\n") < 800 for text in TEXTS.values())


@pytest.mark.parametrize("diff", DIFFS, ids=lambda diff: diff.splitlines()[-1].strip("+- ")[:40])
def test_the_changed_code_still_learns(diff):
    name, text = change(diff)
    ast.parse(text)
    if name != "model.py":
        return
    module = types.ModuleType("changed")
    exec(compile(text, name, "exec"), module.__dict__)
    torch.manual_seed(0)
    model = module.GPT(Config(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, block_size=16), 50)
    idx = torch.randint(50, (2, 17))
    for dtype in (torch.float32, torch.bfloat16):  # Attention differs.
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(idx[:, :-1], idx[:, 1:])
        loss.backward()
        assert loss.isfinite() and model.embedding.weight.grad.isfinite().all()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_is_in_the_code(page):
    lines = re.findall(r"^(?:Code: |代码：)(.+)$", TEXTS[page.name], flags=re.M)
    assert len(lines) == 25
    for line in lines:
        files = re.split(r"\[[\w/.]+\]\(\.\./([\w/.]+)\)", line)
        assert len(files) > 1, line
        for name, rest in zip(files[1::2], files[2::2], strict=True):
            quoted = re.findall(r"`([^`]+)`", rest)
            assert quoted, line
            for words in quoted:
                assert words in (SCRIPTS / name).read_text(encoding="utf-8"), f"{name}: {words}"


def shown(loss):
    return f"{loss:.3f}" if loss < 100 else f"{loss:,.0f}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_figures_of_the_runs_are_those_measured(page):
    text, runs = TEXTS[page.name], RESULTS["runs"]
    assert commands(text) == {name: run["flags"] for name, run in runs.items()}
    for section in sections(text).values():
        for name in commands(section):
            assert shown(runs[name]["val_loss"]) in section, name
            assert runs[name]["diff"] in ["", *blocks(section, "diff")], name
        losses = [runs[name]["val_loss"] for name in {"base", *commands(section)}]
        gaps = {f"{abs(a - b):.2f}" for a in losses for b in losses}
        assert set(re.findall(r"(?:高|低|er by|by) (0\.\d\d)\b", section)) <= gaps
    # No other losses are in the text, but for those of other pages, and 1 / 2 and 1 / 1000.
    others = "\n".join(
        (SCRIPTS / "docs" / name).read_text(encoding="utf-8") for name in ("recipes.md", "EXPERIMENTS.md")
    )
    known = {"0.001", f"{math.log(2):.3f}", f"{math.log(4000):.3f}", f"{RESULTS['unigram_entropy']:.3f}"}
    known |= {shown(run[key]) for run in runs.values() for key in ("val_loss", "first_val_loss")}
    known |= {figure for figure in ("8.501", "8.244", "0.097") if figure in others}
    known |= {figure for figure in ("5.027", "1.169") if figure in "".join(blocks(text, "sh"))}
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    assert set(re.findall(r"(?<![\d.])\d+\.\d{3}\b", prose)) <= known


@pytest.mark.parametrize("number", RESULTS["outputs"])
def test_the_outputs_are_those_measured(number):
    text = sections(TEXTS["why.md"])[number]
    assert RESULTS["outputs"][number] in blocks(text, "")
    [code] = re.findall(r"^python - <<'END'\n(.*?)^END$", text, flags=re.M | re.S) or re.findall(
        r'^python -c "(.*)"$', text, re.M
    )
    if re.search(r'"(data|out)/|process_time', code):
        return  # It needs what make demo makes, or takes another time elsewhere.
    found = subprocess.run([sys.executable, "-"], input=code, cwd=SCRIPTS, capture_output=True, encoding="utf-8")
    assert found.stdout == RESULTS["outputs"][number], found.stderr


@pytest.mark.filterwarnings("ignore:Glyph")  # where no Chinese font is installed
def test_the_picture_is_drawn_the_same_each_time(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "ROOT", trained)
    monkeypatch.setattr(picture, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    text_model, _, _ = load_model("run", device="cpu")
    prompts = (first + second for first in WORDS for second in WORDS)
    monkeypatch.setattr(picture, "PROMPT", next(p for p in prompts if text_model.encode(p).size(1) == 3))
    drawn = []
    for _ in range(2):
        assert picture.main(["run"]) == 0
        drawn.append([(tmp_path / "docs" / name).read_bytes() for name in picture.FILES])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 2
    for svg in drawn[0]:
        root = ElementTree.fromstring(svg)
        assert root.get("width") == "360pt" and b"<text" not in svg  # 480 pixels; outlines look the same everywhere


def test_the_picture_and_the_page_number_the_ideas_alike():
    for language, (page, name) in enumerate(zip(PAGES, picture.FILES, strict=True)):
        headings = sections(TEXTS[page.name])
        assert f"]({name})" in headings[""]
        for number, *both in picture.WORDS.values():
            word = both[language]
            for n in number.split("–"):
                assert not n or n in headings
            if word in ("RMSNorm", "SwiGLU"):
                assert headings[number].startswith(word)


def test_a_prompt_of_another_length_is_refused(trained, monkeypatch, fails):
    monkeypatch.setattr(config, "ROOT", trained)
    monkeypatch.setattr(picture, "PROMPT", "")
    assert "room for 3 tokens" in fails(picture.main, ["run"])
