"""The one config that all scripts share: what can be set, its default, and how it is read.

Values come from the defaults below, then from a config file, then from the command line; later wins.
A config file holds nothing but `name = literal` lines. It is parsed, never executed, so that a
stranger's config is safe to run.
"""

from errors import UserError, first_to_report, one_line

import argparse
import ast
import dataclasses
import difflib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # data/ and out/ are here, whatever the working folder
N_SPECIAL = 4  # <pad> <bos> <eos> <unk>
LARGEST = 1 << 24  # of a size: the product of any two can be calculated with


def _key(default, help, low=None, high=None, choices=None):
    if type(default) is int and high is None:
        high = 2**31 - 1
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that can be set. The defaults are the ~10M model of config/small.py."""

    # corpus and tokenizer
    dataset: str = _key("poetry", "name of the corpus: its folder is data/<dataset>")
    corpus: str = _key("", "your own text: a .txt, a .jsonl with the key text, or a folder of them")
    encoding: str = _key("auto", "of the corpus files: auto, or any name Python knows (utf-8, gb18030, big5)")
    val_fraction: float = _key(0.1, "share of the text kept for validation, taken from its end", 0.001, 0.5)
    vocab_size: int = _key(5000, "tokens to learn, the 256 bytes and 4 special ones included", 256 + N_SPECIAL, LARGEST)
    min_frequency: int = _key(2, "a pair of tokens is merged only if seen this often", 1)
    bos_token: str = _key("<bos>", "begins a document, '' for none")
    eos_token: str = _key("<eos>", "ends a document")

    # model; 0 = derived from the others
    init_from: str = _key("", "begin with the shape and weights of a Qwen3 model (its folder) or an earlier run")
    n_layer: int = _key(6, "transformer blocks", 1, 1000)
    n_head: int = _key(6, "query heads", 1, LARGEST)
    n_kv_head: int = _key(2, "key/value heads, each shared by n_head / n_kv_head query heads", 1, LARGEST)
    n_embd: int = _key(384, "width of the residual stream", 1, LARGEST)
    head_dim: int = _key(0, "width of a head (0: n_embd / n_head)", 0, LARGEST)
    intermediate_size: int = _key(0, "width of the SwiGLU (0: 8/3 n_embd, rounded up to a multiple of 64)", 0, LARGEST)
    rope_theta: float = _key(10000.0, "base of the rotary position embedding", 1.0, 1e30)
    norm_eps: float = _key(1e-6, "epsilon of RMSNorm", 0.0, 1.0)
    tie_embeddings: bool = _key(True, "use the token embedding as the output head too")
    block_size: int = _key(256, "context length in tokens", 2, LARGEST)
    dropout: float = _key(0.0, "on the residual branches", 0.0, 0.99)

    # training
    batch_size: int = _key(64, "sequences in one optimizer step, over all devices", 1)
    micro_batch_size: int = _key(0, "sequences in one forward pass (0: batch_size); lower it to save memory", 0)
    max_steps: int = _key(5000, "optimizer steps", 1)
    learning_rate: float = _key(1e-3, "peak learning rate", 1e-12, 1e30)
    embedding_lr: float = _key(1e-2, "peak of the token embedding, on the same schedule (0: learning_rate)", 0.0, 1e30)
    min_lr: float = _key(1e-4, "learning rate at the end of the cosine", 0.0, 1e30)
    warmup_steps: int = _key(1000, "steps of linear warmup", 0)
    hold_steps: int = _key(0, "steps at the peak before the cosine begins", 0)
    optimizer: str = _key("adamw", "adamw, or muon for the matrices inside the blocks", choices=("adamw", "muon"))
    weight_decay: float = _key(0.1, "on matrices only", 0.0, 1e3)
    beta1: float = _key(0.9, "AdamW's average of gradients", 0.0, 0.9999)
    beta2: float = _key(0.95, "AdamW's average of squared gradients", 0.0, 0.99999)
    grad_clip: float = _key(1.0, "largest gradient norm (0: no clipping)", 0.0, 1e30)
    seed: int = _key(1337, "of the weights, the batches and the dropout", 0)

    # watching and saving
    eval_interval: int = _key(250, "steps between evaluations; each one saves a checkpoint", 1)
    eval_tokens: int = _key(500_000, "validation tokens used, from the start of the split (0: all)", 0)
    log_interval: int = _key(0, "steps between log records (0: max_steps / 1000)", 0)
    run: str = _key("", "name of the run: its folder is out/<run> (default: the config file's name)")
    prompts: str = _key("你好|", "texts to continue at each evaluation, split at |; an empty one: a line of yours")
    tensorboard: bool = _key(False, "write the log for TensorBoard too, into the folder of the run")

    # machine
    device: str = _key("auto", "cuda, mps or cpu", choices=("auto", "cuda", "mps", "cpu"))
    dtype: str = _key(
        "auto", "of the arithmetic; weights stay float32", choices=("auto", "float32", "bfloat16", "float16")
    )
    compile: str = _key("auto", "torch.compile the model: auto compiles where it pays", choices=("auto", "on", "off"))

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if type(getattr(self, field.name)) is not field.type:  # from a damaged checkpoint
                raise _BadValue(field.name, f"{getattr(self, field.name)!r} is not {_KIND[field.type]}")
            problem = _out_of_range(getattr(self, field.name), field.metadata)
            if problem:
                raise _BadValue(field.name, problem)
        if not self.head_dim and self.n_embd % self.n_head:
            raise _BadValue("n_embd", f"{self.n_embd} is not divisible by n_head {self.n_head}")
        if self.head_size % 2:
            raise _BadValue("head_dim" if self.head_dim else "n_embd", f"makes heads of odd size {self.head_size}")
        if self.n_head % self.n_kv_head:
            raise _BadValue("n_kv_head", f"{self.n_kv_head} does not divide n_head {self.n_head}")
        if self.batch_size % self.micro_size:
            sizes = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
            below = max(n for n in sizes if n < self.micro_size)
            above = min(n for n in sizes if n > self.micro_size)
            problem = f"{self.micro_size} does not divide batch_size {self.batch_size}; {below} and {above} do"
            raise _BadValue("micro_batch_size", problem)
        if self.min_lr > self.learning_rate:
            raise _BadValue("min_lr", f"{self.min_lr:g} is above learning_rate {self.learning_rate:g}")
        for name in ("dataset", "run"):
            value = getattr(self, name)
            if value in (".", "..") or any(c in "/\\:\0" for c in value):
                raise _BadValue(name, f"{value!r} must be a plain folder name, without a path")
        if not self.dataset:
            raise _BadValue("dataset", "must not be empty")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def ffn_size(self) -> int:
        """Width of the SwiGLU: three matrices of 8/3 n_embd hold as many weights as GPT-2's two of 4 n_embd."""
        return self.intermediate_size or -(-8 * self.n_embd // (3 * 64)) * 64

    @property
    def micro_size(self) -> int:
        return min(self.micro_batch_size, self.batch_size) or self.batch_size

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
        return ROOT / "out" / self.run

    def changes(self) -> dict:
        """The values that differ from the defaults."""
        return {f.name: getattr(self, f.name) for f in FIELDS.values() if getattr(self, f.name) != f.default}


FIELDS = {field.name: field for field in dataclasses.fields(Config)}


class _BadValue(UserError):
    """A value that cannot be used; load_config adds where it came from."""

    def __init__(self, key, problem):
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


def _out_of_range(value, metadata):
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    if choices and value not in choices:
        return f"{value!r} is not one of {', '.join(choices)}"
    if isinstance(value, float) and not abs(value) < float("inf"):
        return f"{value} is not a finite number"
    if low is not None and value < low:
        return f"{value} is below {low} ({metadata['help']})"
    if high is not None and value > high:
        return f"{value} is above {high} ({metadata['help']})"
    return None


class ArgumentParser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line; exit code 2, as for any usage error."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def _get_values(self, action, arg_strings):
        if action.option_strings and arg_strings == ["--"]:  # `--prompt=--`, whose value argparse loses
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)

    def error(self, message):
        self.exit(2, f"error: {one_line(message)} (see {self.prog} --help)\n" if first_to_report() else None)


