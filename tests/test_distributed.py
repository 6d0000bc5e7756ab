"""Several processes on the CPU do what one process does.

Most tests fork their processes, which saves the import of torch in each. One starts the real torchrun.
"""

import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback

import pytest
import torch

import config
import train
from lib.errors import UserError
from lib.machine import device, distributed
from model import GPT
from tests.conftest import TINY, at_step
from tests.crash import read_run, same

pytestmark = pytest.mark.skipif(os.name == "nt", reason="torchrun needs the signals of Unix")

# At a high learning rate what two orders of adding differ by can grow a thousandfold.
FLAGS = [*TINY, "--batch_size=8", "--max_steps=50", "--device=cpu", "--learning_rate=2e-3"]


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Run train.main in several forked processes, with the environment that torchrun gives them.

    Returns the exit code, stdout and stderr of each.
    """

    def child(rank, world_size, argv, restarts, port):
        signal.alarm(120)  # It ends the process if it hangs.
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # It is not after a fork.
        monkeypatch.setattr(distributed, "is_torchrun", True)
        monkeypatch.setattr(distributed, "rank", rank)
        monkeypatch.setattr(distributed, "world_size", world_size)
        monkeypatch.setattr(distributed, "is_main", rank == 0)
        numbers = {"RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": restarts}
        os.environ |= {name: str(number) for name, number in numbers.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "TOKENIZERS_PARALLELISM": "false"}  # or it warns of the fork
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(tmp_path / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", 1, encoding="utf-8", closefd=False))
        return train.main(argv)

    def call(world_size, *words, restarts=0):
        # The store, in place of torchrun's, begins after the forks, since a fork would copy the locks of its thread.
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        children = []
        for rank in range(world_size):
            if pid := os.fork():
                children.append(pid)
                continue
            code = 99  # of a traceback
            try:
                code = child(rank, world_size, [*FLAGS, *words], restarts, port)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _store = torch.distributed.TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        texts = (
            [(tmp_path / f"{name}{rank}").read_text(encoding="utf-8") for name in ("stdout", "stderr")]
            for rank in range(world_size)
        )
        return [(code, *text) for code, text in zip(codes, texts, strict=True)]

    return call


def records(home, run="run"):
    return json.loads((home / "out" / run / "loss_log.json").read_text(encoding="utf-8"))["records"]


def assert_same_curve(a, b):
    assert [r["step"] for r in a] == [r["step"] for r in b] == list(range(51))
    for key in ("train_loss", "val_loss", "val_bpc"):
        assert [r[key] for r in a if key in r] == pytest.approx([r[key] for r in b if key in r], abs=1e-4)


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    """A home folder with out/alone, the run of a single process."""
    home = tmp_path_factory.mktemp("alone") / "home"
    shutil.copytree(prepared, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", home)
        assert train.main([*FLAGS, "--run=alone"]) == 0
    return home


def test_two_processes_give_the_curve_of_one(book, alone, processes):
    main, other = processes(2)
    assert (main[0], main[2]) == (0, "") and other == (0, "", "")  # process 0 alone prints
    assert main[1].count("baselines") == main[1].count("step 50:") == main[1].count("done in") == 1
    assert "eager, 2 processes" in main[1]
    assert_same_curve(records(book), records(alone, "alone"))
    log = json.loads((book / "out" / "run" / "loss_log.json").read_text(encoding="utf-8"))
    assert log["hardware"]["processes"] == 2


def test_muon_gives_the_curve_of_one_process_too(book, processes):
    for n_processes in (1, 2):
        assert not any(code for code, *_ in processes(n_processes, f"--run={n_processes}", "--optimizer=muon"))
    assert_same_curve(records(book, "1"), records(book, "2"))


def test_each_resume_may_have_another_number_of_processes(book, alone, processes, fails_at, monkeypatch):
    """One process, then four in small passes, then one again."""

    def enough():
        raise UserError("enough")

    fails_at(15, FLAGS)
    with monkeypatch.context() as patch:
        at_step(patch, 35, enough)
        results = processes(4, "--resume", "--micro_batch_size=1")
    assert [(code, err) for code, _, err in results] == [(1, "error: enough\n")] * 4
    assert results[0][1].count("at step 10\n") == 1
    assert train.main([*FLAGS, "--resume"]) == 0
    assert_same_curve(records(book), records(alone, "alone"))


def test_patience_ends_all_processes_at_one_step(book, processes):
    flags = ["--eval_interval=2", "--patience=2", "--learning_rate=3", "--hold_steps=45", "--weight_decay=0"]
    main, other = processes(2, *flags)
    assert (main[0], main[2]) == (0, "") and other == (0, "", "")
    step = read_run(book / "out" / "run")["ckpt.pt"]["step"]
    assert f"ended at step {step}: 2 evaluations brought no better" in main[1] and step < 50
    main, other = processes(2, *flags, "--resume")
    assert main[0] == other[0] == 0 and f"ended at step {step}: 2" in main[1]


def test_a_restart_does_not_go_on_with_a_run_that_was_refused(book, alone, processes):
    shutil.copytree(alone / "out" / "alone", book / "out" / "run")
    before = read_run(book / "out" / "run")
    for code, out, err in processes(2, "--learning_rate=0.5", restarts=1):
        assert code == 1 and "exists; --resume goes on with it" in err and "resumed" not in out
    assert same(read_run(book / "out" / "run"), before)


@pytest.mark.parametrize(
    ("error", "last"), [(UserError("only here"), "error: only here"), (ValueError("a bug"), "ValueError: a bug")]
)
def test_an_error_in_one_process_ends_all(book, processes, monkeypatch, error, last):
    def fail():
        if distributed.rank == 1:
            raise error

    at_step(monkeypatch, 15, fail)
    main, other = processes(2)
    assert other[0] == (1 if "error: " in last else 99) and other[2].splitlines()[-1] == last
    assert other[2].count("\n") == 1 or "Traceback" in other[2]
    assert main[0] == 1 and main[2].splitlines()[-1].startswith("error: the connection to another process broke off")
    assert "Traceback" not in main[2]
    assert read_run(book / "out" / "run")["ckpt.pt"]["step"] == 10


def test_processes_that_see_other_files_are_refused(book, alone, processes, monkeypatch):
    """As on two machines without a shared disk."""
    shutil.copytree(alone / "out" / "alone", book / "out" / "run")
    (book / "other").mkdir()
    (book / "other" / "data").symlink_to(book / "data")
    join = distributed.join

    def elsewhere():
        if distributed.rank == 1:
            monkeypatch.setattr(config, "ROOT", book / "other")
        return join()

    monkeypatch.setattr(distributed, "join", elsewhere)
    for code, _, err in processes(2, "--resume"):
        assert code == 1 and err.count("\n") == 1
        assert "error: process 1 on" in err and "has first step 0, process 0 on" in err and "has 50" in err


def test_killed_and_stopped_under_torchrun(clone, processes, monkeypatch):
    """A process is killed at step 25, and started again by torchrun. Then the run is stopped, and resumed.

    The restart resumes, although the command is one that overwrites. Of the four signals two come by way of torchrun,
    and a second one must not end what the first one began. The end is that of a run which nothing disturbed, bit for
    bit.
    """
    monkeypatch.setattr(config, "ROOT", clone)
    flags = ["--dropout=0.1"]
    assert [code for code, *_ in processes(2, *flags, "--run=whole")] == [0, 0]
    shutil.copytree(clone / "out" / "whole", clone / "out" / "run")
    script = f"""
