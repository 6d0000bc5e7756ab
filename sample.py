"""Let a trained GPT continue a text.

    python sample.py --prompt "你好"
    python sample.py                  asks for prompts, on a terminal
    python sample.py --run=tiny --num_samples=5 --temperature=0.7 --max_new_tokens=300 < prompt.txt

Reads   out/<run>/best.pt (or ckpt.pt, with --last)
Prints  the prompt and its continuation as it is generated

In a notebook:  from sample import load; print(load("out/tiny").generate("你好", max_new_tokens=50))
"""

import inspect
import sys

from lib import qwen3
from lib.checkpoint import load_checkpoint, one_line_if_damaged
from lib.device import pick_device
from lib.errors import ArgumentParser, UserError, in_range, reports_errors
from lib.runs import BEST, LATEST, find_run
from lib.storage import is_number
from lib.text import TextDecoder, TextModel
from lib.tokenizer import parse_tokenizer
from model import GPT

LONGEST_PROMPT = 1 << 20  # characters


def load(run="", last=False, device="auto") -> TextModel:
    """The model of a run, ready to generate: `load("out/tiny").generate("你好", max_new_tokens=50)`.

    run: a folder, a checkpoint, or a name under out/; "" for the most recent run.
    last: take the latest weights instead of those with the best validation loss.
    """
    text_model, path, checkpoint = load_run(run, last, device)
    val_loss = f", validation loss {checkpoint['val_loss']:.4f}" if is_number(checkpoint.get("val_loss")) else ""
    print(f"{path}: step {checkpoint['step']:,}{val_loss}", file=sys.stderr)
    return text_model


def load_run(run="", last=False, device="auto"):
    """(the model of a run, the path of its checkpoint, the checkpoint). See `load`. Raises UserError."""
    device = pick_device(device)
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
    return TextModel(model.eval().to(device), tokenizer, path), path, checkpoint


def print_samples(text_model, prompt, args):
    """Stream the first sample; the others are generated beside it and follow when it has ended."""
    samples = [TextDecoder(text_model.token_bytes) for _ in range(args.num_samples)]
    going = [True] * args.num_samples
    idx = text_model.encode(prompt).repeat(args.num_samples, 1)
    print(prompt, end="", flush=True)
    for tokens in text_model.model.stream(idx, args.max_new_tokens, **args.sampling):
        for i, token in enumerate(tokens.tolist()):
            if token == text_model.eos and not args.ignore_eos:
                going[i] = False
            if going[i]:
                text = samples[i].add(token)
                if i == 0:
                    print(text, end="", flush=True)
        if not any(going):
            break
    print()
    for sample in samples[1:]:
        print(f"{'-' * 40}\n{prompt}{sample.so_far}")


def read_prompt(args):
    """The prompt of the command line, of a file, or of a pipe; None on a terminal."""
    if args.prompt is not None:
        return args.prompt
    if args.prompt_file is None and sys.stdin and sys.stdin.isatty():
        return None
    # Bytes that are not UTF-8 become half characters, which TextModel.encode refuses.
    if args.prompt_file is not None:
        with open(args.prompt_file, encoding="utf-8-sig", errors="surrogateescape") as file:
            text = file.read(LONGEST_PROMPT + 1)
    else:
        text = sys.stdin.read(LONGEST_PROMPT + 1) if sys.stdin else ""
    if len(text) > LONGEST_PROMPT:
        raise UserError(f"the prompt is longer than {LONGEST_PROMPT:,} characters; a model sees only its end")
    return text.removesuffix("\n")  # echo and editors add one at the end of a text.


def parse_args(argv):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="", help="a name under out/, a folder or a checkpoint [the most recent]")
    parser.add_argument("--last", action="store_true", help="the latest weights, not those of the best validation loss")
    parser.add_argument("--prompt", help="the text to continue; an empty one starts a new document")
    parser.add_argument("--prompt_file", metavar="FILE", help="a UTF-8 file to continue, without its last line end")
    count = {"metavar": "N", "type": in_range(int, 1)}
    parser.add_argument("--num_samples", default=1, help="continuations [1]", **count)
    count["type"] = in_range(int, 0)
    parser.add_argument("--max_new_tokens", default=200, help="length of each at most [200]", **count)
    parser.add_argument("--ignore_eos", action="store_true", help="go on where a document would end")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    default = inspect.signature(GPT.stream).parameters
    sampling = {
        "temperature": (in_range(float, 0), "0 takes the most likely token; higher is more varied"),
        "top_k": (in_range(int, 0), "keep only the k most likely tokens (0: all)"),
        "top_p": (in_range(float, 1e-9, 1), "keep the fewest tokens that reach this probability together"),
        "min_p": (in_range(float, 0, 1), "keep tokens at least this fraction as likely as the most likely one"),
        "repetition_penalty": (in_range(float, 1e-9), "above 1, tokens already there become less likely"),
        "seed": (in_range(int, 0, 2**63 - 1), "the same seed, the same samples"),
    }
    for name, (kind, text) in sampling.items():
        value = default[name].default
        parser.add_argument(f"--{name}", type=kind, default=value, metavar="X", help=f"{text} [{value}]")
    args = parser.parse_args(argv)
    args.sampling = {name: getattr(args, name) for name in sampling}
    return args


@reports_errors
def main(argv=None):
    args = parse_args(argv)
    prompt = read_prompt(args)
    text_model = load(args.run, args.last, args.device)
    if prompt is not None:
        print_samples(text_model, prompt, args)
        return
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


if __name__ == "__main__":
    sys.exit(main())