def load_config(argv, parser):
    """Read `[config/FILE.py] [--key=value | --key value | --flag ...]`.

    argv: the words of the command line, sys.argv[1:] if None.
    parser: an ArgumentParser, with the script's own flags if it has any.
    Returns (Config, args): args holds the script's own flags, and the words themselves as `argv`.
    Raises UserError, naming the key and the file or flag it came from.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser.add_argument("config", nargs="?", help="a config file, such as config/small.py")
    for field in FIELDS.values():
        words = {"help": f"{field.metadata['help']} [{field.default}]".replace("%", "%%"), "metavar": "VALUE"}
        if field.type is bool:
            words |= {"nargs": "?", "const": "True"}  # --flag alone means true
        parser.add_argument(f"--{field.name}", default=argparse.SUPPRESS, **words)
    args, unknown = parser.parse_known_args(argv)
    args.argv = argv
    if unknown:
        word = unknown[0].split("=")[0]
        raise UserError(f"unknown flag {word}{_closest(word.lstrip('-'))}; --help lists them all")

    flags = {key: value for key, value in vars(args).items() if key in FIELDS}
    origin = {key: f"--{key}" for key in flags}
    values = {key: _from_text(key, text) for key, text in flags.items()}
    if "corpus" in flags and "dataset" not in flags:
        values["dataset"] = Path(flags["corpus"]).stem  # so that your text never overwrites another's tokenizer
        origin["dataset"] = f"--corpus={flags['corpus']}: dataset"
    if args.config:
        from_file = _read_file(Path(args.config))
        origin = {key: f"{args.config}: {key}" for key in from_file} | origin
        values = from_file | values
    if values.get("init_from"):
        import pretrained  # takes seconds, and few runs need it

        settings = pretrained.read_settings(values["init_from"])
        for key, value in settings.items():
            given = values.get(key, value)
            if key.endswith("_token"):
                settings[key] = given
            elif key != "vocab_size" and given != value:
                raise UserError(f"{origin[key]}: {given}, but {values['init_from']} has {value}; leave it out")
        where = f"init_from={values['init_from']}"
        values |= {key: _typed(key, value, where) for key, value in settings.items()}
        origin |= {key: f"{where}: {key}" for key in settings}
    values["run"] = values.get("run") or (Path(args.config).stem if args.config else "small")
    try:
        return Config(**values), args
    except _BadValue as error:
        raise UserError(f"{origin.get(error.key, error.key)}: {error.problem}") from None


def _read_file(path) -> dict:
    """The assignments of a config file."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read(1 << 20))
    except FileNotFoundError:
        known = ", ".join(f"config/{p.name}" for p in sorted((ROOT / "config").glob("[!_]*.py")))
        raise UserError(f"{path}: no such config file; the ones here are {known}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" line {error.lineno}" if getattr(error, "lineno", None) else ""
        raise UserError(f"{path}{line}: not a config file: it must hold `name = value` lines only") from None
    values = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        where = f"{path} line {node.lineno}"
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise UserError(f"{where}: only `name = value` lines are allowed (config files are never executed)")
        key = node.targets[0].id
        try:
            value = ast.literal_eval(node.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise UserError(f"{where}: {key} must be a plain number, string, True or False") from None
        if key not in FIELDS:
            raise UserError(f"{where}: unknown key {key!r}{_closest(key)}")
        values[key] = _typed(key, value, where)
    return values


def _from_text(key, text):
    """The value of a flag."""
    kind = FIELDS[key].type
    if kind is str:
        return text
    try:
        return _typed(key, ast.literal_eval(text.strip().capitalize() if kind is bool else text.strip()), f"--{key}")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(f"--{key}: {text!r} is not {_KIND[kind]}") from None


_KIND = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}


def _typed(key, value, where):
    """`value` as the type of `key`; 1 is fine for a float and 1e3 for an int, True is not."""
    kind = FIELDS[key].type
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not kind:
        raise UserError(f"{where}: {key} must be {_KIND[kind]}, not {value!r}")
    return value


def _closest(word):
    match = difflib.get_close_matches(word, FIELDS, n=1)
    return f", did you mean {match[0]}?" if match else ""
