import os
import re
import tempfile
from pathlib import Path

import pytest
import torch

import train
from config import Config
from lib.machine import device
from lib.machine.device import pick_precision
from lib.run import plan
from model import GPT
from tests.conftest import TINY

CPU = torch.device("cpu")
SMALL = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "block_size": 64}


def test_a_plan_measures_and_leaves_nothing_behind(book, capsys):
    assert train.main([*TINY, "--plan"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"time  .* ms a step, .* to the end\n", out) and "used at most" in out and "step 20" not in out
    parts = re.search(r"of it (.*) compiling, (.*) steps, (.*) evaluations, (.*) samples, (.*) checkpoints\n", out)
    assert all(re.fullmatch(r"\d+:\d\d", part) for part in parts.groups())
    assert not (book / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no files without a name")
def test_a_plan_that_is_killed_leaves_nothing(book, monkeypatch):
    """What it writes has no name at any time."""
    monkeypatch.setattr(tempfile, "tempdir", str(book))
    sizes = []

    def files():
        return {path for path in book.rglob("*") if path.is_file()}

    def flush(file):
        assert files() == before
        sizes.append(file.tell())

    monkeypatch.setattr(plan, "flush_to_disk", flush)
    before = files()
    assert train.main([*TINY, "--plan"]) == 0
    (book / "out").write_bytes(b"")  # Nothing can be written below it, as on a disk that is read-only.
    before = files()
    assert train.main([*TINY, "--plan"]) == 0
    assert len(sizes) == 2 and min(sizes) > 200_000


def test_a_plan_of_a_run_that_exists_measures_all_of_it_and_changes_nothing(run, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for flags in ([], ["--resume"], ["--overwrite"]):
        assert train.main([*TINY, "--plan", *flags]) == 0
        out = capsys.readouterr().out
        assert "ms a step" in out and "resumed" not in out
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_plan_does_not_try_what_would_not_fit(book, capsys, monkeypatch):
    monkeypatch.setattr(plan, "free_memory", lambda device: 10**6)
    assert train.main([*TINY, "--plan"]) == 0
    out = capsys.readouterr().out
    assert "warning: that may not fit" in out and "ms a step" not in out


@pytest.mark.parametrize("tied", [True, False])
def test_the_parts_are_the_whole(tied):
    model = GPT(Config(**SMALL, tie_embeddings=tied), 300)
    parts = plan.parts_of(model)
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert parts["embedding"] == 300 * 32 and ("output head" in parts) != tied
    assert parts["norms"] == 5 * 32 + 4 * 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_forward_pass_keeps_is_counted(dtype):
    """The estimate of one sequence, against what eight of them really keep."""
    config = Config(**SMALL)
    model = GPT(config, 300)
    precision = pick_precision(dtype, CPU)
    estimate = plan.MemoryEstimate(model, train.make_optimizer(model, config, precision), precision)
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    idx = torch.randint(300, (8, 64))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision.autocast:
        loss = model(idx, idx)
    activations = 8 * (estimate.sequence - 6 * 4 * 64 * 300)
    assert activations == pytest.approx(sum(kept.values()), rel=0.05) and loss.isfinite()
    assert estimate.fixed >= 16 * sum(model.parameter_counts())


def advice(monkeypatch, capsys, free, **changes):
    config = Config(**SMALL | {"batch_size": 64} | changes)
    model = GPT(config, 300)
    precision = pick_precision("float32", CPU)
    estimate = plan.MemoryEstimate(model, train.make_optimizer(model, config, precision), precision)
    monkeypatch.setattr(plan, "free_memory", lambda device: free(estimate))
    fits = plan.print_memory(config, estimate, CPU, compiled=True)
    out = capsys.readouterr().out
    assert fits == ("warning" not in out)
    return out


def test_what_to_change_if_it_does_not_fit(monkeypatch, capsys):
    assert "warning" not in advice(monkeypatch, capsys, lambda estimate: 2 * estimate.needed(64))
    assert "warning" not in advice(monkeypatch, capsys, lambda estimate: 0)  # not known
    out = advice(monkeypatch, capsys, lambda estimate: estimate.needed(20) / 0.9)
    assert "--micro_batch_size=16 takes" in out  # the largest that divides 64 and fits
    out = advice(monkeypatch, capsys, lambda estimate: (estimate.fixed + 0.3 * estimate.sequence) / 0.9)
    assert "--micro_batch_size=1 --block_size=16" in out
    assert "lower n_layer" in advice(monkeypatch, capsys, lambda estimate: estimate.fixed // 2)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="memory is read from /proc")
def test_a_container_has_free_what_it_does_not_use(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    machine = device.free_memory(CPU)
    (tmp_path / "memory").mkdir()
    v1 = {"memory/memory.limit_in_bytes": 9_000, "memory/memory.usage_in_bytes": 5_000}
    v1["memory/memory.stat"] = "inactive_file 7\ntotal_inactive_file 1000\n"
    v2 = {"memory.max": 8_000, "memory.current": 6_000, "memory.stat": "inactive_file 500\nactive_file 400\n"}
    for files, free in ((v1, 5_000), (v2, 2_500)):
        for name, value in files.items():
            (tmp_path / name).write_text(f"{value}\n")
        assert device.free_memory(CPU) == free
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert device.free_memory(CPU) == pytest.approx(machine, rel=0.2)


def test_what_a_gpu_takes_for_a_compiled_model_is_measured_not_guessed(monkeypatch, capsys):
    monkeypatch.setattr(plan, "free_memory", lambda device: 1)
    config = Config(**SMALL)
    model = GPT(config, 300)
    precision = pick_precision("float32", CPU)
    estimate = plan.MemoryEstimate(model, train.make_optimizer(model, config, precision), precision)
    gpu = torch.device("cuda")
    assert plan.print_memory(config, estimate, gpu, compiled=True) and "at most" in capsys.readouterr().out
    assert not plan.print_memory(config, estimate, gpu, compiled=False)


@pytest.mark.parametrize(
    ("epochs", "ratio", "words"),
    [
        (0.018, 0.036, ["0.018 epochs: not all of the text", "0.036 tokens per parameter: the model has"]),
        (0.3, 2, ["not all of the text", "room for more"]),
        (3, 5, ["almost as much as new", "room for more"]),
        (7, 30, ["will flatten", "a larger one"]),
        (50, 500, ["by heart", "a larger one"]),
    ],
)
def test_what_epochs_and_parameters_mean(epochs, ratio, words):
    lines = plan.meaning(epochs, ratio)
    assert all(word in line for word, line in zip(words, lines, strict=True))
