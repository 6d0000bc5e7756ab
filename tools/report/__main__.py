"""Judge a trained GPT: what it has learned, what it only copies, and what to try next.

    python -m tools.report                    the most recent run
    python -m tools.report tiny --last        its latest weights, not those of the best validation loss
    python -m tools.report --tokenizer config/tiny.py [--key=value ...]     a tokenizer, before any training

Reads   out/<run>/best.pt (or ckpt.pt, with --last) and loss_log.json, and the tokens it was trained on
Writes  out/<run>/report.html (tokenizer.html beside a tokenizer) or what --out names, one page that needs no other file
"""

import math
import sys
import time
from pathlib import Path

import numpy as np

from config import DEVICES, load_config
from lib.errors import ArgumentParser, file_to_write, reports_errors
from lib.machine.device import set_up
from lib.machine.terminal import format_number, format_time, one_line
from lib.run.runs import Run, add_run_argument, smooth
from lib.storage import write_text
from lib.tokens.tokenizer import text_or_bytes
from sample import load_model
from tools.report import words
from tools.report.charts import chart
from tools.report.measures import CONTINUATIONS, measure_run
from tools.report.tokenizer import measure_tokenizer
from tools.report.verdict import judge
from tools.templates import load_template


def report_run(name, last, device, out) -> Path:
    """Write the page of a run, and print the gist of it. Returns the path of the page, which `out` may name."""
    page = load_template("run.html")
    text_model, path, checkpoint = load_model(name, last, device)
    set_up(text_model.model.embedding.weight.device)
    m = measure_run(Run(str(path.parent)), text_model, checkpoint)
    verdict = judge(m)
    shown = [show(piece, text_model.tokenizer.id_to_token(i)) for i, piece in enumerate(text_model.token_bytes)]
    tokens = [
        shown[token]
        | {
            "bits": nats / math.log(2),
            "lines": [words.GUESS.format(bits=nats / math.log(2), rank=rank, share=math.exp(-nats))],
            "guesses": [(shown[guess]["text"], f"{probability:.1%}") for guess, probability in likely],
        }
        for token, nats, rank, likely in m.passage
    ]
    samples = [record for record in m.run.records if "samples" in record]
    steps, losses = m.run.train
    out = out or m.run.folder / "report.html"
    text = page.render(
        m=m,
        verdict=verdict,
        perplexity=math.exp(m.val_loss),
        epochs=format_number(m.epochs),
        tokens_per_parameter=format_number(m.tokens_per_parameter),
        seconds=format_time(max(m.run.series("seconds")[1], default=0)),
        loss_chart=chart([(steps, smooth(losses, len(losses) // 50)), m.run.val], m.baselines),
        context_chart=chart([np.transpose(m.positions)], {"bigram": m.baselines["bigram"]}, log=True),
        tokens=tokens,
        shown=shown,
        n_samples=len(samples),
        samples=[samples[round(i)] for i in np.linspace(0, len(samples) - 1, min(len(samples), 5))],
        continuations=CONTINUATIONS,
    )
    write_text(out, text)
    print_run(m, verdict)
    return out


def print_run(m, verdict):
    """The gist of the page, for the terminal."""
    print(f"{m.run.name}: {m.n_parameters:,} parameters, weights of step {m.step:,} of {m.config.max_steps:,}")
    print(
        f"validation   {m.val_loss:.4f} nats, PPL {math.exp(m.val_loss):.1f},"
        f" {m.val_loss * m.nats_to_bits_per_character:.4f} bits per character,"
        f" {m.val_loss * m.nats_to_bits_per_byte:.4f} per byte"
    )
    levels = sorted(m.baselines.items(), key=lambda level: level[1])
    print("baselines    " + ", ".join(f"{name} {nats:.2f}" for name, nats in levels))
    if m.published:
        rows = ", ".join(f"{loss:.2f} ({published:.2f}) after {n / 1e6:.3g}M" for n, loss, published in m.published)
        print(f"published    validation loss (that of the published run) after so many tokens: {rows}")
    print("context      " + ", ".join(f"{nats:.2f} after {seen:g}" for seen, nats in m.positions))
    print(f"copies       of {m.known_tokens:,} tokens of training text")
    for whose, copies in (("its text", m.model_copies), ("real text", m.text_copies)):
        shares = ", ".join(f"{novel:.1%} of {n}" for n, novel in copies.novel.items())
        print(f"{whose:12} new sequences of n characters: {shares}")
        print(f"{'':12} longest copy: {one_line(copies.longest)} ({len(copies.longest)} characters)")
    print(f"\n{verdict.name.english.upper()}: {verdict.headline.english}")
    evidence, advice = ([f"  - {line.english}" for line in lines] for lines in (verdict.evidence, verdict.advice))
    print(*evidence, "next:", *advice, sep="\n")


def report_tokenizer(config, out) -> Path:
    """Write the page of a tokenizer, and print the gist of it. Returns the path of the page, which `out` may name."""
    page = load_template("tokenizer.html")
    m = measure_tokenizer(config)
    tokens = [
        show(piece) | {"lines": [words.NUMBER.format(i=i), words.BYTES.format(hex=piece.hex(" "))]}
        for i, piece in m.passage
    ]
    out = out or config.tokens_dir / "tokenizer.html"
    write_text(out, page.render(m=m, tokens=tokens, config=config, show=lambda pieces: map(show, pieces)))
    print(f"{m.name}: {m.vocab_size:,} tokens, {m.characters_per_token:.3f} characters a token")
    for kind, ratio, pieces in m.kinds:
        shown = " | ".join(show(piece)["text"].strip("\n") for piece in pieces[:14])
        print(f"  {kind.english:24} {ratio:.2f}  {one_line(shown)}")
    if m.sizes:
        print("vocab_size  characters a token  characters a window  parameters  tokens seen fewer than 20 times")
    for size, ratio, window, parameters, rare in m.sizes:
        print(f"{size:10,} {ratio:19.3f} {window:20.0f} {parameters:11,} {rare:32.1%}")
    return out


def show(piece, name="") -> dict:
    """A token: its text, or the bytes of a part of a character, or its name if it stands for no text."""
    shown = text_or_bytes(piece)
    if isinstance(shown, bytes):
        return {"text": piece.hex(" "), "special": True}
    return {"text": shown.replace("\n", "↵\n") or name, "special": not piece}


@reports_errors
def main(argv=None):
    start = time.time()
    argv = sys.argv[1:] if argv is None else argv
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", action="store_true", help="look at the tokenizer of a config instead")
    parser.add_argument("--out", type=file_to_write, metavar="FILE", help="where to write the page")
    if "--tokenizer" in argv:
        config, args = load_config(argv, parser)
        out = report_tokenizer(config, args.out)
    else:
        add_run_argument(parser)
        parser.add_argument("--last", action="store_true", help="the latest weights, not the best ones, as by default")
        parser.add_argument("--device", default="auto", choices=DEVICES, metavar="NAME", help="[auto]")
        args = parser.parse_args(argv)
        out = report_run(args.run, args.last, args.device, args.out)
    print(f"\nsaved {out} in {time.time() - start:.0f} s; open it in a browser")


if __name__ == "__main__":
    sys.exit(main())
