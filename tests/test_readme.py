import re
from pathlib import Path

from conftest import SCRIPTS

import config
import pretrained
from config import ArgumentParser, load_config


def commands(name):
    text = (SCRIPTS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("python", "torchrun", "llama", "for ", "make", "git", "."))]


def test_both_readmes_give_the_same_commands():
    assert commands("README.md") == commands("README.zh-CN.md") != []


def test_the_commands_exist(monkeypatch):
    monkeypatch.setattr(pretrained, "read_settings", lambda init_from: {})  # of models that are not here
    own_flags = ("--resume", "--overwrite", "--plan", "--shard", "--help")
    for line in commands("README.md"):
        words = re.sub(r"^torchrun .* --(?= )", "python", line).split()
        if words[0] == "python" and words[1].endswith(".py"):
            assert (SCRIPTS / words[1]).exists(), line
            if words[1] in ("train_tokenizer.py", "prepare.py", "train.py"):
                load_config([word for word in words[2:] if word.split("=")[0] not in own_flags], ArgumentParser())


def test_the_links_lead_somewhere():
    for name in ("README.md", "README.zh-CN.md"):
        text = (SCRIPTS / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            assert target.startswith("http") or (SCRIPTS / target).exists(), target


def test_every_config_key_is_typed_and_explained():
    for field in config.FIELDS.values():
        assert field.type in (int, float, str, bool) and len(field.metadata["help"]) > 5
    assert Path(config.__file__).name == "__init__.py"