import os, time, train
attempt, batch_offsets = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), train.batch_offsets
def disturbed(seed, step, *sizes):
    if os.environ["RANK"] == "1" and (attempt, step) == (0, 25):
        os.kill(os.getpid(), {signal.SIGKILL:d})
    if os.environ["RANK"] == "1" and (attempt, step) == (1, 35):
        time.sleep(0.05)
        for pid in (os.getpid(), os.getppid()):
            os.kill(pid, {signal.SIGTERM:d})
    return batch_offsets(seed, step, *sizes)
train.batch_offsets = disturbed
train.distributed.end(train.main())
"""
    (clone / "disturbed.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=3"]
    command += ["--", "disturbed.py", *FLAGS, *flags, "--overwrite"]  # after --, as torchrun has a flag --run_path
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=120)
    out, err = result.stdout, result.stderr
    assert out.count("resumed") == 1 and "at step 20\n" in out
    assert err.count("error: ") == err.count("the connection to another process broke off") == 1, err
    step = read_run(clone / "out" / "run")["ckpt.pt"]["step"]
    assert result.returncode and out.count("saved step") == 1 and f"saved step {step}; go on with: torchrun" in out
    assert 35 < step < 50
    assert [code for code, *_ in processes(2, *flags, "--resume")] == [0, 0]
    assert same(*(read_run(clone / "out" / run) for run in ("whole", "run")))


def test_the_batch_is_shared_evenly(home, fails, monkeypatch):
    for world_size, micro, size, passes in ((3, 0, 64, ""), (8, 0, 4, ""), (3, 16, 32, " in passes of 16")):
        monkeypatch.setattr(distributed, "world_size", world_size)
        error = fails(train.main, [f"--batch_size={size}", f"--micro_batch_size={micro}"])
        assert f"batch_size: {size} does not divide evenly among {world_size} processes{passes}" in error
    for world_size, micro, share in itertools.product((1, 2, 5), (0, 1, 4), (4, 12)):
        monkeypatch.setattr(distributed, "world_size", world_size)
        settings = config.Config(batch_size=share * world_size, micro_batch_size=micro)
        assert distributed.micro_batch_size(settings) == (micro or share)


def test_a_gpu_for_each_process(monkeypatch, gpus):
    monkeypatch.setattr(distributed, "is_torchrun", True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    chosen = gpus(2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    pick = functools.partial(device.pick_device, make_model=GPT, config=config.Config(), dtype="float32")
    assert [pick(name).type for name in ("cpu", "cuda", "auto")] == ["cpu", "cuda", "cuda"]
    assert chosen == [torch.device("cuda:1")] * 2
    with pytest.raises(UserError, match="--device=cpu"):
        pick("mps")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="has 2 GPUs for 4 processes; use --nproc_per_node=2"):
        pick("cuda")
