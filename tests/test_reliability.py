"""The promises of docs/RELIABILITY.md: the tools that prove them, each for a short while, and single cases."""

import contextlib
import errno
import json
import math
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import plot_loss
import prepare
import sample
import train
import train_tokenizer
from data import poetry
from lib.errors import UserError
from lib.machine import distributed
from lib.machine.terminal import one_line
from lib.run import checkpoint
from lib.run.checkpoint import load_checkpoint
from lib.run.signals import StopSignal
from lib.storage import lock_folder, write_json
from tests import crash, fuzz
from tests.conftest import SCRIPTS, TINY, at_step, make_text
from tests.crash import read_run, same
from tools import export

FURTHER = [*TINY, "--max_steps=30", "--resume"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of Unix")


def send(number):
    os.kill(os.getpid(), number)


def read_log(home, run="run"):
    return json.loads((home / "out" / run / "loss_log.json").read_bytes())


# --- crashes


def test_killed_at_random_moments(capsys):
    """A kill of each script but train.py."""
    crash.main(["--kills=1", "--stops=0", "--steps=0"])
    assert capsys.readouterr().out.count(" kills, ") == 3


def test_a_training_that_is_killed_at_any_moment(book, monkeypatch):
    """What is on the disk then is what a kill leaves. It ends as a run that was not killed, killed once or twice."""
    killed, replace, evaluate = [], os.replace, train.evaluate

    def training(run):
        def kill():
            killed.append(run.with_name(f"killed{len(killed)}"))
            shutil.copytree(run, killed[-1])

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *args: (kill(), replace(*args)))
            patch.setattr(train, "evaluate", lambda *args: (kill(), evaluate(*args))[1])
            at_step(patch, 15, kill)
            assert train.main([*TINY, f"--run={run.name}", "--resume"]) == 0
        return read_run(run)

    whole = training(book / "out" / "run")
    assert len(killed) == 13  # three evaluations, each followed by a save of three files, and step 15
    assert same(training(killed[8]), whole) and len(killed) > 13  # from that step on, a second time
    for run in killed:
        assert train.main([*TINY, f"--run={run.name}", "--resume"]) == 0
        assert same(read_run(run), whole)
        assert {p.name for p in run.iterdir()} == {"ckpt.pt", "best.pt", "loss_log.json", ".lock"}


def test_data_reaches_the_disk_before_the_name_does(home, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    write_json(home / "log.json", {"a": 1})
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def fails_with(number, wanted=lambda *_: True):
    """What a system call does that fails with this error for the arguments that are wanted."""

    def call(*args):
        if wanted(*args):
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTSUP])
def test_a_drive_that_cannot_flush_folders_keeps_all_files(book, monkeypatch, number):
    """Shared folders of virtual machines, some network drives."""
    monkeypatch.setattr(os, "fsync", fails_with(number, lambda file: stat.S_ISDIR(os.fstat(file).st_mode)))
    for main in (train_tokenizer.main, prepare.main, train.main):
        assert main(TINY) == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_drive_without_locks_is_written_to_with_a_warning(book, monkeypatch, capsys, number):
    """NFS without a lock daemon."""
    monkeypatch.setattr("fcntl.flock", fails_with(number))
    assert prepare.main(TINY) == 0 and train.main(TINY) == 0
    assert f"warning: {book / 'out' / 'run'} cannot be locked (" in capsys.readouterr().err


def test_a_file_that_cannot_be_flushed_is_named_and_the_old_one_stays(book, fails, monkeypatch):
    path = book / "data" / "book" / "bpe400" / "tokenizer.json"
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fails_with(errno.EIO))
    assert "bpe400/" in fails(train_tokenizer.main, TINY) and path.read_bytes() == before


def test_what_a_killed_process_left_is_cleared_away(book):
    folder = book / "out" / "run"
    (folder / ".scratch.tmp").mkdir(parents=True)
    (folder / ".best.pt.tmp").write_bytes(b"half")
    (folder / ".scratch.tmp" / "inner").write_bytes(b"half")
    assert train.main(TINY) == 0
    assert {p.name for p in folder.iterdir()} == {"ckpt.pt", "best.pt", "loss_log.json", ".lock"}


