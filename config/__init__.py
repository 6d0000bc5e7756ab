"""The one config that all scripts share: what can be set, its default, and how it is read.

Values come from the defaults below, then from a config file, then from the command line; later wins.
A config file holds nothing but `name = literal` lines. It is parsed, never executed, so that a
stranger's config is safe to run.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
import itertools
import locale
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # data/ and out/ are here, whatever the working folder
LARGEST = 1 << 24  # No size may exceed it, so that the product of two fits into 64 bits.
DEVICES = ("auto", "cuda", "mps", "cpu", *(f"cuda:{i}" for i in range(8)))
DTYPES = ("auto", "float32", "bfloat16", "float16")


def _setting(group, default, help, low=None, high=2**31 - 1, choices=()):
    about = {"group": group, "help": help, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=about)


GROUPS = ("corpus and tokenizer", "model", "training", "watching and saving", "machine")
_text, _model, _train, _watch, _machine = (functools.partial(_setting, group) for group in GROUPS)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that can be set. The defaults are the ~10M model of config/small.py."""

    dataset: str = _text("poetry", "name of the corpus: its folder is data/<dataset>")
    corpus: str = _text("", "your own text: a file such as .txt, .md, .jsonl or .csv, or a folder of them")
    val_corpus: str = _text("", "a text for validation ('': the end of the corpus)")
    encoding: str = _text("auto", "of the corpus files: auto, or any name Python knows (utf-8, gb18030, big5)")
    text_key: str = _text("", "key of the text in records (a.b: b inside a), or several, joined: instruction,output")
    split: str = _text("", "what separates documents in a .txt: line, blank (blank lines) or a regular expression")
    val_fraction: float = _text(0.1, "share of the text kept for validation, taken from its end", 0.001, 0.5)
    vocab_size: int = _text(5000, "tokens to learn, with the 256 bytes and 4 special ones", 260, LARGEST)
    min_frequency: int = _text(2, "a pair of tokens is merged only if seen this often", 1)
    bos_token: str = _text("<bos>", "begins a document, '' for none")
    eos_token: str = _text("<eos>", "ends a document")
    init_from: str = _text("", "begin with a Qwen3 model (its folder) or an earlier run: tokenizer, shape, weights")

    # 0 = derived from the others
    n_layer: int = _model(6, "transformer blocks", 1, 1000)
    n_head: int = _model(6, "query heads", 1, LARGEST)
    n_kv_head: int = _model(2, "key/value heads, each shared by n_head / n_kv_head query heads", 1, LARGEST)
    n_embd: int = _model(384, "width of the residual stream", 1, LARGEST)
    head_dim: int = _model(0, "width of a head (0: n_embd / n_head)", 0, LARGEST)
    intermediate_size: int = _model(0, "width of the SwiGLU (0: 8/3 n_embd, up to a multiple of 64)", 0, LARGEST)
    rope_theta: float = _model(10000.0, "base of the rotary position embedding", 1.0, 1e30)
    norm_eps: float = _model(1e-6, "epsilon of RMSNorm", 0.0, 1.0)
    tie_embeddings: bool = _model(True, "use the token embedding as the output head too")
    block_size: int = _model(256, "context length in tokens", 2, LARGEST)
    dropout: float = _model(0.0, "on the residual branches", 0.0, 0.99)

    batch_size: int = _train(64, "sequences in one optimizer step, over all devices", 1)
    micro_batch_size: int = _train(0, "sequences in one forward pass (0: batch_size); lower it to save memory", 0)
    max_steps: int = _train(5000, "optimizer steps", 1)
    learning_rate: float = _train(1e-3, "peak learning rate", 1e-12, 1e30)
    embedding_lr: float = _train(1e-2, "that of the token embedding, same schedule (0: learning_rate)", 0.0, 1e30)
    min_lr: float = _train(1e-4, "learning rate at the end of the cosine", 0.0, 1e30)
    warmup_steps: int = _train(1000, "steps of linear warmup", 0)
    hold_steps: int = _train(0, "steps at the peak before the cosine begins", 0)
    optimizer: str = _train("adamw", "adamw, or muon for the matrices inside the blocks", choices=("adamw", "muon"))
    weight_decay: float = _train(0.1, "on matrices only", 0.0, 1e3)
    beta1: float = _train(0.9, "AdamW's average of gradients", 0.0, 0.9999)
    beta2: float = _train(0.95, "AdamW's average of squared gradients", 0.0, 0.99999)
    grad_clip: float = _train(1.0, "largest gradient norm (0: no clipping)", 0.0, 1e30)
    averaging: float = _train(0.0, "average the weights: their mean age, as a share of the run (0: off)", 0.0, 0.5)
    seed: int = _train(1337, "of the weights, the batches and the dropout", 0)

    eval_interval: int = _watch(500, "steps between evaluations; each one saves a checkpoint", 1)
    patience: int = _watch(0, "evaluations without a better loss after which the run ends (0: never)", 0)
    eval_tokens: int = _watch(500_000, "validation tokens used, from the start of the split (0: all)", 0)
    log_interval: int = _watch(0, "steps between log records (0: max_steps / 1000)", 0)
    run: str = _watch("", "name of the run: its folder is out/<run> ('': the config file's); for torchrun --run_name")
    prompts: str = _watch("你好|", "texts to continue at each evaluation, split at |; an empty one: a line of yours")
    tensorboard: bool = _watch(False, "write the log for TensorBoard too, into the folder of the run")

    device: str = _machine("auto", "cuda (or one of several: cuda:1), mps or cpu", choices=DEVICES)
    dtype: str = _machine("auto", "of the arithmetic; weights stay float32", choices=DTYPES)
    compile: str = _machine("auto", "torch.compile the model (auto: where it pays)", choices=("auto", "on", "off"))

    def __post_init__(self):
        """Raise ValueError("key: what is wrong with it") for the first value that cannot be used."""

        def require(key, sound, problem):
            if not sound:
                raise ValueError(f"{key}: {getattr(self, key)!r} {problem}")

        for key, field in FIELDS.items():
            value, about = getattr(self, key), field.metadata
            require(key, type(value) is field.type, f"is not {_KIND[field.type]}")
            if choices := about["choices"]:
                require(key, value in choices, f"is not one of {', '.join(choices)}")
            if field.type in (int, float):
                require(key, value >= about["low"], f"is below {about['low']} ({about['help']})")  # or not-a-number
                require(key, value <= about["high"], f"is above {about['high']} ({about['help']})")
        require("n_embd", self.head_dim or self.n_embd % self.n_head == 0, f"is not divisible by n_head {self.n_head}")
        require("head_dim" if self.head_dim else "n_embd", self.head_size % 2 == 0, "makes heads of an odd size")
        require("n_kv_head", self.n_head % self.n_kv_head == 0, f"does not divide n_head {self.n_head}")
        divides = self.batch_size % self.micro_size() == 0
        require("micro_batch_size", divides, f"does not divide batch_size {self.batch_size}")
        lower = f"is above learning_rate {self.learning_rate:g}; add --min_lr={self.learning_rate / 10:g}"
        require("min_lr", self.min_lr <= self.learning_rate, lower)
        require("dataset", self.dataset, "must not be empty")
        for key in ("dataset", "run"):
            name = getattr(self, key)
            plain = name not in (".", "..") and not any(c in "/\\:\0" for c in name)
            require(key, plain, f"must be a plain folder name, without a path; give one with --{key}=NAME")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def ffn_size(self) -> int:
        """Width of the SwiGLU: three matrices of 8/3 n_embd hold as many weights as GPT-2's two of 4 n_embd."""
        return self.intermediate_size or -(-8 * self.n_embd // (3 * 64)) * 64

    def micro_size(self, n_processes=1) -> int:
        """The sequences of one forward pass, where several processes share a batch."""
        share = self.batch_size // n_processes
        return min(self.micro_batch_size, share) or share

    @property
    def corpus_dir(self) -> Path:
        return ROOT / "data" / self.dataset

    @property
    def tokens_dir(self) -> Path:
        """Where a tokenizer and the tokens it made live together."""
        if not self.init_from:
            return self.corpus_dir / f"bpe{self.vocab_size}"
        source = Path(self.init_from).resolve()
        return self.corpus_dir / (source.parent if source.suffix == ".pt" else source).name

    @property
    def run_dir(self) -> Path:
        return out_dir() / self.run

    def changes(self) -> dict:
        """The values that differ from the defaults."""
        return {f.name: getattr(self, f.name) for f in FIELDS.values() if getattr(self, f.name) != f.default}


def out_dir() -> Path:
    """The folder of all runs."""
    return ROOT / "out"


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# What comes after the text and its tokens: train_tokenizer.py and prepare.py take these flags, but do not use them.
TRAINING_KEYS = [key for key, field in FIELDS.items() if field.metadata["group"] != GROUPS[0]]
_NO_LITERAL = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError)
_KIND = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}
_BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_SYNONYMS = {
    "dtype": {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"},
    "compile": {word: "on" if yes else "off" for word, yes in _BOOLEANS.items()},
}


def load_config(argv, parser):
    """Read `[config/FILE.py] [--key=value | --key value | --flag ...]`.

    argv: the words of the command line, sys.argv[1:] if None. parser: a lib.errors.ArgumentParser, which may have flags
    of the script's own. A mistake ends in its `error`, with one line that names the key and where it was set.
    Returns (Config, args): args has the script's own flags, `argv`, and `given`, {key: where it was set}.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    _add_flags(parser)
    args, extra = parser.parse_known_args(argv)
    if extra:
        parser.error(f"{extra[0]} is a word too many: after one config file come flags, such as --corpus=FILE")

    values, given = _read_file(args.config, parser) if args.config else ({}, {})
    flags = {key: getattr(args, key) for key in FIELDS if key in args}
    given |= {key: f"--{key}" for key in flags}
    # A corpus brings the name of its dataset, unless one was set in the same place or after it.
    has_name = "dataset" in (flags if "corpus" in flags else given)
    values = {key: _convert(key, value) for key, value in (values | flags).items()}
    if not has_name and (corpus := str(values.get("corpus", ""))):
        given["dataset"] = f"{given['corpus']}={corpus}: dataset"
        values["dataset"] = _dataset_of(corpus, given["dataset"], parser)
    values["run"] = values.get("run") or (Path(args.config).stem if args.config else "small")
    try:
        config = Config(**values)
    except ValueError as error:
        key, _, problem = str(error).partition(": ")
        parser.error(f"{given.get(key, key)}: {problem}")
    args.argv, args.given = argv, given
    return config, args


def say_unused(args, keys):
    """Name the flags of the command line that a script takes, because all share one config, but does not use."""
    flags = [f"--{key}" for key in keys if args.given.get(key) == f"--{key}"]
    if flags:
        print(f"note: this script does not use {' '.join(flags)}")


def _add_flags(parser):
    """Let a parser take a config file, and a flag for each setting, in the groups that --help shows."""
    parser.set_defaults(config=None)
    file = parser.add_mutually_exclusive_group()
    words = {"default": argparse.SUPPRESS, "metavar": "FILE"}
    file.add_argument("config", nargs="?", help="a config file, such as config/small.py", **words)
    file.add_argument("--config", help="the same, as a flag", **words)
    for title, fields in itertools.groupby(FIELDS.values(), lambda field: field.metadata["group"]):
        group = parser.add_argument_group(title)
        for field in fields:
            words = {"help": f"{field.metadata['help']} [{field.default}]".replace("%", "%%"), "metavar": "VALUE"}
            words["type"] = _literal if field.type in (int, float) else str
            if field.type is bool:
                words |= {"nargs": "?", "const": "True"}  # --flag alone means true
            # torchrun takes --run for the beginning of its own --run-path.
            names = ("--run", "--run_name") if field.name == "run" else (f"--{field.name}",)
            group.add_argument(*names, default=argparse.SUPPRESS, **words)


def _literal(text):
    """The number that the text of a flag stands for. The text itself if it stands for none: Config refuses it."""
    with contextlib.suppress(*_NO_LITERAL):
        return ast.literal_eval(text.strip())
    return text


def _convert(key, value):
    """1 is fine where a float is wanted, 1e3 for an int, bf16 for bfloat16; Config refuses what is of another type."""
    kind = FIELDS[key].type
    if key in _SYNONYMS:
        return _SYNONYMS[key].get(str(value).lower(), value)
    if kind is bool and isinstance(value, str):
        return _BOOLEANS.get(value.strip().lower(), value)
    if key in ("corpus", "val_corpus", "init_from") and str(value).startswith("~/"):
        return str(Path(value).expanduser())  # A shell does not expand it in --corpus=~/book.txt.
    if kind is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    return int(value) if kind is int and type(value) is float and value.is_integer() else value


def _dataset_of(corpus, where, parser):
    """The name of a corpus: your text must not overwrite the tokenizer of another."""
    path = Path(corpus)
    name = path.stem if path.name not in ("", "..") else path.resolve().stem
    if (ROOT / "data" / f"{name}.py").exists() and not path.resolve().is_relative_to(ROOT / "data" / name):
        parser.error(f"{where}: {name} is the text that data/{name}.py fetches; name yours, --dataset=my_{name}")
    return name


def _read_file(name, parser):
    """({key: value}, {key: where it was set}) of a config file. It is parsed, never executed."""
    path, values, given = _find_file(name, parser), {}, {}
    try:
        tree = ast.parse(_decode(path.read_bytes()))
    except _NO_LITERAL as error:
        line = getattr(error, "lineno", None) or 1
        parser.error(f"{path} line {line}: not a config file: it must hold `name = value` lines only")
    for node in tree.body:
        where = f"{path} line {node.lineno}"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            parser.error(f"{where}: only `name = value` lines are allowed (config files are never executed)")
        key = node.targets[0].id
        if key not in FIELDS:
            parser.unknown(f"{where}: unknown key {key!r}", key, FIELDS)
        try:
            values[key], given[key] = ast.literal_eval(node.value), f"{where}: {key}"
        except _NO_LITERAL:
            parser.error(f"{where}: {key} must be a plain number, string, True or False")
    return values, given


def _find_file(name, parser) -> Path:
    """A config file: relative to the working folder, else one of ours, where `tiny` is enough."""
    file = name if name.endswith(".py") else f"{name}.py"
    for path in (Path(file), ROOT / file, ROOT / "config" / file):
        if path.is_file():
            return path
    known = ", ".join(f"config/{path.name}" for path in sorted((ROOT / "config").glob("[!_]*.py")))
    meant = f"; a setting is --{name}" if "=" in name else f"; your own text is --corpus={name}"
    parser.error(f"{name}: not a config file; here are {known}{'' if name.endswith('.py') else meant}")


def _decode(data):
    """The text of a config file. Windows saves UTF-8 with a mark, UTF-16, or what is usual in the country."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    for encoding in ("utf-8-sig", locale.getencoding(), "gb18030", "latin-1"):  # The last one knows every byte.
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding)
