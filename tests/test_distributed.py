"""Several processes, started by torchrun on the CPU, do what one process does."""

from errors import UserError

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import TINY
from crash import read_run, same

import config
import train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="torchrun needs the signals of Unix")

FLAGS = [*TINY, "--batch_size=8", "--max_steps=50"]


def torchrun(home, processes, *words, options=()):
    """Run the copy of train.py in a home folder; returns (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [*options, "--", "train.py", *FLAGS, *words]  # after --, torchrun does not take --run for its --run_path
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=120)
    return result.returncode, result.stdout, result.stderr


def at_step(home, wanted, code):
    """Have the copy of train.py run a line of code when process 1 comes to the step (-1: at once)."""
    script = (home / "train.py").read_text(encoding="utf-8")
    script, main = script.split('if __name__ == "__main__":')
    script += f"""
import config as settings
attempt, starts = os.environ["TORCHELASTIC_RESTART_COUNT"], block_starts
def block_starts(seed, step, *sizes):
    if RANK == 1 and step >= {wanted}:
        {code}
    return starts(seed, step, *sizes)
if {wanted} < 0 and RANK == 1:
    {code}
"""
    (home / "train.py").write_text(f'{script}if __name__ == "__main__":{main}', encoding="utf-8")


def records(home, run):
    return json.loads((home / "out" / run / "loss_log.json").read_text(encoding="utf-8"))["records"]


def assert_same_curve(a, b):
    assert [r["step"] for r in a] == [r["step"] for r in b] == list(range(51))
    for key in ("train_loss", "val_loss", "val_bpc"):
        assert [r[key] for r in a if key in r] == pytest.approx([r[key] for r in b if key in r], abs=1e-4)


@pytest.fixture
def alone(clone, monkeypatch):
    """The home folder `clone`, with out/alone, the run of a single process."""
    monkeypatch.setattr(config, "ROOT", clone)
    assert train.main([*FLAGS, "--run=alone"]) == 0
    return clone


def test_the_same_curve_on_any_number_of_processes(alone):
    for processes, micro_batch_size in ((2, 0), (4, 1)):
        run = f"run{processes}{micro_batch_size}"
        code, out, err = torchrun(alone, processes, f"--micro_batch_size={micro_batch_size}", f"--run={run}")
        assert (code, err) == (0, "")
        assert out.count("baselines") == out.count("step 50:") == out.count("done in") == 1  # process 0 alone prints
        assert f"eager, {processes} processes" in out
        assert_same_curve(records(alone, run), records(alone, "alone"))
        log = json.loads((alone / "out" / run / "loss_log.json").read_text(encoding="utf-8"))
        assert log["hardware"]["processes"] == processes


def test_resuming_on_more_processes(alone, fails_at):
    fails_at(25, FLAGS)
    code, out, err = torchrun(alone, 2, "--resume")
    assert (code, err) == (0, "") and out.count("at step 20\n") == 1
    assert_same_curve(records(alone, "run"), records(alone, "alone"))


def test_a_signal_saves_and_stops_and_fewer_processes_go_on(alone):
    """Of the four signals two come by way of torchrun, and a second one must not end what the first one began."""
    code = f"time.sleep(0.05); [os.kill(i, {signal.SIGTERM:d}) for i in (os.getpid(), os.getppid()) if step == 20]"
    at_step(alone, 20, code)
    code, out, err = torchrun(alone, 2)
    assert code and out.count("saved step") == 1 and "error: " not in err, err
    step = read_run(alone / "out" / "run")["ckpt.pt"]["step"]
    assert step > 20 and f"saved step {step}; go on with: torchrun" in out
    assert train.main([*FLAGS, "--resume"]) == 0
    assert_same_curve(records(alone, "run"), records(alone, "alone"))


def test_a_killed_process_is_started_again_and_goes_on(clone):
    """The restart resumes, although it is the command that was to overwrite; the end is the same, bit for bit."""
    assert torchrun(clone, 2, "--dropout=0.1", "--run=whole")[0] == 0
    shutil.copytree(clone / "out" / "whole", clone / "out" / "run")
    at_step(clone, 25, f'if attempt == "0": os.kill(os.getpid(), {signal.SIGKILL:d})')
    code, out, err = torchrun(clone, 2, "--dropout=0.1", "--overwrite", options=["--max_restarts=3"])
    assert code == 0 and out.count("resumed") == 1 and "at step 20\n" in out, err
    assert err.count("error: ") == err.count("the connection to another process broke off") == 1
    whole, killed = (read_run(clone / "out" / run) for run in ("whole", "run"))
    assert same(whole, killed)


def test_a_restart_does_not_go_on_with_a_run_that_was_refused(alone):
    (alone / "out" / "alone").rename(alone / "out" / "run")
    before = read_run(alone / "out" / "run")
    code, out, err = torchrun(alone, 2, "--learning_rate=0.5", options=["--max_restarts=1"])
    assert code and err.count("exists; --resume goes on with it") == 2 and "resumed" not in out
    assert same(read_run(alone / "out" / "run"), before)


@pytest.mark.parametrize(
    ("words", "step", "code", "message"),
    [
        (["--n_embed=3"], 99, "pass", "error: unknown flag --n_embed, did you mean n_embd?"),
        ([], 15, 'raise UserError("only here")', "error: only here\n"),
        ([], 15, 'raise ValueError("a bug")', "ValueError: a bug\n"),
        (["--resume"], -1, 'settings.ROOT /= "other"', "has first step 0, process 0 on"),  # out/ is not shared
    ],
)
def test_an_error_is_reported_once(alone, words, step, code, message):
    if words == ["--resume"]:
        (alone / "out" / "alone").rename(alone / "out" / "run")
        (alone / "other").mkdir()
        (alone / "other" / "data").symlink_to(alone / "data")
    at_step(alone, step, code)
    code, _, err = torchrun(alone, 2, *words)
    assert code == 1 and err.count(message) == 1, err
    assert err.count("error: ") == ("error: " in message or "process" in message), err
    assert err.count("Traceback") == 1 + ("ValueError" in message), err  # one is torchrun's own


def test_the_batch_is_shared_evenly(home, fails, monkeypatch):
    for processes, micro, size, sizes in ((3, 0, 64, "63 and 66 do"), (8, 0, 4, "8 does"), (3, 16, 32, "15 and 48 do")):
        monkeypatch.setattr(train, "PROCESSES", processes)
        error = fails(train.main, [f"--batch_size={size}", f"--micro_batch_size={micro}"])
        assert f"batch_size: {size} does not divide evenly among {processes} processes" in error and sizes in error
    for processes, micro, share in itertools.product((1, 2, 5), (0, 1, 4), (4, 12)):
        monkeypatch.setattr(train, "PROCESSES", processes)
        settings = config.Config(batch_size=share * processes, micro_batch_size=micro)
        assert train.share_of_step(settings) == (share, micro or share)


def test_a_gpu_for_each_process(monkeypatch):
    monkeypatch.setattr(train, "TORCHRUN", True)
    monkeypatch.setattr(train, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [train.own_device(name) for name in ("cpu", "cuda")] == [torch.device("cpu"), torch.device("cuda:1")]
    with pytest.raises(UserError, match="--device=cpu"):
        train.own_device("mps")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="has 2 GPUs for 4 processes; use --nproc_per_node=2"):
        train.own_device("cuda")