def test_a_crash_while_overwriting_does_not_bring_the_old_run_back(run, home, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", killed)
        assert train.main([*TINY, "--overwrite", "--seed=2"]) == 130
    assert train.main([*TINY, "--resume", "--seed=2"]) == 0
    assert train.main([*TINY, "--run=other", "--seed=2"]) == 0
    assert same(read_run(run), read_run(home / "out" / "other"))


def test_a_crash_between_the_last_checkpoint_and_its_log(run):
    whole = (run / "loss_log.json").read_bytes()
    (run / "loss_log.json").unlink()
    assert train.main([*TINY, "--resume"]) == 0
    assert (run / "loss_log.json").read_bytes() == whole


# --- disks that are full, read-only, or gone


@contextlib.contextmanager
def limited(name, size):
    """Set a limit of this process, by its name in the module `resource`."""
    import resource

    kind = getattr(resource, name)
    resource.setrlimit(kind, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def disk_full_after(size):
    """Writing more than so many bytes into a file fails."""
    return limited("RLIMIT_FSIZE", size)


def test_a_full_disk_at_any_byte_of_a_run(run, home, fails):
    shutil.copytree(run, home / "out" / "whole")
    assert train.main([*FURTHER, "--run=whole"]) == 0
    largest = (run / "ckpt.pt").stat().st_size
    sizes = random.Random(0)
    for size in (0, 1, 4096, *(sizes.randrange(largest) for _ in range(12))):
        before = read_run(run)
        with disk_full_after(size):
            assert "its disk not full" in fails(train.main, FURTHER)
        after = read_run(run)
        assert same(before["ckpt.pt"], after["ckpt.pt"]) and same(before["loss_log.json"], after["loss_log.json"])
        assert not list(run.glob("*.tmp"))
    assert train.main(FURTHER) == 0
    assert same(read_run(run), read_run(home / "out" / "whole"))


@pytest.mark.parametrize(
    ("main", "argv", "folder"),
    [
        (train_tokenizer.main, TINY, "data/book/bpe400"),
        (prepare.main, TINY, "data/book/bpe400"),
        (plot_loss.main, ["run"], "out/run"),
        (export.main, ["run", "--format=gguf"], "out/run"),
    ],
)
def test_a_full_disk_leaves_the_old_files(run, home, fails, main, argv, folder):
    assert main(argv) == 0
    before = {p: p.read_bytes() for p in (home / folder).iterdir()}
    for size in (0, 1000):
        with disk_full_after(size):
            assert "its disk not full" in fails(main, argv)
        assert {p: p.read_bytes() for p in (home / folder).iterdir()} == before


def test_a_folder_that_must_not_be_written_to(clone):
    folder = clone / "data" / "book" / "bpe400"
    folder.chmod(0o555)
    # The administrator may write anywhere, unless that right is given up.
    without = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 and shutil.which("setpriv") else []
    command = [*without, sys.executable, "prepare.py", *TINY]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
    folder.chmod(0o755)
    if without or os.geteuid():
        assert result.returncode == 1 and result.stderr.startswith("error: ") and "Permission denied" in result.stderr


def test_a_run_whose_folder_vanishes_makes_it_anew(book, monkeypatch):
    run = book / "out" / "run"
    at_step(monkeypatch, 15, lambda: shutil.rmtree(run))
    assert train.main(TINY) == 0
    assert load_checkpoint(run / "ckpt.pt", resumable=True)["step"] == 20


# --- Ctrl-C, SIGTERM and SIGHUP


@pytest.mark.parametrize(("number", "where"), [(signal.SIGINT, "evaluate"), (signal.SIGTERM, "compile")])
def test_a_signal_while_evaluating_or_compiling(book, monkeypatch, capfd, number, where):
    calls, compiled, get_batch, compile_ = [], [], train.get_batch, torch.compile

    def third_window(tokens, offsets):
        calls.append(offsets)
        if len(calls) == 3:
            send(number)
        return get_batch(tokens, offsets)

    def slow_compiler(graph, _):
        if not compiled:
            send(number)
        compiled.append(graph)
        return graph.forward

    with monkeypatch.context() as patch:
        if where == "evaluate":
            patch.setattr(train, "get_batch", third_window)
        else:
            patch.setattr(torch, "compile", lambda model, mode: compile_(model, backend=slow_compiler))
        flags = ["--micro_batch_size=1", f"--compile={'on' if where == 'compile' else 'off'}"]
        assert train.main([*TINY, *flags]) == 128 + number
    out, err = capfd.readouterr()
    assert "saved step 0; go on with: python train.py" in out and "stopping after this step" in err
    assert len(calls) == 3 if where == "evaluate" else compiled
    ended = read_run(book / "out" / "run")
    assert ended["ckpt.pt"]["step"] == 0 and ended["best.pt"] is None and ended["loss_log.json"] == []
    for run in ("run", "whole"):
        assert train.main([*TINY, "--micro_batch_size=1", f"--run={run}", "--resume"]) == 0
    assert same(read_run(book / "out" / "run"), read_run(book / "out" / "whole"))


def test_signals_wait_while_a_checkpoint_is_written(book, monkeypatch):
    """Two of them, which would end it at once."""
    save, saved = torch.save, []

    def call(*args):
        for _ in range(2):
            send(signal.SIGINT)
        saved.append(save(*args))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", call)
        assert train.main(TINY) == 130 and len(saved) == 1
    for run in ("run", "whole"):
        assert train.main([*TINY, f"--run={run}", "--resume"]) == 0
    assert same(read_run(book / "out" / "run"), read_run(book / "out" / "whole"))


@pytest.mark.parametrize("step", [0, 3])
def test_a_stop_never_saves_weights_that_have_diverged(book, fails, monkeypatch, step):
    """The loss and the gradient of step 0 are still finite, the weights after it are not."""
    flags = ["--learning_rate=1e30", "--warmup_steps=0", "--grad_clip=0", "--log_interval=1000"]
    at_step(monkeypatch, step, lambda: send(signal.SIGINT))
    assert "no longer finite" in fails(train.main, [*TINY, *flags])
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt")["step"] == 0


def test_a_signal_while_samples_are_written(book, monkeypatch):
    """What was evaluated is saved first. At the last step there is nothing left to stop."""
    calls, continue_prompts = [], train.continue_prompts

    def interrupted(*args):
        calls.append(args)
        if len(calls) > 1:  # at step 10 and, resumed, at step 20
            send(signal.SIGINT)
        return continue_prompts(*args)

    monkeypatch.setattr(train, "continue_prompts", interrupted)
    for code, step in ((130, 11), (0, 20)):
        assert train.main([*TINY, "--resume"]) == code
        ended = read_run(book / "out" / "run")
        assert ended["ckpt.pt"]["step"] == step
        assert [r["step"] for r in ended["loss_log.json"] if "val_loss" in r] == list(range(0, step + 1, 10))


def test_a_signal_while_the_processes_agree_is_not_lost(monkeypatch):
    """All exchange what they have heard, and one hears of a signal in that moment."""

    def all_reduce(value, operation):
        send(signal.SIGTERM)
        return value

    with StopSignal() as stop:
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "all_reduce", all_reduce)
            assert stop.requested() == 0
        assert stop.requested() == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_so(book, monkeypatch, number):
    """A shell starts `python train.py &` with SIGINT ignored, and nohup ignores SIGHUP."""
    at_step(monkeypatch, 5, lambda: send(number))
    at_step(monkeypatch, 12, lambda: send(signal.SIGTERM))
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        assert train.main(TINY) == 143
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, previous)
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt")["step"] == 13


