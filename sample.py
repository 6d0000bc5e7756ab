"""Let a trained GPT continue a text.

    python sample.py --prompt "你好"
    python sample.py                  asks for prompts, on a terminal
    python sample.py tiny --num_samples=5 --temperature=0.7 --max_new_tokens=300 < prompt.txt
    python sample.py tiny --prompts_file=prompts.txt --out=samples.jsonl --stop=。

Reads   out/<run>/best.pt (or ckpt.pt, with --last)
Prints  the prompt and its continuation as it is generated
Writes  with --out, a line {"prompt": …, "text": its continuation} for each sample

In a notebook:  from sample import load; print(load("out/tiny").generate("你好", max_new_tokens=50))
"""

import lib.machine.startup  # noqa: F401  It must be first; it says why.

# isort: split
import json
import sys

from tqdm import tqdm

from config import DEVICES
from lib import qwen3
from lib.errors import ArgumentParser, UserError, file_to_write, in_range, reports_errors
from lib.generation import Sampling, TextModel
from lib.machine.device import pick_device
from lib.run.checkpoint import load_checkpoint, one_line_if_damaged
from lib.run.runs import BEST, LATEST, add_run_argument, find_run
from lib.storage import atomic_write, is_number
from lib.text.decoding import decode
from lib.tokens.tokenizer import parse_tokenizer
from model import GPT

LONGEST_PROMPT = 1 << 22  # bytes
LINE = "-" * 40  # between samples


def load(run="", last=False, device="auto") -> TextModel:
    """The model of a run, ready to generate: `load("out/tiny").generate("你好", max_new_tokens=50)`.

    run: a folder, a checkpoint, or a name under out/; "" for the most recent run.
    last: take the latest weights instead of those with the best validation loss.
    """
    text_model, path, checkpoint = load_model(run, last, device)
    val_loss = f", validation loss {checkpoint['val_loss']:.4f}" if is_number(checkpoint.get("val_loss")) else ""
    print(f"{path}: step {checkpoint['step']:,}{val_loss}", file=sys.stderr)
    return text_model


def load_model(run="", last=False, device="auto"):
    """(the model of a run, the path of its checkpoint, the checkpoint). See `load`. Raises UserError."""
    path = find_run(run, *((LATEST,) if last else (BEST, LATEST)))
    checkpoint = load_checkpoint(path)
    tokenizer = parse_tokenizer(checkpoint["tokenizer"], path)
    config, weights = checkpoint["config"], checkpoint["model"]
    with one_line_if_damaged(path):
        n_rows = len(weights["embedding.weight"])
        for name, parts in qwen3.layout(config, n_rows):
            if len(weights[name]) != sum(parts.values()):  # A damaged config may ask for terabytes of memory.
                raise ValueError(f"{name} has {len(weights[name]):,} rows")
        model = GPT(config, n_rows)
        model.load_state_dict(weights)
    device = pick_device(device, GPT, config, "float32")
    return TextModel(model.eval().to(device), tokenizer, path), path, checkpoint


def print_samples(text_model, prompt, args):
    """Stream the first sample; the others are generated beside it and follow when it has ended."""
    parts = []
    for new in text_model.stream(prompt, args.num_samples, **args.generation):
        print(new[0], end="", flush=True)
        parts.append(new)
    print()
    samples = ["".join(column) for column in zip(*parts, strict=True)]
    for text in samples[1:]:
        print(f"{LINE}\n{text}")


