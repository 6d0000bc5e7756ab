"""Give the scripts damaged and hostile files, command lines and prompts: each must be used, or refused in one line.

    python -m tests.fuzz --cases=100000 --processes=300
    python -m tests.fuzz --only=checkpoint --cases=1000

A case fails if a script ends otherwise than with exit code 0, 1 or 2, if its error is not one line, if code from a file
is executed, if it takes more than a minute, or if it fails and has changed a file. The cases in this process may have
4 GB of memory: where a file asks for more, that must be an error, too.
"""

import argparse
import contextlib
import io
import json
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import hypothesis
import torch
from hypothesis import strategies as st

import config
import plot_loss
import prepare
import sample
import train
import train_tokenizer
from data import poetry, sanguo
from tests.conftest import SCRIPTS, TINY, copy_scripts, make_text
from tools import export
from tools.report import __main__ as report

ONE_STEP = [*TINY, "--max_steps=1", "--run=other"]
KEYS = ["text", "content", "raw_content", "completion", "instruction", "input", "output", "messages", "conversations"]
TRADITIONAL = "話說天下大勢，分久必合，合久必分。周末七國分爭，併入於秦。\n"
DATA, MODEL = "data/book/bpe400", "out/run/hf"
MAINS = {
    "train_tokenizer.py": train_tokenizer.main,
    "prepare.py": prepare.main,
    "train.py": train.main,
    "sample.py": sample.main,
    "plot_loss.py": plot_loss.main,
    "tools.export": export.main,
    "tools.report": report.main,
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
        copy_scripts(home)
        for dataset in ("book", "sanguo", "poetry"):
            folder = home / "data" / dataset
            folder.mkdir(parents=True)
            records = [json.dumps({"text": make_text(12, seed=i)}) + "\n" for i in range(5)]
            (folder / "corpus.jsonl").write_text("".join(records), encoding="utf-8")
        for script in (poetry, sanguo):  # They know their folder by where they are.
            shutil.copy(script.__file__, home / "data")
            script.FOLDER = home / "data" / script.FOLDER.name
        (home / "clone").mkdir()
        poems = [{"title": "靜夜思", "author": "李白", "paragraphs": ["牀前看月光，", "疑是地上霜。"]}]
        (home / "clone" / "poet.tang.0.json").write_text(json.dumps(poems), encoding="utf-8")
        (home / "mine.py").write_text('"""Mine."""\nn_layer = 2\nlearning_rate = 1e-3\n', encoding="utf-8")
        os.chdir(home)
        for script, argv in (
            ("train_tokenizer.py", TINY),
            ("prepare.py", TINY),
            ("train.py", TINY),
            ("tools.export", ["run"]),
            ("prepare.py", [*TINY, f"--init_from={MODEL}"]),
            ("prepare.py", [*TINY, "--init_from=out/run"]),
        ):
            code, error = self.call(script, argv, b"")
            assert code == 0, error
        self.good = self.files()

    def files(self):
        """Every file a user would call theirs."""
        kept = [p for folder in ("data", "out", "clone") for p in (self.home / folder).rglob("*")]
        return {p: p.read_bytes() for p in [*kept, self.home / "mine.py"] if p.is_file() and p.name != ".lock"}

    def check(self, script, argv, changed=None, stdin=b"", links=()):
        """Call a script where the files in `changed` (path in the home folder -> bytes, None: none) are replaced.

        links: {path in the home folder: where it leads} of links that are there as well.
        """
        self.cases += 1
        before = self.good | {self.home / name: content for name, content in (changed or {}).items()}
        try:
            self.write(before)
            for name in links:
                (self.home / name).symlink_to(links[name])
            code, error = (self.start if self.in_processes else self.call)(script, argv, stdin)
            assert code in (0, 1, 2), f"exit code {code}: {error}"
            assert "Traceback" not in error, error
            if not script.startswith("data/"):  # These stand alone, with argparse as it is.
                lines = [line for line in error.splitlines() if line.startswith("error: ")]
                assert len(lines) == (code > 0), error
                assert not code or error.splitlines()[-1] == lines[0], f"the error is not one line: {error}"
            assert not self.witness.exists(), "code was executed"
            if code:
                after = self.files()
                changes = [str(path) for path, content in before.items() if after.get(path) != content]
                if "no longer finite" in error:  # The weights explode; by then, resuming has written the log anew.
                    changes = [path for path in changes if not path.endswith("loss_log.json")]
                assert not changes, f"it failed and changed {changes}: {error}"
        finally:
            for name in links:
                (self.home / name).unlink(missing_ok=True)
            self.write(self.good)
            with contextlib.suppress(FileNotFoundError):
                self.witness.rmdir()

    def write(self, wanted):
        """Have these files, and no others. wanted: {path: bytes, or None if there is to be none}."""
        there = self.files()
        for path in there.keys() | wanted.keys():
            if wanted.get(path) is None:
                path.unlink(missing_ok=True)
            elif there.get(path) != wanted[path]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wanted[path])

    def call(self, script, argv, stdin):
        """In this process. Returns (exit code, what was written to stderr)."""
        out, err, previous = io.StringIO(), io.StringIO(), sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
        signal.alarm(60)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                warnings.simplefilter("always")
                code = MAINS[script](argv) or 0
        except SystemExit as end:  # with a number, or with a message, for which Python itself exits with 1
            code = end.code or 0
            if isinstance(code, str):
                code = print(code, file=err) or 1
        finally:
            signal.alarm(0)
            sys.stdin = previous
        return code, err.getvalue()

    def start(self, script, argv, stdin):
        """As a process of its own."""
        words = ["-m", script] if script.startswith("tools.") else [script]
        try:
            command = [sys.executable, *words, *argv]
            result = subprocess.run(command, cwd=self.home, input=stdin, capture_output=True, timeout=120)
        except (ValueError, OSError):  # No program can be given such words.
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
# A command line may hold half characters (bytes that are not UTF-8 become such), but no null byte.
TEXT = st.text(st.characters(exclude_characters="\0"), max_size=12)
VALUES = st.one_of(
    NUMBERS.map(str),
    TEXT,
    st.sampled_from(["", "True", "auto", "cpu", "cuda", "mps", "float16", "1e999", "1_0", "--", "=", "x" * 5000]),
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
    value = copy_nested(value)
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


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def to_bytes(text) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def to_json(value) -> bytes:
    return json.dumps(value).encode()


def config_files():
    """Config files: a good one that is damaged, and good and odd assignments."""
    good = "".join(f"{name} = {field.default!r}\n" for name, field in config.FIELDS.items())
    value = (
        ODD.map(repr) | st.text(max_size=12) | st.sampled_from(["__import__('os').mkdir('executed')", "1+1", "[" * 999])
    )
    line = st.builds("{} = {}".format, st.sampled_from([*config.FIELDS, "x", "1", "a.b"]), value)
    text = st.lists(line, max_size=4).map("\n".join)
    encoding = st.sampled_from(["utf-16", "utf-16-be", "utf-8-sig", "gb18030", "cp1252"])
    other = st.builds(lambda text, name: text.encode(name, "replace"), st.just(good) | text, encoding)
    return damaged(good.encode()) | text.map(to_bytes) | other | other.flatmap(damaged)


def records():
    """JSON of the kinds that data sets have, in any way of writing it, with odd values among them."""
    text = st.sampled_from([make_text(3), "一", ""]) | st.text(max_size=5)
    turn = st.fixed_dictionaries({"role": ODD, "content": text | ODD}) | st.fixed_dictionaries({"value": text})
    inner = st.dictionaries(st.sampled_from(KEYS), text | st.lists(turn, max_size=2), max_size=2)
    nested = inner | st.lists(inner, max_size=2)
    value = text | text | ODD | st.lists(turn, max_size=3) | st.lists(text, max_size=3) | nested
    record = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), value, max_size=3)
    same = st.builds(  # such as are read, most of the time
        lambda key, texts: [{key: text, "id": 1} for text in texts],
        st.sampled_from(KEYS),
        st.lists(st.just(make_text(4)) | value, min_size=1, max_size=5),
    )
    many = same | same | st.lists(record | text | JSON, max_size=4)
    written = many.flatmap(
        lambda values: st.sampled_from(
            [
                "\n".join(map(json.dumps, values)),
                ",\r\n".join(json.dumps(value, indent=1) for value in values),
                json.dumps(values),
                json.dumps(values, indent=2),
            ]
        )
    )
    good = written.map(to_bytes)
    encoding = st.sampled_from(["gb18030", "utf-16", "utf-8-sig"])
    return good | good.flatmap(damaged) | st.builds(lambda data, name: data.decode().encode(name), good, encoding)


