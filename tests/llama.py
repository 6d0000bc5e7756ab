"""Check what tools.export writes against llama.cpp itself, in each type of weights.

    python -m pip install llama-cpp-python     builds llama.cpp, which takes about five minutes
    python -m tests.llama [RUN] [--text=FILE]

RUN: a name under out/ or a folder [the most recent]. FILE: text to tokenize and to continue.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch  # It comes before llama_cpp, whose libraries clash with it otherwise.

from lib.errors import ArgumentParser, UserError, reports_errors
from sample import load
from tests.test_export import TEXTS
from tools import export

# The largest difference of a logit that is allowed, as a share of the largest logit: twice what was seen.
TOLERANCES = {"f32": 1e-3, "f16": 2e-3, "bf16": 2e-2, "q8_0": 1e-1}


def passages(text, size=400):
    return [text[i : i + size] for i in range(0, min(len(text), 200_000), size)]


def tokenized_alike(text_model, llama, texts) -> int:
    """How many of the texts llama.cpp cuts into the same tokens."""
    alike = 0
    for text in texts:
        ids = text_model.tokenizer.encode(text, add_special_tokens=False).ids
        ids = ids if text_model.bos is None else [text_model.bos, *ids]
        alike += ids == llama.tokenize(text.encode(), add_bos=True, special=False)
    return alike


def compare(text_model, llama, prompts):
    """(greedy continuations alike and their tokens, largest relative error of a logit)."""
    model = text_model.model
    agreed = total = 0
    worst = 0.0
    for prompt in prompts:
        ids = text_model.encode(prompt)
        room = min(64, model.config.block_size - ids.size(1))
        ours = model.generate(ids, room, temperature=0)[0].tolist()
        llama.reset()
        llama.eval(ours)
        theirs = torch.tensor(llama.scores[: len(ours)])
        with torch.inference_mode():
            logits = model.lm_head(model.hidden(torch.tensor([ours])))[0]
        worst = max(worst, ((theirs - logits).abs().max() / logits.abs().max()).item())
        choices = theirs[ids.size(1) - 1 : -1].argmax(dim=-1).tolist()
        agreed += sum(a == b for a, b in zip(choices, ours[ids.size(1) :], strict=True))
        total += room
    return agreed, total, worst


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="")
    parser.add_argument("--text", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    try:
        import llama_cpp
    except ImportError:
        raise UserError("llama-cpp-python is not installed; python -m pip install llama-cpp-python") from None
    text_model = load(args.run, device="cpu")
    texts, prompts = list(TEXTS), ["却说", "Hello", ""]
    if args.text:
        own = passages(args.text.read_text(encoding="utf-8"))
        texts, prompts = texts + own, prompts + [text[:20] for text in own[:5]]
    print(f"llama-cpp-python {llama_cpp.__version__}; {len(texts):,} texts, {sum(map(len, texts)):,} characters")
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, tolerance in TOLERANCES.items():
            path = Path(scratch) / f"{kind}.gguf"
            start = time.perf_counter()
            if export.main([args.run, "--format=gguf", f"--type={kind}", f"--out={path}"]):
                return 1
            took = time.perf_counter() - start
            size = text_model.model.config.block_size
            llama = llama_cpp.Llama(str(path), n_ctx=size, logits_all=True, verbose=False)
            same = tokenized_alike(text_model, llama, texts)
            agreed, total, worst = compare(text_model, llama, prompts)
            print(
                f"{kind:5} {path.stat().st_size / 1e6:7.1f} MB in {took:.1f} s: ids alike in {same:,} of {len(texts):,}"
                f" texts, {agreed} of {total} greedy tokens, logits within {worst:.1e} of the largest"
            )
            if same < len(texts) or worst > tolerance or (kind == "f32" and agreed < total):
                failed.append(kind)
    print(f"not as it should be: {', '.join(failed)}" if failed else "as it should be")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
