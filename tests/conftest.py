"""Each test works in a folder of its own, with a small real corpus, tokenizer and tokens made by the scripts."""

import gc
import os
import random
import shutil
import signal
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

import config
import prepare
import train
import train_tokenizer
from lib.errors import UserError
from lib.tokens.prepared import shard_suffix

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Small models are no faster on two threads, and much slower where something else is busy.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

# A shell starts a background job with SIGINT ignored, nohup with SIGHUP, and the tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config):
    """What is not marked gpu compares exactly, which holds on a CPU only."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    gc.set_threshold(100_000)  # Libraries leave millions of objects; to look for garbage among them takes seconds.


SCRIPTS = Path(config.__file__).parent.parent
WORDS = [
    "曹操",
    "刘备",
    "孙权",
    "玄德",
    "孔明",
    "将军",
    "丞相",
    "大军",
    "次日",
    "忽然",
    "天下",
    "城中",
    "引兵",
    "而去",
    "大喜",
    "不可",
    "如何",
    "何不",
    "the",
    "world,",
    "1949年",
    "hello",
]

# A model that trains in a second. The tests' own flags come after these.
TINY = [
    "--dataset=book",
    "--vocab_size=400",
    "--n_layer=2",
    "--n_head=4",
    "--n_kv_head=2",
    "--n_embd=32",
    "--block_size=32",
    "--batch_size=4",
    "--max_steps=20",
    "--warmup_steps=5",
    "--eval_interval=10",
    "--learning_rate=1e-2",
    "--min_lr=1e-3",
    "--log_interval=1",
    "--device=cpu",
    "--dtype=float32",  # the same figures on every CPU
    "--run=run",
    "--prompts=",  # sampling takes time
]


def make_text(lines, seed=0):
    """Lines of random words, punctuated like Chinese prose."""
    words = random.Random(seed)
    return "".join(
        "，".join("".join(words.choices(WORDS, k=words.randint(2, 5))) for _ in range(words.randint(1, 4))) + "。\n"
        for _ in range(lines)
    )


def read_tokens(folder, meta, split):
    """The token ids of a split, all of them."""
    n = len(meta[split]["shards"])
    paths = [folder / f"{split}{shard_suffix(k, n)}.bin" for k in range(1, n + 1)]
    return np.concatenate([np.fromfile(path, np.dtype(meta["dtype"]).newbyteorder("<")) for path in paths])


def copy_scripts(home):
    """The scripts and what they import, in another folder, to be started there as real processes."""
    for path in [*SCRIPTS.glob("*.py"), *(SCRIPTS / name for name in ("config", "lib", "tools"))]:
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, home / path.name)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A home folder with data/book, tokenized."""
    home = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", home)
        (home / "data" / "book").mkdir(parents=True)
        (home / "data" / "book" / "corpus.txt").write_text(make_text(600), encoding="utf-8")
        assert train_tokenizer.main(TINY) == 0
        assert prepare.main(TINY) == 0
    return home


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory):
    """A home folder with a finished run, out/run."""
    home = tmp_path_factory.mktemp("trained") / "home"
    shutil.copytree(prepared, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", home)
        assert train.main(TINY) == 0
    return home


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder: data/ and out/ are here."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def book(home, prepared):
    """A home folder with data/book, tokenized."""
    shutil.copytree(prepared, home, dirs_exist_ok=True)
    return home


@pytest.fixture
def run(home, trained):
    """A home folder with a finished run, out/run; returns the folder of the run."""
    shutil.copytree(trained, home, dirs_exist_ok=True)
    return home / "out" / "run"


@pytest.fixture
def clone(tmp_path, prepared):
    """The scripts, copied beside a tokenized data/book, to be started as real processes."""
    copy_scripts(tmp_path)
    shutil.copytree(prepared / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture
def fails(capsys):
    """Call a script's main; it must fail with an exit code and one line of error, which is returned."""

    def call(main, argv, code=1):
        capsys.readouterr()
        try:
            found = main(argv)
        except SystemExit as end:  # argparse ends so
            found = end.code
        assert found == code
        *notices, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and not any("error" in line or "Traceback" in line for line in notices)
        return error

    return call


@pytest.fixture
def gpus(monkeypatch):
    """Call it to pretend that so many GPUs are here; it returns the list of those that are chosen from now on."""
    monkeypatch.setattr("lib.machine.device.computes_like_cpu", lambda *_: "as it should")

    def pretend(n, capability=(9, 0)):
        chosen = []
        answers = {"is_available": True, "device_count": n, "set_device": None, "get_arch_list": ["sm_75", "sm_90"]}
        answers |= {"get_device_capability": capability, "get_device_name": "Old card"}
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return pretend


def at_step(monkeypatch, wanted, action):
    """Call `action` in every process that comes to the step."""
    batch_offsets = train.batch_offsets

    def call(seed, step, *sizes):
        if step == wanted:
            action()
        return batch_offsets(seed, step, *sizes)

    monkeypatch.setattr(train, "batch_offsets", call)


@pytest.fixture
def fails_at(monkeypatch, fails):
    """Call train.main, which fails when it comes to a step: what it saved before is what --resume goes on from."""

    def stop():
        raise UserError("enough")

    def call(wanted, argv):
        with monkeypatch.context() as patch:
            at_step(patch, wanted, stop)
            assert fails(train.main, argv) == "error: enough"

    return call