def tables():
    """CSV and the like, well written or not."""
    cell = st.sampled_from([make_text(3), "一", "", '"', 'a "b"']) | TEXT
    rows = st.lists(st.lists(cell, max_size=3), max_size=4)
    head = st.lists(st.sampled_from(KEYS), max_size=3)

    def write(head, rows, delimiter, quote):
        lines = (delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in [head, *rows])
        return to_bytes("\r\n".join(lines))

    good = st.builds(write, head, rows, st.sampled_from(",;\t"), st.sampled_from(["", '"']))
    return good | good.flatmap(damaged)


def damaged_texts():
    text = make_text(30)
    good = [
        text.encode(name) for name in ("utf-8", "gb18030", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
    ]
    good += [(TRADITIONAL * 30).encode(name) for name in ("utf-8", "big5", "gb18030")]
    good += [("\n<|endoftext|>\n".join([text] * 3)).encode(), (text * 2).replace("\n", "\r\n\r\n").encode()]
    return st.sampled_from(good).flatmap(damaged) | st.sampled_from(good) | st.binary(max_size=500)


def encodings():
    known = [
        "auto",
        "auto",
        "utf-8",
        "gb18030",
        "big5",
        "utf-16",
        "utf-7",
        "hz",
        "iso2022_jp",
        "idna",
        "rot13",
        "cp037",
    ]
    return st.sampled_from(known) | st.sampled_from(known) | TEXT


def splits():
    """Regular expressions, none of which takes exponential time: nothing that repeats holds a repetition."""
    atom = st.sampled_from(
        ["", "a", "。", ".", r"\n", r"\s", r"\b", "^", "$", "[^a]", "(", ")", "[", "|", "\\", r"\A", r"\Z"]
    )
    often = st.builds("{}{}".format, atom, st.sampled_from(["", "", "*", "+?", "{2,}", "{9}", "{99999999999}"]))
    ahead = atom.flatmap(lambda atom: st.sampled_from([f"(?={atom})", f"(?<={atom})", f"(?!{atom})", f"(?i){atom}"]))
    odd = st.lists(often | ahead, max_size=3).map("".join)
    return st.sampled_from(["line", "blank", "<|endoftext|>", "[SEP]"]) | odd | TEXT.filter(lambda t: "*" not in t)


# --- targets


def targets(room):
    """name -> (share of the cases, strategy, what is done with a case)."""
    good = {path.relative_to(room.home).as_posix(): content for path, content in room.good.items()}
    tokenizer, corpus, poems = f"{DATA}/tokenizer.json", "data/book/corpus.jsonl", "clone/poet.tang.0.json"
    best, latest, log = "out/run/best.pt", "out/run/ckpt.pt", "out/run/loss_log.json"
    sampling = ["--run=run", "--prompt=曹操", "--max_new_tokens=3"]
    resuming = [*TINY, "--max_steps=22", "--resume"]
    beginning = [*ONE_STEP, f"--init_from={MODEL}"]

    def command_line(share, script, *words, after=()):
        """Flags that its --help names, with any value or none, and words of any kind."""
        flags = st.sampled_from(sorted(set(re.findall(r"--\w+", help_of(script)))))
        word = st.one_of(
            st.builds("{}={}".format, flags, VALUES),
            flags,
            VALUES,
            st.sampled_from([*words, "x", "/dev/null"]),
            TEXT.map("--{}".format),
        )
        return share, st.lists(word, max_size=5), lambda argv: room.check(script, [*argv, *after])

    def file(share, strategy, name, script, argv, **others):
        return share, strategy, lambda content: room.check(script, argv, {name: content, **others})

    def json_file(share, name, script, argv, **others):
        strategy = tampered(json.loads(good[name])).map(to_json) | damaged(good[name])
        return file(share, strategy, name, script, argv, **others)

    def checkpoint(share, name, script, argv, **more):
        value = torch.load(io.BytesIO(good[name])) | more
        strategy = tampered(value, tensors(room.witness)).map(saved) | damaged(good[name])
        return file(share, strategy, name, script, argv)

    def tokenizer_in_checkpoint(share, script, argv):
        value = torch.load(io.BytesIO(good[best]))
        texts = tampered(json.loads(good[tokenizer])).map(to_json) | damaged(good[tokenizer])
        strategy = texts.map(lambda text: saved(value | {"tokenizer": text.decode("latin-1")}))
        return file(share, strategy, best, script, argv)

    def tokens(split):
        """A .bin file of the length that meta.json says."""
        content = good[f"{DATA}/{split}.bin"]
        strategy = damaged(content).map(lambda changed: (changed + content)[: len(content)])
        return file(3, strategy, f"{DATA}/{split}.bin", "train.py", ONE_STEP)

    lines = st.lists(tampered({"text": make_text(3)}).map(json.dumps), max_size=4).map("\n".join).map(to_bytes)
    lines |= damaged(good[corpus])
    own = [*TINY, "--dataset=book"]
    keys = st.sampled_from(KEYS) | TEXT
    flag = st.one_of(
        splits().map("--split={}".format),
        encodings().map("--encoding={}".format),
        st.lists(keys | st.builds("{}.{}".format, keys, keys), max_size=3).map(
            lambda keys: f"--text_key={','.join(keys)}"
        ),
        st.sampled_from(["--val_corpus=data/v.json", "--val_corpus=data/folder/a.MD", "--shard=2/3"]),
    )

    def own_texts(case):
        """A text of one's own: a file, or a folder of several, with any flags."""
        name, text, json_text, table, flags, links = case
        files = {"x.txt": text, "x.json": json_text, "v.json": json_text, "x.csv": table, "x.srt": text}
        files |= {
            "folder/a.MD": text,
            "folder/b.ndjson": json_text,
            "folder/._c.txt": b"\0\5\x16\7",
            "folder/9.csv": table,
        }
        files = {f"data/{file}": content for file, content in files.items()}
        links = {f"data/folder/{name}": target for name, target in links.items()}
        room.check("prepare.py", [f"--corpus=data/{name}", *own, *flags], files, links=links)

    def many_prompts(case):
        content, flags = case
        argv = ["--run=run", "--prompts_file=data/p.txt", "--max_new_tokens=3", *flags]
        room.check("sample.py", argv, {"data/p.txt": content, "data/s.jsonl": None})

    stops = st.lists(TEXT.map("--stop={}".format), max_size=3)
    outs = st.sampled_from([[], ["--out=data/s.jsonl", "--num_samples=2"], ["--out=data/no/s.jsonl"], ["--out=data"]])
    scaler = torch.amp.GradScaler("cpu").state_dict()
    to_gguf = ["run", "--format=gguf", "--out=out/exported.gguf"]
    return {
        # command lines
        "train_tokenizer.py": command_line(4, "train_tokenizer.py", "mine.py", after=TINY),
        "prepare.py": command_line(6, "prepare.py", "mine.py", after=TINY),
        "train.py": command_line(8, "train.py", "mine.py", after=ONE_STEP),
        "sample.py": command_line(
            10, "sample.py", "run", "out/run", "/", after=["--num_samples=2", "--max_new_tokens=2"]
        ),
        "plot_loss.py": command_line(1, "plot_loss.py", "run", "out/run", ".svg"),
        "tools.export": command_line(1, "tools.export", "run"),
        "tools.report": command_line(1, "tools.report", "run", "out/run"),
        "data/sanguo.py": command_line(1, "data/sanguo.py"),
        "data/poetry.py": command_line(1, "data/poetry.py", "clone"),
        # text
        "config file": file(10, config_files(), "mine.py", "train.py", ["mine.py", *ONE_STEP]),
        "corpus.jsonl": file(6, lines | records(), corpus, "prepare.py", TINY),
        "corpus.jsonl, train_tokenizer.py": file(2, lines | records(), corpus, "train_tokenizer.py", TINY),
        "corpus.txt": file(4, damaged_texts(), "data/x.txt", "prepare.py", ["--corpus=data/x.txt", *own]),
        "texts of one's own": (
            12,
            st.tuples(
                st.sampled_from(["x.txt", "x.json", "x.csv", "x.srt", "folder", "folder", "folder/a.MD"]),
                damaged_texts(),
                records(),
                tables(),
                st.lists(flag, max_size=3),
                st.dictionaries(
                    st.sampled_from(["l.txt", "l", "z.json"]),
                    st.sampled_from(["..", ".", "a.MD", "nowhere", "../../clone", "l", "l.txt", "/dev/null"]),
                ),
            ),
            own_texts,
        ),
        "poems": json_file(4, poems, "data/poetry.py", ["--from=clone"], **{"data/poetry/corpus.jsonl": None}),
        "prompts": (6, st.text(), lambda text: room.check("sample.py", [*sampling, f"--prompt={text}"])),
        "bytes on stdin": (
            6,
            st.binary() | damaged(make_text(3).encode()),
            lambda content: room.check("sample.py", ["--run=run", "--max_new_tokens=3"], stdin=content),
        ),
        "prompts_file, --stop, --out": (
            6,
            st.tuples(damaged_texts(), st.builds(operator.add, stops, outs)),
            many_prompts,
        ),
        # tokens
        "tokenizer.json": json_file(10, tokenizer, "prepare.py", TINY),
        "tokenizer.json, tools.report": json_file(1, tokenizer, "tools.report", ["--tokenizer", *TINY]),
        "meta.json": json_file(8, f"{DATA}/meta.json", "train.py", ONE_STEP),
        "train.bin": tokens("train"),
        "val.bin": tokens("val"),
        # runs
        "best.pt": checkpoint(12, best, "sample.py", sampling),
        "best.pt, tools.report": checkpoint(1, best, "tools.report", ["run"]),
        "best.pt, its tokenizer": tokenizer_in_checkpoint(6, "sample.py", sampling),
        "best.pt, its tokenizer, tools.export": tokenizer_in_checkpoint(2, "tools.export", to_gguf),
        "ckpt.pt": checkpoint(8, latest, "train.py", resuming),
        "ckpt.pt, --resume in float16": checkpoint(
            2, latest, "train.py", [*resuming, "--dtype=float16"], scaler=scaler
        ),
        "loss_log.json": json_file(2, log, "plot_loss.py", ["run"]),
        "loss_log.json, tools.export": json_file(1, log, "tools.export", ["run", "--out=out/exported"]),
        "loss_log.json, tools.report": json_file(1, log, "tools.report", ["run"]),
        # what training begins with
        "init_from, best.pt": checkpoint(3, best, "train.py", [*ONE_STEP, "--init_from=out/run"]),
        "init_from, config.json": json_file(3, f"{MODEL}/config.json", "train.py", beginning),
        "init_from, tokenizer.json": json_file(3, f"{MODEL}/tokenizer.json", "train.py", beginning),
        "init_from, tokenizer_config.json": json_file(3, f"{MODEL}/tokenizer_config.json", "train.py", beginning),
        "init_from, model.safetensors": file(
            3, damaged(good[f"{MODEL}/model.safetensors"]), f"{MODEL}/model.safetensors", "train.py", beginning
        ),
    }


def help_of(script) -> str:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        MAINS[script](["--help"])
    return out.getvalue()


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
            except Exception as error:
                faults += 1
                error.__notes__ = [note[:1000] for note in getattr(error, "__notes__", ())]  # They hold whole files.
                print(f"\n{name}:", *traceback.format_exception(error), sep="\n")
                break
            left -= 1000
        print(f"{name:36} {room.cases - before:7,} cases {time.monotonic() - begin:7.0f} s", flush=True)
    return faults


def too_slow(*_):
    raise AssertionError("it takes more than a minute")


def limit_memory(size):
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size or resource.RLIM_INFINITY, resource.RLIM_INFINITY))


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


if __name__ == "__main__":
    sys.exit(main())
