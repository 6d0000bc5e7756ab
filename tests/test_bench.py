import functools
import json
import time

import torch

import config
from lib.errors import ArgumentParser
from lib.machine.compilation import should_compile
from model import GPT
from tests.conftest import TINY
from tools import bench
from tools.lab import busy


def once(work, repeats=10, at_most=10.0):
    """The time of one call, instead of the median of many."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_the_table_and_the_file(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SCRIPTS", ("plot_loss.py",))
    monkeypatch.setattr(bench, "seconds", once)
    assert bench.main([*TINY, f"--json={tmp_path / 'bench.json'}"]) == 0
    out = capsys.readouterr().out
    assert "beside the CPU in float32: loss off by 0.00%" in out and "64 of 64 tokens equal" in out
    result = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    figures = result["figures"]
    for name, unit in (
        ("training step", "ms"),
        ("of it: get_batch", "ms"),
        ("training", "tok/s"),
        ("training: arithmetic", "GFLOP/s"),
        ("training: peak memory", "MB"),
        ("evaluation", "tok/s"),
        ("sampling, batch of 32", "tok/s"),
        ("prepare.py", "MB/s"),
        ("start-up: plot_loss.py", "s"),
    ):
        assert name in out and figures[name]["value"] > 0 and figures[name]["unit"] == unit
    step, speed = figures["training step"]["value"] / 1000, figures["training"]["value"]
    assert abs(step * speed - 4 * 32) < 1e-6  # the tokens of a step
    assert result["config"]["n_embd"] == 32 and result["versions"]["torch"]


def test_without_data_it_says_what_to_run(home, fails):
    assert "run train_tokenizer.py" in fails(bench.main, ["config/tiny.py"])


def test_only_long_runs_are_compiled_on_a_cpu():
    for path, expected in (("config/tiny.py", False), ("config/small.py", True)):
        settings, _ = config.load_config([path], ArgumentParser())
        assert should_compile(GPT(settings, 4000), torch.device("cpu")) == expected


def test_beside_busy_processes(clone, monkeypatch, capsys):
    """One process is real; its speeds stand for those of all others."""
    monkeypatch.setattr(config, "ROOT", clone)
    train_speeds = busy.train_speeds
    speeds = functools.cache(lambda: train_speeds(TINY, n_steps=12, environment={}))
    monkeypatch.setattr(busy, "train_speeds", lambda *_: speeds())
    busy.compare_ways(TINY, rounds=1)
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines()] == [f"{n} busy" for n in range(3) for _ in range(4)]
    assert out.count("train.py is") == 9 and not (clone / "out" / "bench").exists()
