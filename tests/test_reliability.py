"""The promises of docs/RELIABILITY.md: the tools that prove them, each for a short while, and single cases."""

from errors import UserError, one_line

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import crash
import pytest
import torch
from conftest import TINY, make_text
from crash import read_run, same

import files
import plot_loss
import prepare
import sample
import train
import train_tokenizer
from files import load_checkpoint, only_writer

FURTHER = [*TINY, "--max_steps=30", "--resume"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of Unix")


# --- crashes


def test_killed_and_stopped_at_random_moments(capsys, monkeypatch):
    """10 kills, 4 of them of train.py, and 3 stops."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads are slow where something else is busy
    crash.main(["--kills=4", "--stops=3"])
    assert capsys.readouterr().out.count(" kills, ") == 4


def test_data_reaches_the_disk_before_the_name_does(home, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    files.write_json(home / "log.json", {"a": 1})
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


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

    monkeypatch.setattr(train, "save_checkpoint", killed)
    assert train.main([*TINY, "--overwrite", "--seed=2"]) == 130
    monkeypatch.undo()
    monkeypatch.setattr("config.ROOT", home)
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
def disk_full_after(size):
    """Writing more than so many bytes into a file fails."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


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
    ],
)
def test_a_full_disk_leaves_the_old_files(run, home, fails, main, argv, folder):
    assert main(argv) == 0
    before = {p: p.read_bytes() for p in (home / folder).iterdir()}
    for size in (0, 1000):
        with disk_full_after(size):
            assert "its disk not full" in fails(main, argv)
        assert {p: p.read_bytes() for p in (home / folder).iterdir()} == before


def test_a_folder_that_must_not_be_written_to(clone, trained):
    shutil.copytree(trained / "out", clone / "out")
    (clone / "out" / "run").chmod(0o555)
    # The administrator may write anywhere, unless that right is given up.
    without = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 and shutil.which("setpriv") else []
    command = [*without, sys.executable, "train.py", *FURTHER]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
    (clone / "out" / "run").chmod(0o755)
    if without or os.geteuid():
        assert result.returncode == 1 and result.stderr.startswith("error: ") and "Permission denied" in result.stderr


def at_step(monkeypatch, wanted, action):
    """Call `action` when the run comes to the step."""
    block_starts = train.block_starts

    def call(seed, step, *rest):
        if step == wanted:
            action()
        return block_starts(seed, step, *rest)

    monkeypatch.setattr(train, "block_starts", call)


def test_a_run_whose_folder_vanishes_makes_it_anew(book, monkeypatch):
    run = book / "out" / "run"
    at_step(monkeypatch, 15, lambda: shutil.rmtree(run))
    assert train.main(TINY) == 0
    assert load_checkpoint(run / "ckpt.pt", resumable=True)["step"] == 20


def test_tokens_that_vanish_from_under_a_run(book, fails, monkeypatch):
    path = book / "data" / "book" / "bpe400" / "train.bin"
    at_step(monkeypatch, 15, lambda: os.truncate(path, 100))
    assert "became shorter" in fails(train.main, TINY)
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt")["step"] == 10


# --- Ctrl-C and SIGTERM


def start(clone, *flags):
    command = [sys.executable, "train.py", *TINY, *flags]
    return subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("number", "line", "flags"),
    [
        (signal.SIGINT, "baselines", ["--micro_batch_size=1", "--eval_tokens=0"]),  # the evaluation of step 0 follows
        (signal.SIGTERM, "compiling", ["--compile=on"]),
    ],
)
def test_a_signal_while_evaluating_or_compiling(clone, number, line, flags):
    process = start(clone, *flags)
    while not process.stdout.readline().startswith(line):
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number and "saved step 0; go on with: python train.py" in out, err
    assert "Traceback" not in err and "stopping after this step" in err
    ended = read_run(clone / "out" / "run")
    assert ended["ckpt.pt"]["step"] == 0 and ended["best.pt"] is None and ended["loss_log.json"] == []
    for run in ("run", "whole"):
        assert start(clone, *flags, f"--run={run}", "--resume").wait(120) == 0
    assert same(read_run(clone / "out" / "run"), read_run(clone / "out" / "whole"))


def test_a_stop_never_saves_weights_that_have_diverged(book, fails, monkeypatch):
    flags = ["--learning_rate=1e30", "--warmup_steps=0", "--grad_clip=0", "--log_interval=1000"]
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert "no longer finite" in fails(train.main, [*TINY, *flags])
    checkpoint = load_checkpoint(book / "out" / "run" / "ckpt.pt")
    assert checkpoint["step"] == 0


def test_ctrl_c_while_the_libraries_are_imported(clone):
    for delay in (0.2, 0.5, 0.8):
        process = start(clone, "--max_steps=100000")
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGINT, 130) and "Traceback" not in err


