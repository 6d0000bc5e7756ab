import json

import torch
from conftest import TINY

import bench
from config import load_config
from model import GPT
from train import should_compile


def test_the_table_and_the_file(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SCRIPTS", ("plot_loss.py",))
    assert bench.main([*TINY, f"--json={tmp_path / 'bench.json'}"]) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    figures = result["figures"]
    for name, unit in (
        ("step: backward", "ms"),
        ("training", "tok/s"),
        ("training: arithmetic", "GFLOP/s"),
        ("training: peak memory", "MB"),
        ("evaluation", "tok/s"),
        ("sampling, batch of 32", "tok/s"),
        ("prepare.py", "MB/s"),
        ("start-up: plot_loss.py", "s"),
    ):
        assert name in out and figures[name]["value"] > 0 and figures[name]["unit"] == unit
    parts = sum(row["value"] for name, row in figures.items() if name.startswith("step: "))
    assert parts / 1000 < 2 * 4 * 32 / figures["training"]["value"]  # the parts are those of a step of 4 x 32 tokens
    assert result["config"]["n_embd"] == 32 and result["versions"]["torch"]


def test_without_data_it_says_what_to_run(home, fails):
    assert "run prepare.py" in fails(bench.main, ["config/tiny.py"])


def test_only_long_runs_are_compiled_on_a_cpu():
    for path, expected in (("config/tiny.py", False), ("config/small.py", True)):
        config, _ = load_config([path], bench.ArgumentParser())
        assert should_compile(GPT(config, 4000), torch.device("cpu")) == expected
