"""Kill the scripts at random moments, most of all while they write, and see that nothing is lost.

    python -m tests.crash --kills=100 --stops=100 [--network]

After every kill (SIGKILL) and every stop (Ctrl-C or SIGTERM, once or twice) what is on the disk is read back, and the
script is started again. What a run that was ended many times leaves is compared, bit for bit, with what one leaves that
was never disturbed. With --network the data/ scripts are killed while they download, too.
"""

import argparse
import collections
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lib.errors import UserError
from lib.run.checkpoint import load_checkpoint
from lib.run.runs import BEST, LATEST, LOG
from lib.tokens.prepared import read_meta
from tests.conftest import SCRIPTS, TINY, copy_scripts, make_text

# Muon's checkpoint holds the state of AdamW as well.
TRAINING = [*TINY, "--optimizer=muon", "--n_embd=96", "--dropout=0.1", "--dtype=auto"]
TRAINING += ["--eval_interval=10", "--eval_tokens=2000"]
KILL = (signal.SIGKILL,)
STOPS = [(signal.SIGINT,), (signal.SIGTERM,), *itertools.product((signal.SIGINT, signal.SIGTERM), repeat=2)]


def make_home(home):
    """A copy of the scripts in the folder `home`, with a corpus."""
    copy_scripts(home)
    (home / "data" / "book").mkdir(parents=True)
    for path in (SCRIPTS / "data").glob("*.py"):
        shutil.copy(path, home / "data" / path.name)
    (home / "data" / "book" / "corpus.txt").write_text(make_text(10_000), encoding="utf-8")
    poems = [{"title": f"{i}", "author": "佚名", "paragraphs": make_text(4, seed=i).splitlines()} for i in range(5000)]
    (home / "clone").mkdir()
    (home / "clone" / "poet.tang.0.json").write_text(json.dumps(poems), encoding="utf-8")


def start(home, words):
    command = [sys.executable, *words]
    # The process is a group of its own, so that the programs it starts (pip, npm) die with it.
    return subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    )


def finish(home, words) -> float:
    """Run a script to its end. Returns the seconds that it took."""
    begin = time.monotonic()
    process = start(home, words)
    output, _ = process.communicate(timeout=600)
    if process.returncode:
        raise AssertionError(f"{' '.join(words)} ended with {process.returncode}:\n{output}")
    return time.monotonic() - begin


def is_written(folder, name) -> bool:
    """Whether a file is half-written: by atomic_write, or by a script of data/."""
    return (folder / f".{name}.tmp").exists() or any(folder.glob(f".unfinished-*/{name}"))


def end(home, words, folder, names, longest, moments, signals):
    """Start a script and end it. Returns the file it was writing then, "-" if none, or None if it had ended before.

    In two of three cases it is ended when one of `names` is being written, or just has been, in the others
    within `longest` seconds.
    """
    process = start(home, words)
    if moments.random() < 0.33:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.1, longest))
    else:
        name = moments.choice(names)
        for _ in range(moments.randint(1, 3)):  # the first time it is written, or a later one
            while process.poll() is None and is_written(folder, name):
                time.sleep(1e-5)
            while process.poll() is None and not is_written(folder, name):
                time.sleep(1e-5)
        time.sleep(moments.choice((0, 0, 1e-4, 1e-3, 1e-2)) * moments.random())
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        time.sleep(moments.choice((0, 1e-3, 1e-1)) * moments.random())
    output, _ = process.communicate(timeout=60)
    if process.returncode == 0:
        return None
    check_end(words, signals, process.returncode, output)
    return next((name for name in names if is_written(folder, name)), "-")


def check_end(words, signals, code, output):
    """The exit code must tell of one of the signals, and `main` must not end with a traceback.

    Before main begins and after it has ended, Python itself dies of a SIGTERM, and shows a traceback for Ctrl-C. Then
    no frame of the traceback is that of `wrapped`, which calls main.
    """
    codes = {128 + number for number in signals} | {-number for number in signals}
    of_main = "Traceback" in output and ", in wrapped" in output
    if code not in codes or of_main:
        raise AssertionError(f"{' '.join(words)} ended with {code} after {signals}:\n{output}")