def test_a_background_job_does_not_hear_ctrl_c(clone):
    """A shell starts `python train.py &` with SIGINT ignored; so it must stay."""
    command = [sys.executable, "train.py", *TINY, "--max_steps=100000", "--eval_interval=100000"]
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    process = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **ignore)
    while not process.stdout.readline().startswith("step 0/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err


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


# --- two at once


def test_two_runs_in_one_folder(clone):
    first = start(clone, "--max_steps=100000", "--eval_interval=100000")
    while not first.stdout.readline().startswith("step 0/"):
        assert first.poll() is None
    for flag in ("--resume", "--overwrite"):
        second = start(clone, flag)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 1 and err.startswith("error: ") and "another process" in err
    first.kill()
    first.communicate()
    third = start(clone, "--resume")  # the lock of a dead process is no lock
    _, err = third.communicate(timeout=60)
    assert third.returncode == 0, err


@pytest.mark.parametrize("main", [train_tokenizer.main, prepare.main])
def test_two_writers_of_tokens(book, fails, main):
    with only_writer(book / "data" / "book" / "bpe400"):
        assert "another process" in fails(main, TINY)
    assert main(TINY) == 0


# --- hostile files


def test_hostile_files_and_command_lines():
    """1,000 cases, always the same ones."""
    tool = [sys.executable, Path(__file__).parent / "fuzz.py", "--cases=1000", "--seed=0"]
    result = subprocess.run(tool, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr


def test_memory_that_the_machine_lacks_is_an_error(clone, trained):
    """A stranger's config may ask for terabytes: an error, not a process that the kernel kills."""
    code = "import errors, sys, train; errors.limit_memory = {}; sys.exit(train.main())"
    limit = "lambda: __import__('resource').setrlimit(__import__('resource').RLIMIT_DATA, (2 << 30, 2 << 30))"
    (clone / "huge.py").write_text("n_layer = 1000\nn_embd = 8192\n", encoding="utf-8")
    command = [sys.executable, "-c", code.format(limit), *TINY, "huge.py", "--n_embd=8192", "--n_layer=1000"]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and result.stderr.startswith("error: out of memory"), result.stderr[-500:]


def test_a_limit_on_memory_is_set_where_the_kernel_tells_what_is_free(clone):
    code = "import errors, resource; errors.limit_memory(); print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    result = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=True)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if Path("/proc/meminfo").exists() and not Path("/dev/nvidiactl").exists():
        assert 0 < int(result.stdout) <= 4 * total


def test_a_compressed_checkpoint_is_not_unpacked(run, fails):
    """A small zip can hold terabytes; train.py compresses nothing."""
    import zipfile

    bomb = run / "best.pt"
    with zipfile.ZipFile(bomb) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "compressed" in fails(sample.main, ["--run=run", "--prompt=x"])


def test_a_config_in_a_checkpoint_cannot_ask_for_more_than_the_file_holds(run, fails):
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    checkpoint["config"] |= {"n_layer": 1000, "n_embd": 1 << 20, "n_head": 4, "n_kv_head": 2}
    torch.save(checkpoint, run / "best.pt")
    begin = time.monotonic()
    assert "is not what its config" in fails(sample.main, ["--run=run", "--prompt=x"])
    assert time.monotonic() - begin < 60


def test_weights_that_are_not_finite(run, fails):
    for value, message in ((float("nan"), "not finite"), (3e38, "logits are not finite")):
        checkpoint = torch.load(run / "best.pt", weights_only=True)
        checkpoint["model"]["norm.weight"].fill_(value)
        torch.save(checkpoint, run / "bad.pt")
        assert message in fails(sample.main, [f"--run={run / 'bad.pt'}", "--prompt=x"])


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
    assert "prompt is longer" in fails(sample.main, ["--run=run", "--prompt_file=/dev/zero"])
    assert "not a config file" in fails(train.main, ["/dev/zero"])


def test_a_record_of_gigabytes_is_refused(home, fails, monkeypatch):
    monkeypatch.setattr("corpus.LONGEST_RECORD", 1000)
    path = home / "long.jsonl"
    path.write_text(json.dumps({"text": make_text(3)}) + "\n" + json.dumps({"text": "长" * 1000}), encoding="utf-8")
    assert "line 2: longer than 1,000 characters" in fails(train_tokenizer.main, [f"--corpus={path}"])


def test_what_the_fuzzer_found(run, book, home, fails):
    """Each was a traceback once."""
    assert sample.main(["--run=run", "--prompt=--", "--max_new_tokens=1"]) == 0
    assert sample.main(["--run=run", "--prompt=x", "--max_new_tokens=1", "--top_p=1e-308"]) == 0
    assert "prompt_file" in fails(sample.main, ["--run=run", "--prompt_file=\0"])
    assert "is a folder" in fails(plot_loss.main, ["run", "--out=."])
    config = home / "half.py"
    config.write_text("corpus = '\\ud800'\n", encoding="utf-8")
    assert train.main([str(config), *TINY, "--run=half", "--max_steps=1"]) == 0
    assert json.loads((home / "out" / "half" / "loss_log.json").read_bytes())["config"]["corpus"] == "\ud800"
    assert "words\\n" in fails(train.main, [*TINY, "two", "words\n"])
    with pytest.raises(SystemExit):
        plot_loss.main(["run", "--a\nb"])
    checkpoint = torch.load(run / "ckpt.pt", weights_only=True)
    for state in ([{"state": torch.zeros(3)}], [{"state": {0: torch.zeros(3)}}], [{}], [], [{"state": {}}] * 2, {}):
        torch.save(checkpoint | {"optimizer": state}, run / "ckpt.pt")
        assert "ckpt.pt" in fails(train.main, FURTHER)


def test_an_error_is_one_line():
    assert one_line("a\nb\x1b[1m\ud800 汉字") == "a\\nb\\x1b[1m\\ud800 汉字"


def test_deep_json_in_a_clone_of_poems(home, fails, monkeypatch):
    monkeypatch.syspath_prepend(Path(train.__file__).parent / "data")
    import poetry

    (home / "clone").mkdir()
    (home / "clone" / "poet.tang.0.json").write_text("[" * 9999, encoding="utf-8")
    assert "not a list of poems" in fails(poetry.main, ["--from", str(home / "clone")])


# --- numbers


def test_the_step_at_which_a_loss_stopped_being_finite_is_named(book, fails, monkeypatch):
    models, gpt = [], train.GPT
    monkeypatch.setattr(train, "GPT", lambda *args: models.append(gpt(*args)) or models[-1])
    at_step(monkeypatch, 13, lambda: models[0].norm.weight.data.fill_(float("inf")))
    assert "at step 13" in fails(train.main, [*TINY, "--log_interval=1000"])


def test_fp16_gradients_that_never_stop_overflowing(book, fails, monkeypatch):
    """The scaler skips the step and halves its scale; when nothing is left to halve, the run stops."""
    unscale = torch.amp.GradScaler.unscale_

    def overflowing(scaler, optimizer):
        optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))
        return unscale(scaler, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", overflowing)
    error = fails(train.main, [*TINY, "--dtype=float16", "--max_steps=100", "--eval_interval=100"])
    assert "no longer finite at step" in error and "float32 or bfloat16" in error
    log = json.loads((book / "out" / "run" / "loss_log.json").read_text(encoding="utf-8"))
    assert log["records"][0]["val_loss"] > 0


def test_fp16_gradients_that_overflow_once_are_skipped(book, monkeypatch):
    unscale, overflows = torch.amp.GradScaler.unscale_, [True, True]

    def overflowing(scaler, optimizer):
        if overflows:
            overflows.pop()
            optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))
        return unscale(scaler, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", overflowing)
    assert train.main([*TINY, "--dtype=float16"]) == 0
    log = json.loads((book / "out" / "run" / "loss_log.json").read_text(encoding="utf-8"))["records"]
    assert ["grad_norm" in r for r in log[:4]] == [False, False, True, True]
    assert load_checkpoint(book / "out" / "run" / "ckpt.pt", resumable=True)["scaler"]["scale"] == 2.0**14


def test_a_run_goes_on_in_another_dtype(run, home):
    assert train.main([*FURTHER, "--dtype=float16"]) == 0
    assert train.main([*FURTHER, "--dtype=float32", "--max_steps=40"]) == 0


def test_a_run_that_is_past_its_end(run, fails):
    assert "is at step 20 already; raise max_steps" in fails(train.main, [*TINY, "--resume", "--max_steps=10"])


# --- determinism


def test_the_same_weights_whatever_else_differs(clone, tmp_path_factory):
    """Another working folder, a busy machine, other intervals, a restart."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    flags = ["--dropout=0.1", "--dtype=auto", "--max_steps=100"]

    def started(run, *more):
        command = [sys.executable, clone / "train.py", *TINY, *flags, *more, f"--run={run}"]
        return subprocess.Popen(command, cwd=elsewhere, stdout=subprocess.PIPE, text=True)

    runs = {
        "plain": started("plain"),  # these two at once, on the same cores
        "logged": started("logged", "--log_interval=7", "--eval_interval=13", "--eval_tokens=64"),
    }
    assert [run.wait(120) for run in runs.values()] == [0, 0]
    stopped = started("stopped", "--log_interval=50")
    while not stopped.stdout.readline().startswith("step 10:"):
        assert stopped.poll() is None
    stopped.terminate()
    assert stopped.wait(60) == 143
    runs["stopped"] = started("stopped", "--log_interval=50", "--eval_interval=1000", "--resume")
    assert runs["stopped"].wait(120) == 0
    weights = [load_checkpoint(clone / "out" / run / "ckpt.pt") for run in runs]
    assert all(w["step"] == 100 and same(w["model"], weights[0]["model"]) for w in weights)


def test_another_writer_is_refused_at_once(home):
    folder = home / "folder"
    with only_writer(folder), pytest.raises(UserError, match="another process"), only_writer(folder):
        pass
