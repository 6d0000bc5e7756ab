"""Give the scripts damaged and hostile files, command lines and prompts: each must be used, or refused in one line.

    python tests/fuzz.py --cases=100000 --processes=300
    python tests/fuzz.py --only=checkpoint --cases=1000

A case fails if a script ends otherwise than with exit code 0, 1 or 2, if its error is not one line, if code from a
file is executed, if it takes more than 4 GB of memory or a minute, or if it fails and has changed a file.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "data")]

import hypothesis
import poetry
import sanguo
import torch
from conftest import SCRIPTS, TINY, make_text
from hypothesis import strategies as st

import config
import export
import plot_loss
import prepare
import report
import sample
import train
import train_tokenizer

ONE_STEP = [*TINY, "--max_steps=1"]
DATA, MODEL = "data/book/bpe400", "out/run/hf"
MAINS = {
    "train_tokenizer.py": train_tokenizer.main,
    "export.py": export.main,
    "prepare.py": prepare.main,
    "train.py": train.main,
    "sample.py": sample.main,
    "plot_loss.py": plot_loss.main,
    "report.py": report.main,
    "data/sanguo.py": sanguo.main,
    "data/poetry.py": poetry.main,
}


class Payload:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


class Room:
    """A home folder with a corpus, tokens and a run, where the scripts are called with a case."""

    def __init__(self, home, in_processes):
        self.home, self.in_processes, self.cases = home, in_processes, 0
        self.witness = home / "executed"
        config.ROOT = home
        for script in MAINS:
            (home / script).parent.mkdir(parents=True, exist_ok=True)
        if in_processes:
            for path in [*SCRIPTS.glob("*.py"), *SCRIPTS.glob("data/*.py"), *SCRIPTS.glob("config/*.py")]:
                target = home / path.relative_to(SCRIPTS)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)
        for dataset in ("book", "sanguo", "poetry"):
            folder = home / "data" / dataset
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "corpus.jsonl").write_text(
                "".join(json.dumps({"text": make_text(12, seed=i)}) + "\n" for i in range(5)), encoding="utf-8"
            )
        (home / "clone").mkdir()
        poems = [{"title": "靜夜思", "author": "李白", "paragraphs": ["牀前看月光，", "疑是地上霜。"]}]
        (home / "clone" / "poet.tang.0.json").write_text(json.dumps(poems), encoding="utf-8")
        (home / "mine.py").write_text('"""Mine."""\nn_layer = 2\nlearning_rate = 1e-3\n', encoding="utf-8")
        steps = [(train_tokenizer.main, TINY), (prepare.main, TINY), (train.main, TINY)]
        steps += [(export.main, [str(home / "out" / "run")]), (prepare.main, [*TINY, f"--init_from={home / MODEL}"])]
        for main, argv in steps:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                assert main(argv) == 0
        self.good = self.files()
        os.chdir(home)

    def files(self):
        """Every file a user would call theirs."""
        kept = [p for folder in ("data", "out", "clone") for p in (self.home / folder).rglob("*")]
        return {p: p.read_bytes() for p in [*kept, self.home / "mine.py"] if p.is_file() and p.name != ".lock"}

    def check(self, script, argv, changed=None, stdin=b""):
        """Call a script where the files in `changed` (path in the home folder -> bytes) are replaced."""
        self.cases += 1
        before = self.good | {self.home / name: content for name, content in (changed or {}).items()}
        for name, content in (changed or {}).items():
            (self.home / name).write_bytes(content)
        try:
            code, error = (self.start if self.in_processes else self.call)(script, argv, stdin)
            assert code in (0, 1, 2), f"exit code {code}: {error}"
            errors = [line for line in error.splitlines() if line.startswith("error: ")]
            assert len(errors) == (code > 0) and "Traceback" not in error, error
            assert not code or error.splitlines()[-1] == errors[0], f"the error is not one line: {error}"
            assert not self.witness.exists(), "code was executed"
            after = self.files()
            if code:
                changes = [str(path) for path, content in before.items() if after.get(path) != content]
                if "no longer finite" in error:  # weights that explode; resuming has written the log anew by then
                    changes = [path for path in changes if not path.endswith("loss_log.json")]
                assert not changes, f"it failed and changed {changes}: {error}"
        finally:
            after = self.files()
            for path in after.keys() - self.good.keys():
                path.unlink()
            for path, content in self.good.items():
                if after.get(path) != content:
                    path.write_bytes(content)
            with contextlib.suppress(FileNotFoundError):
                self.witness.rmdir()

    def call(self, script, argv, stdin):
        """In this process. Returns (exit code, what was written to stderr)."""
        out, err, previous = io.StringIO(), io.StringIO(), sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
        signal.alarm(60)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.simplefilter("ignore", ResourceWarning)  # train.py's data is open until the process ends
                code = MAINS[script](argv)
        except SystemExit as end:
            code = end.code
        finally:
            signal.alarm(0)
            sys.stdin = previous
        return code, err.getvalue()

    def start(self, script, argv, stdin):
        """As a process of its own."""
        try:
            words = [sys.executable, str(self.home / script), *argv]
            result = subprocess.run(words, input=stdin, capture_output=True, timeout=120)
        except (ValueError, OSError):  # no program can be given such words
            return 0, ""
        return result.returncode, result.stderr.decode()


# --- strategies

NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**63, 2**64, 10**400, -(10**30), 1e308, 1e-308]),
)
ODD = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.just("\ud800"), st.just([]), st.just({}))
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@st.composite
def damaged(draw, content):
    """Bytes with some places cut, overwritten, repeated or inserted."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 2, 8, 100, 10_000, 1_000_000]))
        inserted = draw(
            st.binary(max_size=20) | st.sampled_from([b"\x00" * 100, b"\xff\xfe", b"\n", b'"', b"[" * 9999])
        )
        ways = [inserted, content[place : place + length] * 2, bytes([draw(st.integers(0, 255))]) * min(length, 100)]
        content = content[:place] + draw(st.sampled_from(ways)) + content[place + length :]
    return content