def differences(a, b, where=""):
    """Yield where two values of checkpoints differ, tensors bit for bit; times aside."""
    if type(a) is not type(b):
        yield f"{where}: {type(a)} {type(b)}"
    elif isinstance(a, dict):
        for key in sorted((a.keys() | b.keys()) - {"seconds", "tokens_per_second"}, key=str):
            yield from differences(a.get(key), b.get(key), f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{where}: {len(a)} and {len(b)} items"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
            yield f"{where}: tensors"
    elif a != b:
        yield f"{where}: {a} {b}"


def same(a, b):
    return not list(differences(a, b))


def read_run(folder):
    """What a run left: each file that a reader would read, in full. None where there is none yet."""
    found = {}
    for name in (LATEST, BEST):
        path = folder / name
        found[name] = load_checkpoint(path, resumable=name == LATEST) if path.exists() else None
        if found[name]:
            found[name]["config"] = None  # its run has another name
    path = folder / LOG
    found[LOG] = json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else None
    return found


def crash_training(home, steps, plan, moments):
    """End train.py by each of the signals in `plan`, and by those again that came too late.

    Returns (signals, the file it was writing or "-") for each.
    """
    words = ["train.py", *TRAINING, f"--max_steps={steps}", "--resume"]
    longest = finish(home, [*words, "--run=whole"])
    whole = read_run(home / "out" / "whole")
    words, folder, names = [*words, "--run=ended"], home / "out" / "ended", (LATEST, LATEST, BEST, LOG)
    where, step = [], -1
    while True:
        place = None
        if len(where) < len(plan):
            signals = plan[len(where)]
            place = end(home, words, folder, names, longest, moments, signals)
        if place:
            where.append((signals, place))
            found = read_run(folder)  # fails if anything is torn
            assert not found[LATEST] or found[LATEST]["step"] >= step, "a checkpoint was lost"
            step = found[LATEST]["step"] if found[LATEST] else step
        else:  # The run is complete, or to be completed.
            finish(home, words)
            found = list(differences(read_run(folder), whole))
            assert not found, f"the run that was ended differs in {len(found)} places: {found[:5]} … {found[-2:]}"
            assert {p.name for p in folder.iterdir()} == {p.name for p in (home / "out" / "whole").iterdir()}
            if len(where) == len(plan):
                return where
            shutil.rmtree(folder)
            step = -1


def crash_script(home, words, folder, names, kills, moments):
    """Kill a script that makes files; the next run must make the same ones. Returns as crash_training does."""
    longest = finish(home, words)
    expected = {name: (folder / name).read_bytes() for name in names}
    where = []
    while len(where) < kills:
        if moments.random() < 0.5 or "corpus.jsonl" in names:
            for name in names:
                (folder / name).unlink()
        place = end(home, words, folder, names, longest, moments, KILL)
        where += [(KILL, place)] if place else []
        if "meta.json" in names:
            check_tokens(folder)
        for unfinished in folder.glob(".unfinished-*"):  # It stays, and is_written would take it for a new one.
            shutil.rmtree(unfinished)
        finish(home, words)
        assert {name: (folder / name).read_bytes() for name in names} == expected
        assert not any(is_written(folder, name) for name in names)
    return where


def check_tokens(folder):
    """Tokens that were being made must be whole, or be refused."""
    try:
        meta = read_meta(folder)
    except UserError:
        return
    for split in ("train", "val"):
        assert hashlib.sha256((folder / f"{split}.bin").read_bytes()).hexdigest() == meta[split]["sha256"]


def report(script, where):
    for word, ended in (
        ("kills", [place for signals, place in where if signals == KILL]),
        ("stops", [place for signals, place in where if signals != KILL]),
    ):
        places = collections.Counter(place for place in ended if place != "-").most_common()
        inside = ", ".join(f"{count} in {name}" for name, count in places)
        if ended:
            print(f"{script:24} {len(ended):4} {word}, while writing: {inside or 'none'}", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of train.py; each other script gets a third [100]")
    parser.add_argument("--stops", type=int, default=100, help="of train.py, by Ctrl-C and SIGTERM [100]")
    parser.add_argument("--steps", type=int, default=500, help="of train.py, 0: it is left alone [500]")
    parser.add_argument("--network", action="store_true", help="kill the downloading data/ scripts too")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments [the time]")
    args = parser.parse_args(argv)
    moments = random.Random(args.seed)
    few = -(-args.kills // 3)
    print(f"seed {args.seed}")
    plan = [KILL] * args.kills + moments.choices(STOPS, k=args.stops)
    moments.shuffle(plan)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        make_home(home)
        tokens = home / "data" / "book" / "bpe400"
        for words, names in (
            (["train_tokenizer.py", *TINY], ("tokenizer.json", "vocab.json", "merges.txt")),
            (["prepare.py", *TINY], ("train.bin", "val.bin", "meta.json")),
        ):
            report(words[0], crash_script(home, words, tokens, names, few, moments))
        if args.steps:
            report("train.py", crash_training(home, args.steps, plan, moments))
        corpora = [["data/poetry.py", "--from", "clone"]]
        corpora += [["data/sanguo.py"], ["data/poetry.py"]] if args.network else []
        for words in corpora:
            folder = home / "data" / Path(words[0]).stem
            shutil.rmtree(folder, ignore_errors=True)
            report(" ".join(words[:2]), crash_script(home, words, folder, ("corpus.jsonl",), few, moments))


if __name__ == "__main__":
    main()
