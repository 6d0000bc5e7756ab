import pytest

from config import FIELDS, GROUPS, Config, load_config
from lib.errors import ArgumentParser
from tests.conftest import SCRIPTS


def load(*argv):
    return load_config(argv, ArgumentParser(prog="train.py"))[0]


@pytest.fixture
def refuses(capsys):
    """Load what must be refused, as a usage error of one line, which is returned."""

    def call(*argv):
        with pytest.raises(SystemExit) as end:
            load(*argv)
        line = capsys.readouterr().err
        assert end.value.code == 2
        assert line.startswith("error: ") and line.endswith(" (see train.py --help)\n") and line.count("\n") == 1
        return line

    return call


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_later_wins_and_the_run_is_named_after_the_file(tmp_path):
    path = write(tmp_path, '"""Mine."""\nn_layer = 3\nlearning_rate = 1  # an int is fine\nrun = ""\n')
    config = load(path, "--n_layer=2", "--n_layer", "4")
    assert (config.n_layer, config.learning_rate, config.run) == (4, 1.0, "mine")
    assert config.changes() == {"n_layer": 4, "learning_rate": 1.0, "run": "mine"}
    assert load() == Config(run="small")


def test_values_that_break_naive_parsers():
    config = load("--run=1949", "--learning_rate=1", "--max_steps=1e3", "--corpus=a=b.txt", "--tie_embeddings=false")
    assert (config.run, config.learning_rate, config.max_steps) == ("1949", 1.0, 1000)
    assert (config.corpus, config.dataset, config.tie_embeddings) == ("a=b.txt", "a=b", False)
    assert load("--tie_embeddings").tie_embeddings is True


def test_your_own_corpus_never_shares_a_folder_with_the_config_files():
    tiny = str(SCRIPTS / "config" / "tiny.py")
    assert load(tiny).dataset == "sanguo"
    assert load(tiny, "--corpus=books/红楼梦.txt").dataset == "红楼梦"
    assert load(tiny, "--corpus=books/红楼梦.txt", "--dataset=x").dataset == "x"


def test_a_corpus_is_named_as_its_folder_is(home, tmp_path, monkeypatch):
    (home / "a.b" / "books").mkdir(parents=True)
    monkeypatch.chdir(home / "a.b" / "books")
    assert [load(f"--corpus={name}").dataset for name in (".", "./", "..", "../books/")] == [
        "books",
        "books",
        "a",
        "books",
    ]
    assert load("--corpus=", "--dataset=x").corpus == "" and load("--corpus=").dataset == "poetry"
    monkeypatch.setenv("HOME", str(home))
    assert load("--corpus=~/a.txt", "--val_corpus=~/b.txt").changes() == {
        "corpus": str(home / "a.txt"),
        "val_corpus": str(home / "b.txt"),
        "dataset": "a",
        "run": "small",
    }


def test_a_corpus_in_a_config_file_has_a_dataset_of_its_own_too(tmp_path):
    path = write(tmp_path, 'corpus = "book.txt"')
    assert load(path).dataset == "book"
    assert load(path, "--dataset=x").dataset == "x"
    assert load(path, "--corpus=other.txt").dataset == "other"


def test_a_corpus_never_takes_the_place_of_a_built_in_one(home, tmp_path, refuses):
    (home / "data" / "sanguo").mkdir(parents=True)
    (home / "data" / "sanguo.py").touch()
    assert "--dataset=my_sanguo" in refuses("--corpus=sanguo.txt")
    path = write(tmp_path, 'corpus = "sanguo.txt"')
    assert "--dataset=my_sanguo" in refuses(path)
    assert load(path, "--dataset=my_sanguo").dataset == "my_sanguo"
    assert load(f"--corpus={home / 'data' / 'sanguo'}").dataset == "sanguo"
    assert load("--corpus=sanguo.txt", "--dataset=sanguo").dataset == "sanguo"


def test_a_config_file_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forms = (
        ["config/tiny.py"],
        ["tiny.py"],
        ["tiny"],
        ["config/tiny"],
        ["--config", "config/tiny.py"],
        ["--config=tiny"],
    )
    assert {load(*form) for form in forms} == {load(str(SCRIPTS / "config" / "tiny.py"))}
    (tmp_path / "tiny.py").write_text("n_layer = 3", encoding="utf-8")
    assert load("tiny").n_layer == 3  # The working folder comes first.


def test_short_and_other_names_of_values(tmp_path):
    for names, value in (
        ("bf16 bfloat16 BF16", "bfloat16"),
        ("fp16 half float16", "float16"),
        ("fp32 float", "float32"),
    ):
        assert {load(f"--dtype={name}").dtype for name in names.split()} == {value}
    for names, value in (("True true yes on 1", True), ("False false no off 0", False)):
        for name in names.split():
            config = load(f"--compile={name}", f"--tie_embeddings={name}")
            assert (config.compile, config.tie_embeddings) == ("on" if value else "off", value)
    assert load("--compile=auto").compile == "auto" and load("--device=cuda:1").device == "cuda:1"
    assert load(write(tmp_path, "compile = False\ndtype = 'bf16'")).changes() == {
        "compile": "off",
        "dtype": "bfloat16",
        "run": "mine",
    }


def test_a_run_has_a_flag_that_torchrun_leaves_alone():
    assert load("--run_name=x").run == load("--run=x").run == "x"


