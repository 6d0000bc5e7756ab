"""Let a trained GPT continue a text.

    python sample.py --prompt "你好"
    python sample.py                  asks for prompts, on a terminal
    python sample.py --run=tiny --num_samples=5 --temperature=0.7 --max_new_tokens=300 < prompt.txt

Reads   out/<run>/best.pt (or ckpt.pt, with --last)
Prints  the prompt and its continuation as it is generated

In a notebook:  from sample import load; print(load("out/tiny").generate("你好", max_new_tokens=50))
"""

from errors import UserError, reports_errors

import inspect
import sys

from config import ArgumentParser
from device import pick_device
from files import BEST, LATEST, find_run, is_number, load_checkpoint
from model import GPT, TextStream, from_checkpoint

LONGEST_PROMPT = 1 << 20  # characters


def load(run="", last=False, device="auto"):
    """The model of a run, ready to generate, with its tokenizer.

    run: a folder, a checkpoint, or a name under out/; "" for the most recent run.
    last: take the latest weights instead of those with the best validation loss.
    """
    device = pick_device(device)
    path = find_run(run, *((LATEST,) if last else (BEST, LATEST)))
    checkpoint = load_checkpoint(path)
    model = from_checkpoint(checkpoint, path)
    val_loss = f", validation loss {checkpoint['val_loss']:.4f}" if is_number(checkpoint.get("val_loss")) else ""
    print(f"{path}: step {checkpoint['step']:,}{val_loss}", file=sys.stderr)
    return model.eval().to(device)


def print_samples(model, prompt, args):
    """Stream the first sample; the others are generated beside it and follow when it has ended."""
    samples = [TextStream(model.token_bytes) for _ in range(args.num_samples)]
    going = [True] * args.num_samples
    idx = model.encode(prompt).repeat(args.num_samples, 1)
    print(prompt, end="", flush=True)
    for tokens in model.stream(idx, args.max_new_tokens, **args.sampling):
        for i, token in enumerate(tokens.tolist()):
            if token == model.eos and not args.ignore_eos:
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
    # Bytes that are not UTF-8 become half characters, which GPT.encode refuses.
    if args.prompt_file is not None:
        with open(args.prompt_file, encoding="utf-8-sig", errors="surrogateescape") as file:
            text = file.read(LONGEST_PROMPT + 1)
    else:
        text = sys.stdin.read(LONGEST_PROMPT + 1) if sys.stdin else ""
    if len(text) > LONGEST_PROMPT:
        raise UserError(f"the prompt is longer than {LONGEST_PROMPT:,} characters; a model sees only its end")
    return text.removesuffix("\n")  # echo and editors end a text with one


def parse_args(argv):
    default = {name: p.default for name, p in inspect.signature(GPT.stream).parameters.items()}
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="", help="a name under out/, a folder or a checkpoint [the most recent]")
    parser.add_argument("--last", action="store_true", help="the latest weights, not those of the best validation loss")
    parser.add_argument("--prompt", help="the text to continue; an empty one starts a new document")
    parser.add_argument(
        "--prompt_file", metavar="FILE", help="read the prompt from a UTF-8 file, without its last line end"
    )
    parser.add_argument("--num_samples", type=int, default=1, metavar="N", help="continuations [1]")
    parser.add_argument("--max_new_tokens", type=int, default=200, metavar="N", help="length of each at most [200]")
    parser.add_argument("--ignore_eos", action="store_true", help="go on where a document would end")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    sampling = {
        "temperature": "0 takes the most likely token; higher is more varied",
        "top_k": "keep only the k most likely tokens (0: all)",
        "top_p": "keep the fewest tokens that reach this probability together",
        "min_p": "keep tokens at least this fraction as likely as the most likely one",
        "repetition_penalty": "above 1, tokens already there become less likely",
        "seed": "the same seed, the same samples",
    }
    for name, text in sampling.items():
        kind = int if name in ("top_k", "seed") else float
        parser.add_argument(
            f"--{name}", type=kind, default=default[name], metavar="X", help=f"{text} [{default[name]}]"
        )
    args = parser.parse_args(argv)
    for wrong, message in (
        (args.num_samples < 1, "num_samples must be at least 1"),
        ("\0" in (args.prompt_file or ""), "prompt_file is not the name of a file"),
        (args.max_new_tokens < 0, "max_new_tokens must not be negative"),
        (not 0 <= args.temperature < float("inf"), "temperature must not be negative"),
        (args.top_k < 0, "top_k must not be negative (0 keeps all tokens)"),
        (not 0 < args.top_p <= 1, "top_p must be above 0 and at most 1 (1 keeps all tokens)"),
        (not 0 <= args.min_p <= 1, "min_p must be between 0 and 1"),
        (not 0 < args.repetition_penalty < float("inf"), "repetition_penalty must be above 0 (1 changes nothing)"),
        (args.seed is not None and not 0 <= args.seed < 2**63, "seed must be between 0 and 2^63"),
    ):
        if wrong:
            raise UserError(message)
    args.sampling = {name: getattr(args, name) for name in sampling}
    return args


@reports_errors
def main(argv=None):
    args = parse_args(argv)
    prompt = read_prompt(args)
    model = load(args.run, args.last, args.device)
    if prompt is not None:
        print_samples(model, prompt, args)
        return
    print("type a text to continue; Ctrl-D (on Windows Ctrl-Z, Enter) ends", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return
        try:
            print_samples(model, prompt, args)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