def test_a_thread_hears_no_signals(book):
    """Gradio and Streamlit call functions in a thread of their own."""
    codes = []
    thread = threading.Thread(target=lambda: codes.append(train.main(TINY)))
    thread.start()
    thread.join()
    assert codes == [0] and (book / "out" / "run" / "best.pt").exists()


def test_ctrl_c_while_a_tokenizer_is_learned(clone):
    text = "".join(random.Random(0).choices("ACGT", k=4_000_000))  # takes the library several seconds
    (clone / "genes.txt").write_text(text, encoding="utf-8")
    command = [sys.executable, "train_tokenizer.py", "--corpus=genes.txt"]
    process = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not process.stdout.readline().startswith("training on"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "\nstopped\n"
    assert {p.name for p in (clone / "data" / "genes" / "bpe5000").iterdir()} == {".lock"}


# --- nobody reads what is printed


def test_a_reader_that_goes_away_and_a_closed_terminal(clone):
    """`python train.py … | head -1` comes to its end; a terminal that is closed saves the run. Both at once.

    A terminal is closed by the kernel, which sends SIGHUP and lets all writing to it fail.
    """
    import pty

    command = [sys.executable, "-u", "train.py", *TINY]
    piped = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(clone)
        os.execv(sys.executable, [*command, "--run=closed", "--max_steps=1000000", "--eval_interval=1000000"])
    assert piped.stdout.readline().startswith(b"config")
    piped.stdout.close()
    seen = b""
    while b"tok/s" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    step = load_checkpoint(clone / "out" / "closed" / "ckpt.pt", resumable=True)["step"]
    assert [r["step"] for r in read_log(clone, "closed")["records"]] == list(range(step)) and step > 0
    assert (
        piped.stderr.read().decode() == "nothing more can be printed here (Broken pipe); the run goes on all the same\n"
    )
    piped.stderr.close()
    assert piped.wait() == 0
    assert load_checkpoint(clone / "out" / "run" / "ckpt.pt")["step"] == 20
    assert {p.name for p in (clone / "out" / "run").iterdir()} >= {"ckpt.pt", "best.pt", "loss_log.json"}


def test_a_terminal_may_be_closed_twice(book, monkeypatch):
    """A shell that is hung up sends SIGHUP to its jobs, and when it has ended, the kernel does so again."""
    at_step(monkeypatch, 5, lambda: [send(signal.SIGHUP) for _ in range(2)])
    assert train.main(TINY) == 128 + signal.SIGHUP
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt")["step"] == 6
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


# --- two at once


def test_two_runs_in_one_folder(run, fails):
    code = "import pathlib, sys; from lib.storage import lock_folder\n"
    code += "with lock_folder(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, run], cwd=SCRIPTS, **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        for flag in ("--resume", "--overwrite"):
            assert "is being written by another process" in fails(train.main, [*TINY, flag])
        other.kill()
    assert train.main(FURTHER) == 0  # the lock of a dead process is no lock


def test_a_run_has_one_writer_until_it_ends(book, monkeypatch):
    def refused():
        with pytest.raises(UserError, match="another process"), lock_folder(book / "out" / "run"):
            pass

    for step in (0, 19):
        at_step(monkeypatch, step, refused)
    assert train.main(TINY) == 0
    with lock_folder(book / "out" / "run"):
        pass


@pytest.mark.parametrize("main", [train_tokenizer.main, prepare.main])
def test_two_writers_of_tokens(book, fails, main):
    with lock_folder(book / "data" / "book" / "bpe400"):
        assert "another process" in fails(main, TINY)
    assert main(TINY) == 0


# --- hostile files


def test_hostile_files_and_command_lines(capfd):
    """150 cases, always the same ones. What the tool sets in its process ends with it; a fork need not import torch."""
    process = os.fork()
    if process == 0:
        code = 99  # of a traceback, which python -m tests.fuzz shows
        try:
            code = fuzz.main(["--cases=100", "--seed=0"])
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code == 0, capfd.readouterr().out


def test_memory_that_the_machine_lacks_is_an_error(book, fails):
    """A stranger's config may ask for terabytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux says how much memory is in use")
    in_use = next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmData"))
    (book / "huge.py").write_text("n_layer = 1000\nn_embd = 8192\n", encoding="utf-8")
    with limited("RLIMIT_DATA", in_use + (1 << 30)):
        assert "out of memory" in fails(train.main, [*TINY, str(book / "huge.py"), "--n_embd=8192", "--n_layer=1000"])


def test_a_config_in_a_checkpoint_cannot_ask_for_more_than_the_file_holds(run, fails):
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    checkpoint["config"] |= {"n_layer": 4, "n_embd": 1 << 20, "n_head": 4, "n_kv_head": 2}
    torch.save(checkpoint, run / "best.pt")
    assert "is damaged" in fails(sample.main, ["--run=run", "--prompt=x"])


def test_weights_that_are_not_finite(run, fails):
    for value in (math.nan, 3e38):
        checkpoint = torch.load(run / "best.pt", weights_only=True)
        checkpoint["model"]["norm.weight"].fill_(value)
        torch.save(checkpoint, run / "bad.pt")
        assert "logits are not finite" in fails(sample.main, [f"--run={run / 'bad.pt'}", "--prompt=x"])


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}},
        {"padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0}},
        {"truncation": {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
        {"added_tokens": []},
        {"model": {"type": "BPE", "vocab": {"a": 5}, "merges": []}},
    ],
)
def test_a_tokenizer_that_changes_the_text_or_lacks_tokens(book, fails, change):
    path = book / "data" / "book" / "bpe400" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    error = fails(prepare.main, TINY)
    assert "not a byte-level BPE tokenizer" in error or "no special token" in error


def test_no_file_is_waited_for_or_read_for_ever(run, home, fails):
    (run / "loss_log.json").unlink()
    os.mkfifo(run / "loss_log.json")
    assert "loss_log.json" in fails(plot_loss.main, ["run"])
    assert "/dev/zero is longer than" in fails(sample.main, ["--run=run", "--prompt_file=/dev/zero"])
    assert "not a config file" in fails(train.main, ["/dev/zero"], code=2)


def test_a_record_of_gigabytes_is_refused(home, fails, monkeypatch):
    monkeypatch.setattr("lib.text.decoding.PIECE", 100)
    monkeypatch.setattr("lib.text.records.LONGEST_RECORD", 1000)
    monkeypatch.setattr("lib.text.records.LONGEST_NUMBER", 10)
    path = home / "long.jsonl"
    path.write_text(json.dumps({"text": make_text(3)}) + "\n" + json.dumps({"text": "长" * 2000}), encoding="utf-8")
    assert "line 2: longer than 1,000 characters" in fails(train_tokenizer.main, [f"--corpus={path}"])


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # by torch, of an optimizer without state
def test_what_the_fuzzer_found(run, book, home, fails):
    """Each was a traceback once."""
    assert "-- cannot be the value" in fails(sample.main, ["--run=run", "--prompt=--"], code=2)
    assert "not between" in fails(sample.main, ["--run=run", "--prompt=x", "--top_p=1e-308"], code=2)
    assert "is a folder" in fails(plot_loss.main, ["run", "--out=."], code=2)
    config = home / "half.py"
    config.write_text("corpus = '\\ud800'\n", encoding="utf-8")
    assert "run prepare.py" in fails(train.main, [str(config), *TINY, "--run=half", "--max_steps=1"])
    assert "words\\n" in fails(train.main, [*TINY, "two", "words\n"], code=2)
    assert "--a\\nb" in fails(plot_loss.main, ["run", "--a\nb"], code=2)
    checkpoint = torch.load(run / "ckpt.pt", weights_only=True)
    for state in ([{"state": torch.zeros(3)}], [{"state": {0: torch.zeros(3)}}], [{}], [], [{"state": {}}] * 2, {}):
        torch.save(checkpoint | {"optimizer": state}, run / "ckpt.pt")
        assert "ckpt.pt" in fails(train.main, FURTHER)
    for odd in (torch.zeros(1).expand(400, 32), torch.zeros(32, 400).T, torch.zeros(400, 32).to_sparse()):
        state = {name: torch.zeros(400, 32) for name in ("exp_avg", "exp_avg_sq")} | {"step": torch.zeros(())}
        torch.save(checkpoint | {"optimizer": [{"state": {0: state | {"exp_avg": odd}}}]}, run / "ckpt.pt")
        assert "ckpt.pt is damaged" in fails(train.main, FURTHER)


def test_an_error_is_one_line():
    assert one_line("a\nb\x1b[1m\ud800 汉字\u2028\u202e") == "a\\nb\\x1b[1m\\ud800 汉字\\u2028\\u202e"
    shown = "　　阿木 می\u200cروم 👩\u200d💻 e\u0301\xa0\xad"  # what a terminal shows
    assert one_line(shown) == shown


def test_deep_json_in_a_clone_of_poems(home, monkeypatch):
    monkeypatch.setattr(poetry, "FOLDER", home / "poetry")
    (home / "poet.tang.0.json").write_text("[" * 9999, encoding="utf-8")
    with pytest.raises(SystemExit, match="not a list of poems"):
        poetry.main(["--from", str(home)])


# --- numbers


@pytest.mark.parametrize("split", ["train", "val"])
def test_token_ids_outside_the_vocabulary(book, fails, split):
    path = book / "data" / "book" / "bpe400" / f"{split}.bin"
    path.write_bytes(b"\xff" * path.stat().st_size)
    for more in ([], ["--prompts=|", "--plan"]):
        assert f"{split}.bin is damaged" in fails(train.main, [*TINY, *more])


def test_the_step_at_which_a_loss_stopped_being_finite_is_named(book, fails, monkeypatch):
    models, gpt = [], train.GPT
    monkeypatch.setattr(train, "GPT", lambda *args: models.append(gpt(*args)) or models[-1])
    at_step(monkeypatch, 13, lambda: models[-1].norm.weight.data.fill_(math.inf))
    assert "at step 13" in fails(train.main, [*TINY, "--log_interval=1000"])
    again = [*TINY, "--overwrite", "--grad_clip="]
    assert "a smaller grad_clip, " in fails(train.main, again[:-1])
    assert "a grad_clip such as 1, " in fails(train.main, [*again[:-1], "--grad_clip=0"])


def test_fp16_gradients_that_never_stop_overflowing(book, fails, monkeypatch):
    """The scaler skips the step and halves its scale; when nothing is left to halve, the run stops."""
    unscale = torch.amp.GradScaler.unscale_

    def overflowing(scaler, optimizer):
        optimizer.param_groups[0]["params"][0].grad.fill_(math.inf)
        return unscale(scaler, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", overflowing)
    error = fails(train.main, [*TINY, "--dtype=float16", "--max_steps=100", "--eval_interval=100"])
    assert "no longer finite at step" in error and "float32 or bfloat16" in error
    assert read_log(book)["records"][0]["val_loss"] > 0


def test_fp16_gradients_that_overflow_once_are_skipped(book, monkeypatch):
    unscale, overflows = torch.amp.GradScaler.unscale_, [True, True]

    def overflowing(scaler, optimizer):
        if overflows:
            overflows.pop()
            optimizer.param_groups[0]["params"][0].grad.fill_(math.inf)
        return unscale(scaler, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", overflowing)
    assert train.main([*TINY, "--dtype=float16"]) == 0
    assert ["grad_norm" in record for record in read_log(book)["records"][:4]] == [False, False, True, True]
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt", resumable=True)["scaler"]["scale"] == 2.0**14


def test_a_run_goes_on_in_another_dtype(run):
    assert train.main([*FURTHER, "--dtype=float16"]) == 0
    assert train.main([*FURTHER, "--dtype=float32", "--max_steps=40"]) == 0


def test_a_run_that_is_past_its_end(run, fails):
    assert "is at step 20 already; raise max_steps" in fails(train.main, [*TINY, "--resume", "--max_steps=10"])


# --- determinism


@pytest.fixture
def two_threads():
    """Sums that several threads share can depend on the load of the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_same_weights_whatever_else_differs(book, two_threads, monkeypatch, tmp_path_factory):
    """Another working folder, a busy machine, other intervals, a restart. The crash tool compares processes."""
    flags = [*TINY, "--dropout=0.1", "--dtype=auto", "--max_steps=8", "--eval_tokens=128"]
    assert train.main([*flags, "--run=plain"]) == 0
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    busy, code = [], "import time; end = time.time() + 0.5\nwhile time.time() < end: pass"
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: busy.extend(subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)))
        assert train.main([*flags, "--run=logged", "--log_interval=3", "--eval_interval=5", "--eval_tokens=64"]) == 0
    assert [process.wait() for process in busy] == [0, 0]
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: send(signal.SIGTERM))
        assert train.main([*flags, "--run=stopped"]) == 143
    assert train.main([*flags, "--run=stopped", "--eval_interval=1000", "--resume"]) == 0
    weights = [load_checkpoint(book / "out" / run / "ckpt.pt") for run in ("plain", "logged", "stopped")]
    assert all(w["step"] == 8 and same(w["model"], weights[0]["model"]) for w in weights)