def test_the_config_files_load_and_the_small_one_is_the_default():
    files = sorted((SCRIPTS / "config").glob("[!_]*.py"))
    assert {path.stem for path in files} >= {"tiny", "small", "base", "finetune"}
    assert [load(str(path)).run for path in files] == [path.stem for path in files]
    assert load(str(SCRIPTS / "config" / "small.py")) == Config(run="small")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--n_layerz=3"], ["unknown flag --n_layerz", "did you mean --n_layer?"]),
        (["--n_layer=three"], ["--n_layer", "three", "whole number"]),
        (["--n_layer=2.5"], ["--n_layer", "2.5"]),
        (["--n_layer=True"], ["--n_layer", "True"]),
        (["--learning_rate=nan"], ["--learning_rate", "nan"]),
        (["--learning_rate=1e999"], ["--learning_rate", "inf is above 1e+30"]),
        (["--tie_embeddings=maybe"], ["--tie_embeddings", "maybe"]),
        (["--n_layer=0"], ["--n_layer", "below 1"]),
        (["--device=tpu"], ["--device", "tpu", "cuda"]),
        (["--vocab_size=259"], ["--vocab_size", "260"]),
        (["--n_embd=100"], ["--n_embd", "100", "n_head 6"]),
        (["--head_dim=33"], ["--head_dim", "odd"]),
        (["--n_embd=90"], ["--n_embd", "odd"]),
        (["--n_kv_head=4"], ["--n_kv_head", "n_head 6"]),
        (["--micro_batch_size=24"], ["--micro_batch_size", "24", "batch_size 64"]),
        (["--min_lr=1"], ["--min_lr", "learning_rate"]),
        (["--run=../x"], ["--run", "folder name"]),
        (["--dropout=1.0"], ["--dropout", "0.99"]),
        (["config/smal.py"], ["config/smal.py", "config/small.py"]),
        (["--dataset=x", "one.py", "two.py"], ["two.py", "one config file"]),
        (["one.py", "--config=two.py"], ["--config", "not allowed"]),
        (["novel.txt"], ["novel.txt", "config/tiny.py", "--corpus=novel.txt"]),
        (["max_steps=5"], ["--max_steps=5"]),
        (["--max_iters=5"], ["unknown flag --max_iters", "--max_steps"]),
        (["--max_iters", "5", "config/tiny.py"], ["unknown flag --max_iters", "--max_steps"]),
        (["--lr=1"], ["--learning_rate"]),
        (["--epochs=3"], ["--max_steps", "epochs"]),
        (["--gradient_accumulation_steps=8"], ["--micro_batch_size=4", "--batch_size=32"]),
        (["--context-length=8"], ["--block_size"]),
        (["--out_dir=x"], ["--run"]),
        (["--device=gpu"], ["--device", "gpu", "cuda:1"]),
        (["--corpus=/"], ["--corpus=/", "dataset", "empty"]),
    ],
)
def test_bad_flags_name_the_flag(refuses, argv, words):
    line = refuses(*argv)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_layerz = 3", ["line 1", "n_layerz", "did you mean n_layer?"]),
        ("max_iters = 3", ["line 1", "max_iters", "here it is max_steps"]),
        ("n_head = 6\nn_layer = '3'", ["line 2", "n_layer", "whole number"]),
        ("n_layer = 2 * 3", ["line 1", "plain number"]),
        ("import os", ["line 1", "never executed"]),
        ("n_layer: int = 3", ["line 1", "name = value"]),
        ("n_layer = n_head = 3", ["line 1", "name = value"]),
        ("n_layer = 'x", ["line 1", "not a config file"]),
        ("n_layer = " + "(" * 5000 + ")" * 5000, ["not a config file"]),
        ("n_layer = \0", ["not a config file"]),
        ("n_kv_head = 4", ["mine.py", "n_kv_head", "n_head 6"]),
        ("tie_embeddings = 1", ["line 1", "True or False"]),
        ("min_lr = 6e-4\nlearning_rate = 1e-4", ["line 1", "is above learning_rate 0.0001; add --min_lr=1e-05"]),
        ("corpus = 'chat 12:30.txt'", ["line 1", "chat 12:30", "--dataset=NAME"]),
    ],
)
def test_bad_files_name_the_line(tmp_path, refuses, text, words):
    line = refuses(write(tmp_path, text))
    assert all(word in line for word in words), line


def test_config_files_as_windows_saves_them(tmp_path):
    text = '# 我的设置\r\nn_layer = 2\r\nprompts = "你好|"\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gb18030"):
        path = tmp_path / "mine.py"
        path.write_bytes(text.encode(encoding))
        config = load(str(path))
        assert (config.n_layer, config.prompts) == (2, "你好|")


def test_a_config_file_is_never_executed(tmp_path, refuses):
    witness = tmp_path / "witness"
    for text in (f"__import__('pathlib').Path({str(witness)!r}).touch()", f"run = open({str(witness)!r}, 'w').name"):
        refuses(write(tmp_path, text))
    assert not witness.exists()


def test_every_key_is_typed_and_explained():
    for field in FIELDS.values():
        assert field.type in (int, float, str, bool) and len(field.metadata["help"]) > 5


def test_help_lists_every_key_with_its_default_in_groups(capsys):
    with pytest.raises(SystemExit) as exit:
        load("--help")
    assert exit.value.code == 0
    out = capsys.readouterr().out
    headings = [out.index(f"\n{group}:\n") for group in GROUPS]
    assert headings == sorted(headings) and headings[1] < out.index("\n  --n_layer ") < headings[2]
    text = " ".join(out.split())
    assert all(f"--{name}" in text and f"[{field.default}]" in text for name, field in FIELDS.items())


def test_derived_sizes():
    config = Config(n_embd=384, n_head=6, batch_size=8, micro_batch_size=64)
    assert (config.head_size, config.ffn_size, config.micro_size()) == (64, 1024, 8)
    assert Config(n_embd=128, n_head=4).ffn_size == 384
    assert Config(head_dim=10, intermediate_size=77).ffn_size == 77