@st.composite
def tampered(draw, value, odd=JSON):
    """A nested value, one to three places of which are replaced, removed or added."""
    value = json.loads(json.dumps(value)) if odd is JSON else copy_nested(value)
    for _ in range(draw(st.integers(1, 3))):
        inner, keys = value, None
        while isinstance(inner, dict | list) and inner and (keys is None or draw(st.integers(0, 3))):
            outer = inner
            keys = sorted(outer, key=str) if isinstance(outer, dict) else range(len(outer))
            key = draw(st.sampled_from(keys))
            inner = outer[key]
        if keys is None:
            return draw(odd)
        way = draw(st.integers(0, 9))
        if way == 0:
            del outer[key]
        elif way == 1 and isinstance(outer, dict):
            outer[draw(st.text(max_size=5))] = draw(odd)
        else:
            outer[key] = draw(odd)
    return value


def copy_nested(value):
    if isinstance(value, dict):
        return {key: copy_nested(inner) for key, inner in value.items()}
    return [copy_nested(inner) for inner in value] if isinstance(value, list) else value


def tensors(witness):
    """What a stranger may put into a checkpoint."""
    kinds = [torch.float32, torch.float64, torch.int64, torch.bool, torch.float16]
    small = st.builds(
        lambda shape, value, kind: torch.full(shape, value).to(kind),
        st.lists(st.integers(0, 5), max_size=3),
        st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e38]),
        st.sampled_from(kinds),
    )
    strange = [
        torch.zeros(1).expand(10**12),
        torch.zeros(1).expand(400, 32),
        torch.full((400, 32), float("nan")),
        torch.full((400, 32), 1e38),
        torch.zeros(32, 400).T,
        torch.zeros(400, 32).to_sparse(),
        torch.zeros(4, device="meta"),
        torch.nn.Parameter(torch.zeros(3)),
        torch.Size([1]),
        torch.float32,
        Payload(witness),
        b"bytes",
        {1, 2},
    ]
    return JSON | small | st.sampled_from(strange)


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


