import copy
import itertools
import json
import math
import os
import re
import shutil
import signal
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import prepare
import train
import train_tokenizer
from config import Config
from lib.generation import Sampling, stream
from lib.machine.device import pick_precision
from lib.run.checkpoint import load_checkpoint
from lib.tokens.memmap import Tokens
from lib.tokens.prepared import read_meta
from model import GPT
from sample import load
from tests.conftest import TINY, at_step, read_tokens

CPU = torch.device("cpu")


def records(home, run="run"):
    return json.loads((home / "out" / run / "loss_log.json").read_text(encoding="utf-8"))["records"]


def without_times(log):
    return [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")} for r in log]


def weights(home, run="run"):
    return load_checkpoint(home / "out" / run / "ckpt.pt")["model"]


def same_weights(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_writes_what_it_learned(run, home):
    log = records(home)
    assert [r["step"] for r in log] == list(range(21))
    assert log[0]["train_loss"] == pytest.approx(math.log(400), abs=0.3)
    assert log[0]["val_loss"] == pytest.approx(math.log(400), abs=0.3)
    assert log[20]["val_loss"] < log[0]["val_loss"] - 1
    evaluated = [r for r in log if "val_loss" in r]
    assert [r["step"] for r in evaluated] == [0, 10, 20]
    for r in evaluated:
        assert r["val_ppl"] == pytest.approx(math.exp(r["val_loss"]))
        assert r["tokens"] == r["step"] * 4 * 32
    assert all({"lr", "train_loss", "grad_norm", "tokens_per_second", "seconds"} <= r.keys() for r in log[:20])
    assert {p.name for p in run.iterdir()} == {"ckpt.pt", "best.pt", "loss_log.json", ".lock"}
    document = json.loads((run / "loss_log.json").read_text(encoding="utf-8"))
    assert document["config"]["n_embd"] == 32 and document["unigram_entropy"] > 0 and document["hardware"]


def test_the_plan_is_printed(book, capsys):
    assert train.main([*TINY, "--max_steps=1"]) == 0
    out = capsys.readouterr().out
    for words in ("cpu", "float32", "embedding", "epochs", "tokens per parameter", "ln(vocab_size) = ", "n_embd=32"):
        assert words in out
    assert "step 0: validation loss" in out and "next: python -m tools.report run" in out


def test_the_figures_of_an_evaluation(run, home):
    """Bits per byte and per character, computed again from their definitions."""
    folder = home / "data" / "book" / "bpe400"
    ids = read_tokens(folder, read_meta(folder), "val").astype(np.int64)
    text_model = load("run", last=True)
    nats, text = 0.0, b""
    for start in range(0, len(ids) - 32, 32):
        window = torch.from_numpy(ids[start : start + 33])[None]
        with torch.no_grad():
            nats += text_model.model(window[:, :-1], window[:, 1:]).item() * 32
        text += b"".join(text_model.token_bytes[i] for i in window[0, 1:].tolist())
    last = records(home)[-1]
    assert last["val_loss"] == pytest.approx(nats / (len(ids) // 32 * 32), rel=1e-5)
    assert last["val_bpb"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
    assert last["val_bpc"] == pytest.approx(nats / math.log(2) / len(text.decode(errors="ignore")), rel=1e-3)


def test_the_learning_rate():
    config = Config(learning_rate=1.0, min_lr=0.1, warmup_steps=9, hold_steps=5, max_steps=100)
    rates = [train.get_lr(step, config) for step in range(101)]
    assert rates[:9] == pytest.approx([0.1 * (i + 1) for i in range(9)])
    assert rates[9:15] == [1.0] * 6
    assert all(a > b for a, b in itertools.pairwise(rates[14:]))
    assert rates[14 + 43] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert train.get_lr(5, Config(warmup_steps=10, max_steps=5)) > 0


def test_the_blocks_of_a_step_depend_on_seed_and_step_alone():
    offsets = train.batch_offsets(7, 3, 1000, 5, 50_000)
    assert (offsets == train.batch_offsets(7, 3, 1000, 5, 50_000)).all()
    for other in ((7, 4), (8, 3)):
        assert (offsets != train.batch_offsets(*other, 1000, 5, 50_000)).any()


@pytest.mark.parametrize(("batch_size", "block_size", "n_offsets"), [(7, 5, 203), (50, 5, 203), (4, 5, 3), (4, 5, 1)])
def test_the_blocks_of_an_epoch_hold_every_token_once(batch_size, block_size, n_offsets):
    n_blocks = max(1, n_offsets // block_size)
    steps = [train.batch_offsets(7, step, batch_size, block_size, n_offsets) for step in range(3 * n_blocks)]
    epochs = np.concatenate(steps)[: 3 * n_blocks].reshape(3, n_blocks)
    for epoch in epochs:
        assert (np.diff(np.sort(epoch)) == block_size).all() and epoch.min() >= 0 and epoch.max() < n_offsets
        assert epoch.min() <= n_offsets - n_blocks * block_size + block_size - 1
    if n_blocks > 1:
        assert len({epoch[0] % block_size for epoch in epochs}) > 1  # The next one cuts elsewhere,
        assert (np.argsort(epochs[0]) != np.argsort(epochs[1])).any()  # in another order.


def test_blocks_are_the_text_and_targets_are_one_ahead(book):
    config = Config(dataset="book", vocab_size=400, block_size=32)
    meta = read_meta(config.tokens_dir)
    tokens = Tokens(config, meta, "train", torch.device("cpu"))
    ids = read_tokens(config.tokens_dir, meta, "train")
    assert tokens.n_offsets == len(ids) - 32
    x, y = train.get_batch(tokens, np.array([0, 5, tokens.n_offsets - 1]))
    assert x.shape == y.shape == (3, 32)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert x[1].tolist() == ids[5:37].tolist() and y[2, -1] == ids[-1]


def test_accumulating_gradients_changes_nothing_but_memory(book):
    assert train.main([*TINY, "--run=whole"]) == 0
    assert train.main([*TINY, "--run=parts", "--micro_batch_size=1"]) == 0
    whole, parts = ([r["train_loss"] for r in records(book, run)[:20]] for run in ("whole", "parts"))
    assert whole == pytest.approx(parts, rel=1e-4)


def test_what_is_logged_and_evaluated_changes_nothing(book, run):
    assert train.main([*TINY, "--run=other", "--eval_interval=7", "--log_interval=3", "--eval_tokens=64"]) == 0
    assert same_weights(weights(book), weights(book, "other"))


def test_a_corpus_prepared_anew_under_a_run_changes_nothing(run, book, monkeypatch):
    batch_offsets = train.batch_offsets

    def call(seed, step, *sizes):
        if step == 5:
            assert prepare.main([*TINY, "--val_fraction=0.3"]) == 0
        return batch_offsets(seed, step, *sizes)

    monkeypatch.setattr(train, "batch_offsets", call)
    assert train.main([*TINY, "--run=other"]) == 0
    assert same_weights(weights(book), weights(book, "other"))


def test_the_groups_of_the_optimizer(book):
    assert train.main([*TINY, "--weight_decay=0", "--max_steps=1"]) == 0
    groups = torch.load(book / "out" / "run" / "ckpt.pt", weights_only=True)["optimizer"][0]["param_groups"]
    model = GPT(load_checkpoint(book / "out" / "run" / "ckpt.pt")["config"], 400)
    vectors = sum(p.dim() < 2 for p in model.parameters())
    assert [len(g["params"]) for g in groups] == [1, len(list(model.parameters())) - vectors - 1, 0, vectors]
    flags = ["--resume", "--weight_decay=0.5", "--embedding_lr=0.1", "--max_steps=2"]  # what is new counts
    assert train.main([*TINY, *flags]) == 0
    groups = torch.load(book / "out" / "run" / "ckpt.pt", weights_only=True)["optimizer"][0]["param_groups"]
    assert [g["weight_decay"] for g in groups] == [0.5, 0.5, 0.5, 0.0]
    assert [g["lr"] / groups[1]["lr"] for g in groups] == pytest.approx([10, 1, 1, 1])


def test_averaged_weights(book, fails_at):
    """An age of half the run is the mean of the weights after each step."""
    flags = [*TINY, "--eval_interval=1", "--max_steps=4", "--averaging=0.5"]
    after = []
    for step in (1, 2, 3):
        fails_at(step, [*flags, "--resume"])
        after.append(load_checkpoint(book / "out" / "run" / "ckpt.pt")["weights"])
    assert train.main([*flags, "--resume"]) == 0
    checkpoint = load_checkpoint(book / "out" / "run" / "ckpt.pt")
    after.append(checkpoint["weights"])
    for name, mean in checkpoint["model"].items():
        assert torch.allclose(mean, torch.stack([weights[name] for weights in after]).mean(dim=0), atol=1e-6)
    # They are what is evaluated, kept as the best, and sampled; training goes on from the others.
    assert train.main([*flags, "--run=whole"]) == 0
    assert same_weights(weights(book), weights(book, "whole"))
    assert train.main([*flags, "--run=plain", "--averaging=0"]) == 0
    assert same_weights(checkpoint["weights"], weights(book, "plain"))
    assert records(book)[-1]["val_loss"] != records(book, "plain")[-1]["val_loss"]
    best = load_checkpoint(book / "out" / "run" / "best.pt")
    assert same_weights(best["model"], checkpoint["model"])


def test_gradients_are_clipped(book):
    assert train.main([*TINY, "--run=free", "--grad_clip=0"]) == 0
    assert train.main([*TINY, "--run=tight", "--grad_clip=1e-9"]) == 0
    free, tight = records(book, "free"), records(book, "tight")
    assert free[0]["grad_norm"] == tight[0]["grad_norm"] > 0.1  # the norm before clipping
    assert free[19]["train_loss"] < tight[19]["train_loss"] - 1  # far below the epsilon of AdamW nothing moves


@pytest.mark.parametrize(
    "flags",
    [
        ["--dtype=bfloat16"],
        ["--dtype=float16"],
        ["--dropout=0.1"],
        ["--compile=on", "--n_layer=1"],
        ["--optimizer=muon"],
        ["--optimizer=muon", "--dtype=float16"],
    ],
)
def test_other_arithmetic_learns_too(book, flags, capsys):
    assert train.main([*TINY, *flags]) == 0
    assert ("compiled in" in capsys.readouterr().out) == ("--compile=on" in flags)
    log = records(book)
    assert log[20]["val_loss"] < log[0]["val_loss"] - 1
    assert all(p.dtype == torch.float32 for p in weights(book).values())


def test_a_compiler_that_fails_is_no_obstacle(book, monkeypatch, capsys):
    def broken(model, mode):
        def call(*_):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    assert train.main([*TINY, "--compile=on"]) == 0
    assert "torch.compile failed" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(book, monkeypatch, capfd, number):
    at_step(monkeypatch, 7, lambda: os.kill(os.getpid(), number))
    assert train.main(TINY) == 128 + number
    out, err = capfd.readouterr()
    assert err == "\nstopping after this step; once more to stop at once\n"
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt")["step"] == 8
    assert "saved step 8; go on with: python train.py" in out
    assert [r["step"] for r in records(book)] == list(range(8))


def test_resuming(book, run, capsys, fails):
    finished, whole = (run / "loss_log.json").read_text(encoding="utf-8"), weights(book)
    assert train.main([*TINY, "--resume"]) == 0
    assert "resumed" in capsys.readouterr().out
    assert (run / "loss_log.json").read_text(encoding="utf-8") == finished
    assert train.main([*TINY, "--resume", "--max_steps=25"]) == 0
    assert [r["step"] for r in records(book)] == list(range(26))
    assert train.main([*TINY, "--resume", "--run=new"]) == 0  # nothing to resume: starts afresh
    assert same_weights(weights(book, "new"), whole)
    assert "n_embd 32, the config says 64" in fails(train.main, [*TINY, "--resume", "--n_embd=64"])
    assert "block_size" in fails(train.main, [*TINY, "--resume", "--block_size=16"])
    assert "optimizer adamw, the config says muon" in fails(train.main, [*TINY, "--resume", "--optimizer=muon"])


def test_a_checkpoint_that_was_resumed_from_is_let_go(run, monkeypatch):
    """Its weights would take memory beside those of the model for the whole run."""
    loaded, alive = [], []

    def load(*args, **kwargs):
        checkpoint = load_checkpoint(*args, **kwargs)
        loaded.extend(weakref.ref(tensor) for tensor in checkpoint["model"].values())
        return checkpoint

    monkeypatch.setattr("lib.run.start.load_checkpoint", load)
    at_step(monkeypatch, 20, lambda: alive.extend(tensor() is not None for tensor in loaded))
    assert train.main([*TINY, "--resume", "--max_steps=21"]) == 0
    assert len(alive) > 10 and not any(alive)


def test_the_tokens_in_the_log_are_those_really_seen(book, fails_at):
    """The batch size changes twice; the second run goes on from steps that have no record."""
    fails_at(15, [*TINY, "--log_interval=1000"])
    assert train.main([*TINY, "--resume", "--batch_size=8"]) == 0
    log = records(book)
    assert [(r["step"], r["tokens"] // 32) for r in log] == [(0, 0), *((s, 40 + 8 * (s - 10)) for s in range(10, 21))]
    path = book / "out" / "run" / "ckpt.pt"
    checkpoint = torch.load(path, weights_only=True)
    assert train.main([*TINY, "--resume", "--max_steps=21"]) == 0
    assert records(book)[-1]["tokens"] == (40 + 8 * 10 + 4) * 32 == load_checkpoint(path)["tokens"]
    del checkpoint["tokens"]  # as older versions wrote it
    torch.save(checkpoint, path)
    assert train.main([*TINY, "--resume", "--max_steps=21"]) == 0
    assert records(book)[-1]["tokens"] == (20 * 8 + 4) * 32


def test_a_jump_of_the_learning_rate_is_told_with_the_flags_that_avoid_it(run, home, capsys):
    def group_rates(folder):
        groups = torch.load(folder / "ckpt.pt", weights_only=True)["optimizer"][0]["param_groups"]
        return [group["lr"] for group in groups]

    shutil.copytree(run, run.parent / "smooth")
    longer = [*TINY, "--resume", "--max_steps=40"]
    before = group_rates(run)
    assert train.main(longer) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "learning rate jumps" in line)
    assert "from 0.001 to 0.0065 at step 20" in line and records(home)[20]["lr"] == 1e-3
    assert records(home)[21]["lr"] > 5e-3
    flags = line.split("smoothly: ")[1].split()
    assert train.main([*longer, *flags, "--run=smooth"]) == 0
    assert "jumps" not in capsys.readouterr().out
    assert {r["lr"] for r in records(home, "smooth")[20:]} == {1e-3}
    assert group_rates(run.parent / "smooth") == pytest.approx(before)
    to_zero = [*longer, *flags, "--run=smooth", "--min_lr=0"]
    assert train.main([*to_zero, "--max_steps=50"]) == 0
    capsys.readouterr()
    shutil.copytree(run.parent / "smooth", run.parent / "gentle")
    assert train.main([*to_zero, "--max_steps=60"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "learning rate jumps from 0 to" in line)
    assert "--learning_rate=0.0001 --embedding_lr=0.0001" in line
    gentle = line.split("gentler: ")[1].split()
    assert train.main([*to_zero, "--max_steps=60", *gentle, "--run=gentle"]) == 0
    assert "jumps" not in capsys.readouterr().out


def test_a_run_resumed_on_other_text_is_told_how_to_begin_a_new_one(run, home, capsys):
    assert prepare.main([*TINY, "--val_fraction=0.3"]) == 0
    assert train.main([*TINY, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "the training tokens are not those" in out and "--init_from=run --run=NAME to train.py" in out
    assert prepare.main([*TINY, "--init_from=run"]) == 0
    assert train.main([*TINY, "--init_from=run", "--run=new"]) == 0
    assert records(home, "new")[0]["val_loss"] < records(home)[0]["val_loss"] - 1


# --- early stopping

# The learning rate ruins what was learned: the loss at step 4 is the best.
RUINOUS = [*TINY, "--max_steps=40", "--eval_interval=2", "--hold_steps=35", "--weight_decay=0", "--learning_rate=3"]


def test_patience_ends_a_run(book, capsys):
    assert train.main([*RUINOUS, "--patience=3"]) == 0
    out = capsys.readouterr().out
    losses = [r["val_loss"] for r in records(book) if "val_loss" in r]
    best = losses.index(min(losses))
    assert len(losses) == best + 4 < 21 and all(min(losses) <= loss for loss in losses[best:])
    end = 2 * (best + 3)
    assert f"ended at step {end}: 3 evaluations brought no better validation loss" in out and "next: " in out
    assert load_checkpoint(book / "out" / "run" / "best.pt")["step"] == 2 * best
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt")["step"] == end


def test_patience_survives_resuming(book, capsys, fails_at):
    assert train.main([*RUINOUS, "--run=whole"]) == 0
    assert train.main([*RUINOUS, "--patience=3"]) == 0
    ended = records(book)
    fails_at(ended[-1]["step"] - 1, [*RUINOUS, "--patience=3", "--run=parts"])
    for _ in range(2):  # The second time there is nothing to do.
        capsys.readouterr()
        assert train.main([*RUINOUS, "--patience=3", "--run=parts", "--resume"]) == 0
        assert without_times(records(book, "parts")) == without_times(ended)
        assert "3 evaluations brought no better" in capsys.readouterr().out
    assert train.main([*RUINOUS, "--run=parts", "--resume", "--patience=0"]) == 0
    assert same_weights(weights(book, "parts"), weights(book, "whole"))
    assert without_times(records(book, "parts")) == without_times(records(book, "whole"))


@pytest.mark.parametrize("flags", [["--tie_embeddings=False"], ["--dtype=bfloat16"], ["--dtype=float16"]], ids=str)
def test_muon_goes_on_exactly(book, fails_at, flags):
    flags = [*TINY, "--optimizer=muon", *flags]
    assert train.main([*flags, "--run=whole"]) == 0
    fails_at(15, flags)
    assert train.main([*flags, "--resume"]) == 0
    assert same_weights(weights(book), weights(book, "whole"))


def test_muon_makes_the_update_of_each_part_orthogonal():
    """The step of each head, of gate, of up and of the projections, beside the same by singular value decomposition."""
    config = Config(n_layer=1, n_embd=32, n_head=4, optimizer="muon", weight_decay=0.1, learning_rate=0.5)
    torch.manual_seed(0)
    model = GPT(config, 300)
    before, optimizer = copy.deepcopy(model), train.make_optimizer(model, config, pick_precision("float32", CPU))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    idx = torch.randint(300, (4, 17))
    model(idx[:, :-1], idx[:, 1:]).backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    optimizer.step()
    for name, rows in {"attn.qkv": 8, "attn.proj": 32, "mlp.gate_up": 128, "mlp.proj": 32}.items():
        name = f"blocks.0.{name}.weight"
        old, new = (dict(m.named_parameters())[name].detach() for m in (before, model))
        update = (0.95 * old - new) / 0.5  # without the decay, 0.5 * 0.1
        for part, gradient in zip(update.split(rows), gradients[name].split(rows), strict=True):
            part = part / (0.2 * max(part.shape) ** 0.5)
            u, s, v = torch.linalg.svd(gradient, full_matrices=False)
            large = s > 0.02 * s.norm()  # The smallest directions need more steps than five.
            stretched = (u.T @ part @ v.T)[large][:, large]
            assert torch.allclose(stretched, torch.eye(len(stretched)), atol=0.15)
            assert torch.linalg.matrix_norm(part, 2) < 1.2
    embedding = model.embedding.weight - before.embedding.weight
    assert embedding[idx[:, :-1].unique()].abs().min() > 0.9 * config.embedding_lr  # AdamW's first step, of one size


def test_an_overflow_in_float16_skips_the_step_of_muon_and_of_adamw():
    config = Config(n_layer=1, n_embd=32, n_head=4, optimizer="muon")
    model, scaler = GPT(config, 300), torch.amp.GradScaler("cpu")
    before, optimizer = copy.deepcopy(model), train.make_optimizer(model, config, pick_precision("float16", CPU))
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    idx = torch.zeros(1, 4, dtype=torch.int64)
    scaler.scale(model(idx, idx)).backward()
    model.blocks[0].mlp.proj.weight.grad[0, 0] = math.inf
    scaler.step(optimizer)
    assert same_weights(model.state_dict(), before.state_dict()) and not optimizer.state
    scaler.update()
    optimizer.zero_grad()
    scaler.scale(model(idx, idx)).backward()
    scaler.step(optimizer)
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert all(changed)


def test_an_existing_run_is_refused(run, fails):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    error = fails(train.main, TINY)
    assert "--resume" in error and "--run" in error and "--overwrite" in error
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    assert train.main([*TINY, "--overwrite", "--max_steps=3"]) == 0
    assert [r["step"] for r in records(run.parent.parent)] == [0, 1, 2, 3]
    assert load_checkpoint(run / "best.pt")["step"] <= 3


def test_best_is_the_best_and_not_the_last(book):
    """With a learning rate that ruins what was learned, best.pt keeps the good weights."""
    assert train.main([*TINY, "--max_steps=40"]) == 0
    ruin = ["--resume", "--max_steps=60", "--learning_rate=3", "--min_lr=3", "--warmup_steps=0"]
    assert train.main([*TINY, *ruin]) == 0
    log = {r["step"]: r["val_loss"] for r in records(book) if "val_loss" in r}
    best = min(log, key=log.get)
    checkpoint = load_checkpoint(book / "out" / "run" / "best.pt")
    assert checkpoint["step"] == best <= 40 and checkpoint["val_loss"] == log[best]
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt")["step"] == 60


@pytest.mark.parametrize("flags", [[], ["--dtype=float16"], ["--log_interval=1000"]])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(book, fails, monkeypatch, flags):
    """The weights are poisoned from inside, at step 15, between two evaluations."""
    models, batch_offsets = [], train.batch_offsets

    def new_model(*args):
        models.append(GPT(*args))
        return models[-1]

    def poison(seed, step, *rest):
        if step == 15:
            models[0].norm.weight.data.fill_(math.inf)
        return batch_offsets(seed, step, *rest)

    monkeypatch.setattr(train, "GPT", new_model)
    monkeypatch.setattr(train, "batch_offsets", poison)
    error = fails(train.main, [*TINY, *flags])
    assert "no longer finite" in error and "learning_rate" in error
    checkpoint = load_checkpoint(book / "out" / "run" / "ckpt.pt")
    assert checkpoint["step"] == 10 and all(p.isfinite().all() for p in checkpoint["model"].values())


def test_a_learning_rate_that_diverges(book, fails):
    flags = ["--learning_rate=1e30", "--warmup_steps=0", "--grad_clip=0"]
    assert "no longer finite" in fails(train.main, [*TINY, *flags])
    assert all(p.isfinite().all() for p in weights(book).values())


def test_bad_data(book, fails):
    folder = book / "data" / "book" / "bpe400"
    meta, train_bin = (folder / "meta.json").read_text(encoding="utf-8"), (folder / "train.bin").read_bytes()

    assert "a block needs 1,000,001" in fails(train.main, [*TINY, "--block_size=1000000"])
    assert "val.bin" in fails(train.main, [*TINY, "--block_size=2000"])
    assert "train_tokenizer.py" in fails(train.main, [*TINY, "--vocab_size=300"])
    (folder / "train.bin").write_bytes(train_bin[:-2])
    assert "train.bin" in fails(train.main, TINY)
    (folder / "train.bin").unlink()
    assert "train.bin" in fails(train.main, TINY)
    (folder / "train.bin").write_bytes(b"\xff\x7f" * (len(train_bin) // 2))
    assert "token id 32767 is outside" in fails(train.main, [*TINY, "--overwrite"])
    (folder / "train.bin").write_bytes(train_bin)
    for damaged in ("", "{", "[]", "{}", meta.replace("uint16", "uint8"), meta.replace('"tokens":', '"token":')):
        (folder / "meta.json").write_text(damaged, encoding="utf-8")
        assert "prepare.py" in fails(train.main, [*TINY, "--run=other"])
    (folder / "meta.json").unlink()
    assert "prepare.py" in fails(train.main, [*TINY, "--run=other"])
    (folder / "meta.json").write_text(meta, encoding="utf-8")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert "tokenizer.json has changed" in fails(train.main, [*TINY, "--run=other"])
    assert not (book / "out" / "other").exists()


def test_another_tokenizer_than_the_checkpoint(book, run, fails):
    argv = [*TINY, "--min_frequency=50"]
    assert train_tokenizer.main(argv) == 0 and prepare.main(argv) == 0
    error = fails(train.main, [*TINY, "--resume"])
    assert "another tokenizer" in error and "--init_from=run to prepare.py" in error


def test_a_damaged_checkpoint_is_not_resumed(run, fails):
    data = (run / "ckpt.pt").read_bytes()
    for content in (b"", data[:1000], data[:-1]):
        (run / "ckpt.pt").write_bytes(content)
        assert "ckpt.pt" in fails(train.main, [*TINY, "--resume"])
    (run / "ckpt.pt").write_bytes((run / "best.pt").read_bytes())
    assert "it lacks" in fails(train.main, [*TINY, "--resume"])


def test_an_output_folder_that_cannot_be_written(book, fails):
    (book / "out").write_text("a file is in the way", encoding="utf-8")
    assert "out" in fails(train.main, TINY)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc and a Unix resource limit")
def test_out_of_memory_says_what_to_lower(book, fails):
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 29), before[1]))
    try:
        error = fails(train.main, [*TINY, "--batch_size=25000"])  # whose logits alone take 1.3 GB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert error.startswith("error: out of memory: lower micro_batch_size")


def test_tensorboard_shows_the_log(book):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = [*TINY, "--tensorboard"]
    assert train.main(flags) == 0
    assert train.main([*flags, "--max_steps=30", "--resume"]) == 0  # nothing is shown twice
    board = EventAccumulator(str(book / "out" / "run" / "tensorboard"))
    board.Reload()
    for name in ("train_loss", "val_loss", "lr", "grad_norm", "val_bpc"):
        shown = [(event.step, pytest.approx(event.value, rel=1e-5)) for event in board.Scalars(name)]
        assert [(r["step"], r[name]) for r in records(book) if name in r] == shown


def test_the_model_writes_at_each_evaluation(book, monkeypatch, fails_at):
    monkeypatch.setattr(train, "SAMPLE_TOKENS", 20)
    flags = [*TINY, "--prompts=曹操|", "--run=whole"]
    assert train.main(flags) == 0
    log = records(book, "whole")
    assert [r["step"] for r in log if "samples" in r] == [0, 10, 20]
    first, line = log[0]["samples"]
    assert first == "曹操" and line and (book / "data" / "book" / "corpus.txt").read_text(encoding="utf-8").count(line)
    page = (book / "out" / "whole" / "samples.md").read_text(encoding="utf-8")
    assert re.findall("^## Step ([0-9]+)", page, re.M) == ["0", "10", "20"]
    for record in log[::10]:
        assert f"    曹操{record['samples']['曹操']}".replace("\n", "\n    ") in page
    assert train.main([*TINY, "--run=mute"]) == 0
    assert same_weights(weights(book, "whole"), weights(book, "mute"))  # to write costs the run nothing but time
    assert not (book / "out" / "mute" / "samples.md").exists()
    parts = [*flags[:-1], "--run=parts"]
    fails_at(15, parts)
    assert train.main([*parts, "--resume"]) == 0
    assert without_times(records(book, "parts")) == without_times(log)
    assert (book / "out" / "parts" / "samples.md").read_text(encoding="utf-8") == page


# --- on a GPU


class Reads(TorchDispatchMode):
    """Counts how often a number is read from a tensor, for which a GPU would be waited for."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    "flags", [[], ["--micro_batch_size=2"], ["--dtype=bfloat16", "--dropout=0.1"], ["--optimizer=muon"]], ids=str
)
def test_no_step_makes_a_gpu_wait(book, monkeypatch, flags):
    reads = []
    train_step = train.train_step

    def counted(*args, **kwargs):
        with Reads() as mode:
            result = train_step(*args, **kwargs)
        reads.append(mode.n)
        return result

    monkeypatch.setattr(train, "train_step", counted)
    assert train.main([*TINY, "--max_steps=3", *flags]) == 0
    assert reads == [0, 0, 0]


@pytest.mark.gpu
def test_a_cuda_run_equals_a_cpu_run(book):
    for device in ("cpu", "cuda"):
        assert train.main([*TINY, f"--device={device}", f"--run={device}", "--dtype=float32", "--compile=off"]) == 0
    assert train.main([*TINY, "--device=cuda", "--run=bf16", "--dtype=bfloat16", "--compile=off"]) == 0
    assert train.main([*TINY, "--device=cuda", "--run=fp16", "--dtype=float16", "--compile=off"]) == 0
    cpu, cuda, bf16, fp16 = ([r["train_loss"] for r in records(book, r)[:20]] for r in ("cpu", "cuda", "bf16", "fp16"))
    assert cuda == pytest.approx(cpu, rel=0.01)
    assert bf16 == pytest.approx(cpu, rel=0.05)
    assert fp16 == pytest.approx(cpu, rel=0.05)


@pytest.mark.gpu
def test_resuming_on_cuda(book, fails_at):
    flags = [*TINY, "--device=cuda", "--eval_interval=5"]
    assert train.main([*flags, "--run=whole"]) == 0
    fails_at(12, flags)
    assert train.main([*flags, "--resume"]) == 0
    assert records(book)[-1]["val_loss"] == pytest.approx(records(book, "whole")[-1]["val_loss"], rel=0.05)


@pytest.mark.gpu
def test_compiled_with_cuda_graphs(book):
    flags = [*TINY, "--device=cuda", "--max_steps=200", "--dtype=bfloat16", "--eval_interval=200"]
    for mode in ("off", "on"):
        assert train.main([*flags, f"--compile={mode}", f"--run={mode}"]) == 0
    eager, compiled = ([r["train_loss"] for r in records(book, run)[:200]] for run in ("off", "on"))
    assert compiled == pytest.approx(eager, rel=0.05)


@pytest.mark.gpu
def test_the_same_seed_on_cuda(run):
    text_model = load("run", device="cuda")
    first, again = (text_model.generate("曹操", 100, seed=1, ignore_eos=True) for _ in range(2))
    assert first == again


@pytest.mark.gpu
def test_cached_generation_on_cuda(run):
    torch.set_float32_matmul_precision("highest")  # Rounded as train.py lets them be, the two would differ.
    model = load("run", device="cuda").model
    idx = torch.randint(4, 300, (2, 5), device="cuda")
    tokens = stream(model, idx, 60, Sampling(temperature=0))
    assert torch.equal(model.generate(idx, 60, temperature=0)[:, 5:].cpu(), torch.stack(list(tokens), dim=1))