def save_samples(text_model, prompts, args):
    """Write the continuations of each prompt to a file, a line of JSON each."""
    with atomic_write(args.out, "w") as file:
        for prompt in tqdm(prompts, desc="sampling", unit="prompt", disable=None):
            _, *parts = text_model.stream(prompt, args.num_samples, **args.generation)  # without the prompt
            for text in map("".join, zip(*parts, strict=True)):
                file.write(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
    print(f"saved {args.out}")


def converse(text_model, args):
    """Ask for texts on a terminal, and continue each."""
    print("type a text to continue; Ctrl-D (on Windows Ctrl-Z, Enter) ends", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return
        try:
            print_samples(text_model, prompt, args)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


def read_prompts(args):
    """The prompts of the command line, of a file, or of a pipe, a list."""
    if args.prompt is not None:
        return [args.prompt]
    where = args.prompts_file if args.prompt_file is None else args.prompt_file
    if where is not None:
        with open(where, "rb") as file:
            data = file.read(LONGEST_PROMPT + 1)
    else:
        where, data = "stdin", sys.stdin.buffer.read(LONGEST_PROMPT + 1) if sys.stdin else b""
    if len(data) > LONGEST_PROMPT:
        raise UserError(f"{where} is longer than {LONGEST_PROMPT:,} bytes; of a prompt a model sees only the end")
    text = decode(data, where).replace("\r\n", "\n").replace("\r", "\n")
    if args.prompts_file is None:
        return [text.removesuffix("\n")]  # echo and editors add one at the end of a text.
    prompts = [line for line in text.split("\n") if line.strip()]
    if not prompts:
        raise UserError(f"{where} holds no prompts; write one on each line")
    return prompts


def parse_args(argv):
    parser = ArgumentParser(description=__doc__)
    add_run_argument(parser)
    parser.add_argument("--last", action="store_true", help="the latest weights, not those of the best validation loss")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="the text to continue; an empty one starts a new document")
    prompt.add_argument("--prompt_file", metavar="FILE", help="a text file to continue, without its last line end")
    prompt.add_argument("--prompts_file", metavar="FILE", help="a text file with a prompt on each line")
    parser.add_argument("--out", type=file_to_write, metavar="FILE.jsonl", help="write the samples here, print none")
    count = {"metavar": "N", "type": in_range(int, 1)}
    parser.add_argument("--num_samples", default=1, help="continuations [1]", **count)
    count["type"] = in_range(int, 0)
    parser.add_argument("--max_new_tokens", default=200, help="length of each at most [200]", **count)
    parser.add_argument("--ignore_eos", action="store_true", help="go on where a document would end")
    help = "end before this text (may be given several times; \\n is a line end)"
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help=help)
    parser.add_argument("--device", default="auto", choices=DEVICES, metavar="NAME", help="[auto]")
    sampling = {
        "temperature": (in_range(float, 0), "0 takes the most likely token; higher is more varied"),
        "top_k": (in_range(int, 0), "keep only the k most likely tokens (0: all)"),
        "top_p": (in_range(float, 1e-9, 1), "keep the fewest tokens that reach this probability together"),
        "min_p": (in_range(float, 0, 1), "keep tokens at least this fraction as likely as the most likely one"),
        "repetition_penalty": (in_range(float, 1e-9), "above 1, tokens already there become less likely"),
        "seed": (in_range(int, 0, 2**63 - 1), "the same seed, the same samples"),
    }
    for name, (kind, text) in sampling.items():
        value = getattr(Sampling, name)
        parser.add_argument(f"--{name}", type=kind, default=value, metavar="X", help=f"{text} [{value}]")
    args = parser.parse_args(argv)
    args.generation = {name: getattr(args, name) for name in ("max_new_tokens", "ignore_eos", *sampling)}
    args.generation["stop"] = [text.replace("\\n", "\n") for text in args.stop]
    has_prompt = any(value is not None for value in (args.prompt, args.prompt_file, args.prompts_file))
    args.asks = not has_prompt and bool(sys.stdin) and sys.stdin.isatty()
    if "" in args.stop:
        parser.error("--stop is empty; name the text that a sample ends before")
    if args.out and args.asks:
        parser.error("--out needs --prompt, --prompt_file or --prompts_file")
    return args


@reports_errors
def main(argv=None):
    args = parse_args(argv)
    prompts = None if args.asks else read_prompts(args)
    text_model = load(args.run, args.last, args.device)
    if args.asks:
        converse(text_model, args)
    elif args.out:
        save_samples(text_model, prompts, args)
    else:
        for i, prompt in enumerate(prompts):
            if i > 0:
                print(LINE)
            print_samples(text_model, prompt, args)


if __name__ == "__main__":
    sys.exit(main())