VALUES = st.one_of(
    NUMBERS.map(str),
    st.text(max_size=12),
    st.sampled_from(
        ["", "True", "auto", "cpu", "cuda", "mps", "float16", "1e999", "1_0", "--", "=", "x" * 5000, "\x00"]
    ),
)


def words(own, positional):
    """A command line: flags of the config or of the script, with any value or none, and words of any kind."""
    flag = st.sampled_from([f"--{name}" for name in own])
    word = st.one_of(
        st.builds("{}={}".format, flag, VALUES),
        flag,
        VALUES,
        st.sampled_from(positional),
        st.text(max_size=6).map("--{}".format),
    )
    return st.lists(word, max_size=5)


def targets(room):
    """name -> (share of the cases, strategy, what is done with a case)."""
    good = {path.relative_to(room.home).as_posix(): content for path, content in room.good.items()}
    meta, log = (json.loads(good[name]) for name in (f"{DATA}/meta.json", "out/run/loss_log.json"))
    tokenizer, tokenizer_json = json.loads(good[f"{DATA}/tokenizer.json"]), f"{DATA}/tokenizer.json"
    best, latest = (torch.load(room.home / "out" / "run" / name) for name in ("best.pt", "ckpt.pt"))
    scaler = torch.amp.GradScaler("cpu").state_dict()
    odd = tensors(room.witness)
    sampling = ["--run=run", "--prompt=曹操", "--max_new_tokens=3"]
    keys = [key for key in config.FIELDS if key != "corpus"]
    corpus, poems = "data/book/corpus.jsonl", "clone/poet.tang.0.json"
    records = st.lists(tampered({"text": make_text(3)}).map(json.dumps), max_size=4).map("\n".join)

    def json_or_bytes(name, value):
        return tampered(value).map(lambda value: json.dumps(value).encode()) | damaged(good[name])

    def command_line(script, own, positional, after):
        line = words([*own, "help"], [*positional, "x", "/", "/dev/null"])
        return line, lambda argv: room.check(script, [*argv, *after])

    def file(script, name, argv, also=()):
        return lambda content: room.check(script, argv, dict.fromkeys((name, *also), content))

    return {
        "config file": (
            10,
            damaged(good_config(config.FIELDS)) | st.lists(assignments(), max_size=4).map("\n".join).map(to_bytes),
            lambda content: room.check("train.py", ["mine.py", *ONE_STEP, "--run=other"], {"mine.py": content}),
        ),
        "train.py, command line": (
            8,
            *command_line("train.py", [*keys, "resume", "overwrite"], ["mine.py"], [*ONE_STEP, "--run=other"]),
        ),
        "prepare.py, command line": (6, *command_line("prepare.py", [*config.FIELDS, "shard"], ["mine.py"], TINY)),
        "train_tokenizer.py, command line": (4, *command_line("train_tokenizer.py", config.FIELDS, ["mine.py"], TINY)),
        "sample.py, command line": (
            10,
            *command_line(
                "sample.py",
                [
                    "run",
                    "last",
                    "prompt",
                    "prompt_file",
                    "ignore_eos",
                    "device",
                    "temperature",
                    "top_k",
                    "top_p",
                    "min_p",
                    "repetition_penalty",
                    "seed",
                ],
                ["out/run", "run"],
                ["--num_samples=2", "--max_new_tokens=2"],
            ),
        ),
        "plot_loss.py, command line": (1, *command_line("plot_loss.py", ["out"], ["run", "out/run", ".svg"], [])),
        "data/sanguo.py, command line": (1, *command_line("data/sanguo.py", [], [], [])),
        "data/poetry.py, command line": (1, *command_line("data/poetry.py", ["from"], ["clone"], [])),
        "poems": (
            4,
            tampered(json.loads(good[poems])).map(lambda value: json.dumps(value).encode()) | damaged(good[poems]),
            lambda content: clone(room, content),
        ),
        "meta.json": (
            8,
            json_or_bytes(f"{DATA}/meta.json", meta),
            file("train.py", f"{DATA}/meta.json", [*ONE_STEP, "--run=other"]),
        ),
        "train.bin": (
            3,
            damaged(good[f"{DATA}/train.bin"]).map(lambda content: fit(content, good[f"{DATA}/train.bin"])),
            file("train.py", f"{DATA}/train.bin", [*ONE_STEP, "--run=other"]),
        ),
        "tokenizer.json": (10, json_or_bytes(tokenizer_json, tokenizer), file("prepare.py", tokenizer_json, TINY)),
        "tokenizer in a checkpoint": (
            6,
            json_or_bytes(tokenizer_json, tokenizer).map(
                lambda text: saved(best | {"tokenizer": text.decode("latin-1")})
            ),
            file("sample.py", "out/run/best.pt", sampling),
        ),
        "best.pt, sample.py": (
            12,
            tampered(best, odd).map(saved) | damaged(good["out/run/best.pt"]),
            file("sample.py", "out/run/best.pt", sampling),
        ),
        "ckpt.pt, train.py --resume": (
            8,
            tampered(latest, odd).map(saved) | damaged(good["out/run/ckpt.pt"]),
            file("train.py", "out/run/ckpt.pt", [*TINY, "--max_steps=22", "--resume"]),
        ),
        "ckpt.pt, train.py --dtype=float16": (
            2,
            tampered(latest | {"scaler": scaler}, odd).map(saved),
            file("train.py", "out/run/ckpt.pt", [*TINY, "--max_steps=22", "--resume", "--dtype=float16"]),
        ),
        "loss_log.json": (
            2,
            json_or_bytes("out/run/loss_log.json", log),
            file("plot_loss.py", "out/run/loss_log.json", ["run"]),
        ),
        "loss_log.json, export.py": (
            1,
            json_or_bytes("out/run/loss_log.json", log),
            file("export.py", "out/run/loss_log.json", ["run", "--out=out/exported"]),
        ),
        "loss_log.json, report.py": (
            1,
            json_or_bytes("out/run/loss_log.json", log),
            file("report.py", "out/run/loss_log.json", ["run"]),
        ),
        "best.pt, report.py": (
            1,
            tampered(best, odd).map(saved) | damaged(good["out/run/best.pt"]),
            file("report.py", "out/run/best.pt", ["run"]),
        ),
        "report.py, command line": (1, *command_line("report.py", ["last", "device"], ["run", "out/run"], [])),
        "tokenizer.json, report.py": (
            1,
            json_or_bytes(tokenizer_json, tokenizer),
            file("report.py", tokenizer_json, ["--tokenizer", *TINY]),
        ),
        "tokenizer in a checkpoint, export.py": (
            2,
            json_or_bytes(tokenizer_json, tokenizer).map(
                lambda text: saved(best | {"tokenizer": text.decode("latin-1")})
            ),
            file("export.py", "out/run/best.pt", ["run", "--format=gguf", "--out=out/exported.gguf"]),
        ),
        "export.py, command line": (1, *command_line("export.py", ["format", "type", "last", "out"], ["run"], [])),
        **{
            f"init_from, {name}": (
                3,
                json_or_bytes(f"{MODEL}/{name}", json.loads(good[f"{MODEL}/{name}"])),
                file("train.py", f"{MODEL}/{name}", [*ONE_STEP, f"--init_from={MODEL}", "--run=other"]),
            )
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        },
        "init_from, model.safetensors": (
            3,
            damaged(good[f"{MODEL}/model.safetensors"]),
            file("train.py", f"{MODEL}/model.safetensors", [*ONE_STEP, f"--init_from={MODEL}", "--run=other"]),
        ),
        "corpus.jsonl": (
            6,
            records.map(to_bytes) | damaged(good[corpus]),
            file("prepare.py", corpus, TINY),
        ),
        "corpus.txt": (
            4,
            damaged(make_text(30).encode()) | damaged(make_text(30).encode("gb18030")) | st.binary(max_size=500),
            lambda content: room.check(
                "prepare.py", ["--corpus=data/x.txt", *TINY, "--dataset=book"], {"data/x.txt": content}
            ),
        ),
        "corpus for a tokenizer": (
            2,
            records.map(to_bytes) | damaged(good[corpus]),
            file("train_tokenizer.py", corpus, TINY),
        ),
        "prompts": (
            6,
            st.text(),
            lambda text: room.check("sample.py", [*sampling, f"--prompt={text}"]),
        ),
        "bytes on stdin": (
            6,
            st.binary() | damaged(make_text(3).encode()),
            lambda content: room.check("sample.py", ["--run=run", "--max_new_tokens=3"], stdin=content),
        ),
    }


