"""train.py under torchrun: real processes on the CPU, which together make the steps of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, copy_scripts

from files import load_checkpoint

# Evaluating at every step makes steps long enough to be interrupted.
FLAGS = [*TINY, "--max_steps=50", "--eval_interval=1", "--learning_rate=1e-3", "--min_lr=1e-4"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"}


def start(home, processes, *flags, script="train.py", restarts=0):
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    launcher = [*torchrun, f"--max_restarts={restarts}", "--"] if processes else []
    command = [sys.executable, *launcher, script, *FLAGS, *flags]
    return subprocess.Popen(
        command, cwd=home, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def finish(process):
    """(exit code, stdout, the lines of stderr that report an error)."""
    out, err = process.communicate(timeout=120)
    assert 'errors.py", line' not in err, err  # no traceback of ours
    return process.returncode, out, [line for line in err.splitlines() if line.startswith("error: ")]


def train(home, processes, *flags):
    code, out, errors = finish(start(home, processes, *flags))
    assert code == 0, (out, errors)
    return out


def curve(home, run):
    records = json.loads((home / "out" / run / "loss_log.json").read_text(encoding="utf-8"))["records"]
    assert [r["step"] for r in records] == list(range(51))
    return [r[name] for r in records for name in ("train_loss", "val_loss", "grad_norm") if name in r]


def difference(home, one, other):
    return max(abs(a - b) for a, b in zip(curve(home, one), curve(home, other), strict=True))


def wait_for_checkpoint(home, run, process):
    path = home / "out" / run / "ckpt.pt"
    while not path.exists() or load_checkpoint(path)["step"] < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def worker(torchrun, rank):
    """The process id of one of torchrun's processes."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    return next(
        int(p) for p in children if f"RANK={rank}".encode() in Path(f"/proc/{p}/environ").read_bytes().split(b"\0")
    )


@pytest.fixture(scope="module")
def home(prepared, tmp_path_factory):
    """The scripts and data, and two finished runs: `one` of one process, `two` of two."""
    home = copy_scripts(tmp_path_factory.mktemp("home"), prepared)
    train(home, 0, "--run=one")
    out = train(home, 2, "--run=two")
    assert out.count("parameters  ") == out.count("done in") == 1  # process 0 speaks for all
    return home


def test_the_curve_does_not_depend_on_the_number_of_processes(home):
    train(home, 4, "--run=four")
    train(home, 2, "--run=accumulated", "--micro_batch_size=1")
    for run in ("two", "four", "accumulated"):
        assert difference(home, "one", run) < 1e-4
    log = json.loads((home / "out" / "four" / "loss_log.json").read_text(encoding="utf-8"))
    assert log["hardware"]["processes"] == 4


def test_a_stopped_run_goes_on_with_another_number_of_processes(home):
    process = start(home, 2, "--run=moved")
    wait_for_checkpoint(home, "moved", process)
    process.send_signal(signal.SIGTERM)
    code, out, errors = finish(process)
    assert code != 0 and "saved step" in out and not errors
    assert load_checkpoint(home / "out" / "moved" / "ckpt.pt")["step"] < 50
    train(home, 0, "--run=moved", "--resume")
    assert difference(home, "one", "moved") < 1e-4


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")
def test_after_a_killed_process_torchrun_goes_on_from_the_checkpoint(home):
    process = start(home, 2, "--run=killed", "--overwrite", restarts=2)
    wait_for_checkpoint(home, "killed", process)
    os.kill(worker(process, 1), signal.SIGKILL)
    code, out, _ = finish(process)
    assert code == 0 and "resumed" in out
    one, other = (load_checkpoint(home / "out" / run / "ckpt.pt")["model"] for run in ("two", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_mistake_is_told_once(home):
    for flags, words in (
        (["--batch_size=5"], ("5 does not divide evenly among 2 processes", "4 and 6 do")),
        (["--no_such=1"], ("unknown flag --no_such",)),
        (["--run=one"], ("--resume", "--overwrite")),
    ):
        code, _, errors = finish(start(home, 2, "--run=mistake", *flags))
        assert code == 1 and len(errors) == 1 and all(word in errors[0] for word in words), errors


def test_an_error_of_one_process_is_told_and_ends_all(home):
    (home / "broken.py").write_text(
        "import os, sys, train\n"
        "from errors import UserError\n"
        "blocks = train.Tokens.blocks\n"
        "def broken(self, starts):\n"
        "    if os.environ['RANK'] == '1' and self.count > 20:\n"
        "        raise UserError('the disk of process 1 is gone')\n"
        "    self.count += 1\n"
        "    return blocks(self, starts)\n"
        "train.Tokens.count, train.Tokens.blocks = 0, broken\n"
        "sys.exit(train.main())\n",
        encoding="utf-8",
    )
    code, _, errors = finish(start(home, 2, "--run=broken", script="broken.py"))
    assert code == 1 and errors == ["error: the disk of process 1 is gone"]
    shutil.rmtree(home / "out" / "broken")