def to_bytes(text):
    return text.encode("utf-8", "surrogatepass")


def fit(content, good):
    """Bytes of the length that meta.json says."""
    return (content + good)[: len(good)]


def good_config(fields):
    return "".join(f"{name} = {field.default!r}\n" for name, field in fields.items()).encode()


def assignments():
    """Lines of a config file, good ones and others."""
    value = (
        ODD.map(repr) | st.text(max_size=12) | st.sampled_from(["__import__('os').mkdir('executed')", "1+1", "[" * 999])
    )
    return st.builds("{} = {}".format, st.sampled_from([*config.FIELDS, "x", "1", "a.b"]), value)


def clone(room, content):
    """data/poetry.py with a damaged clone; its corpus must not be there yet."""
    corpus = room.home / "data" / "poetry" / "corpus.jsonl"
    kept = room.good.pop(corpus)
    try:
        corpus.unlink(missing_ok=True)
        room.check("data/poetry.py", ["--from=clone"], {"clone/poet.tang.0.json": content})
    finally:
        room.good[corpus] = kept
        corpus.write_bytes(kept)


def run(room, cases, only, seed):
    """Try so many cases, shared among the targets. Returns the number of faults found."""
    found = {name: target for name, target in targets(room).items() if only in name}
    total = sum(share for share, _, _ in found.values())
    faults = 0
    for name, (share, strategy, check) in found.items():
        before, begin, left = room.cases, time.monotonic(), max(1, round(cases * share / total))
        while left > 0:
            settings = hypothesis.settings(
                max_examples=min(left, 1000),  # it remembers what it has tried, in memory
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            )
            try:
                hypothesis.seed(seed + left)(settings(hypothesis.given(strategy)(check)))()
            except Exception:
                faults += 1
                traceback.print_exc()
                break
            left -= 1000
        print(f"{name:34} {room.cases - before:7,} cases {time.monotonic() - begin:7.0f} s", flush=True)
    return faults


def too_slow(*_):
    raise AssertionError("it takes more than a minute")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="in this process [100,000]")
    parser.add_argument("--processes", type=int, default=0, help="cases that each start a process [0]")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the cases [the time]")
    parser.add_argument("--only", default="", metavar="NAME", help="only the targets whose name contains this")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGALRM, too_slow)
    faults = 0
    for cases, in_processes in ((args.cases, False), (args.processes, True)):
        if cases:
            print(f"{cases:,} cases, {'each a process' if in_processes else 'in this process'}", flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                room = Room(Path(scratch), in_processes)
                limit_memory(0 if in_processes else 4 << 30)
                faults += run(room, cases, args.only, args.seed)
                print(f"{room.cases:,} cases, {faults} targets with faults")
                os.chdir(SCRIPTS)
    return 1 if faults else 0


def limit_memory(size):
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size or resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main())
