"""Judge a trained GPT: what it has learned, what it only copies, and what to try next.

    python report.py                    the most recent run
    python report.py tiny --last        its latest weights, not those of the best validation loss
    python report.py --tokenizer config/tiny.py [--key=value ...]     a tokenizer, before any training

Reads   out/<run>/best.pt (or ckpt.pt, with --last) and loss_log.json, and the tokens it was trained on
Writes  out/<run>/report.html, one page that needs no other file (tokenizer.html beside a tokenizer)
"""

from errors import UserError, reports_errors

import math
import sys
import time
from pathlib import Path

import judge
import numpy as np
import torch
from batches import Tokens
from device import pick_arithmetic, pick_device, set_up
from files import BEST, LATEST, atomic_write, find_run, load_checkpoint, read_tokenizer
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from loss_log import Run, smooth
from matplotlib.ticker import MaxNLocator
from plan import format_number, format_time
from tokens import read_meta
from vocabulary import examine_tokenizer

from config import ArgumentParser, load_config
from model import from_checkpoint
from train import Evaluation, token_lengths

LONGEST_TEXT = 1 << 25  # tokens of a text that are looked at
ARITHMETIC = 8e12  # operations for the losses: half a minute on two cores
PASSAGE = 256  # tokens
CONTINUATIONS, PROMPT_TOKENS, NEW_TOKENS = 32, 16, 128
KNOWN = {
    "bigram": "which token follows which",
    "unigram": "how frequent each token is",
    "gzip": "what stands up to 32 KB back",
    "xz": "the validation text so far",
    "xz, training text known": "the training text, and the validation text so far",
}


def examine(run, checkpoint, model) -> dict:
    """Everything that is measured of a run, for the page and for the terminal."""
    config = checkpoint["config"]
    meta = read_meta(config.tokens_dir)
    same = run.tokens_sha256 in (None, meta["train"]["sha256"])
    if not same or read_tokenizer(config.tokens_dir) != checkpoint["tokenizer"]:
        raise UserError(f"{config.tokens_dir} has other tokens than {run.folder} learned from; prepare its text again")
    device, vocab_size = model.embedding.weight.device, meta["vocab_size"]
    _, autocast, _ = pick_arithmetic(config.dtype, device)
    train, val = (Tokens(config, meta, split, device) for split in ("train", "val"))

    # How well it guesses
    size, n_parameters = config.block_size, sum(model.parameter_counts())
    evaluation = Evaluation(config, val, token_lengths(model.tokenizer))
    n_val = min(evaluation.n_tokens, LONGEST_TEXT) + 1
    budget = int(ARITHMETIC / 2 / n_parameters)  # tokens
    sample = {"limit": min(1 << 16, budget // 8)}
    for split, tokens, n_tokens in (("val", val, n_val), ("train", train, len(train))):
        windows = judge.window_starts(n_tokens, size, sample["limit"])
        nats, right = judge.token_losses(model, tokens, windows, autocast)
        sample[split] = float(nats.mean()), float(right.mean())
    windows = judge.window_starts(n_val, size, min(1 << 20, budget * 3 // 4), shifts=16)
    shifted, _ = judge.token_losses(model, val, windows, autocast)
    losses = sample["val"][0], sample["train"][0]
    val_loss = dict(zip(*run.val, strict=True)).get(checkpoint["step"], losses[0])  # train.py took all of n_val
    if not all(loss < 600 for loss in (val_loss, *losses)):  # of which exp() is a number
        raise UserError(f"{run.folder}: the loss is {losses[0]:g} nats: its weights or its log are damaged")

    # How well simpler models do
    train_ids, val_ids = (
        tokens.read(np.array([0]), n)[0].astype(np.int64)
        for tokens, n in ((train, min(len(train), LONGEST_TEXT)), (val, n_val))
    )
    train_text, val_text = (to_bytes(model.token_bytes, ids) for ids in (train_ids, val_ids))
    n_bytes, n_characters = max(1, evaluation.bytes), max(1, evaluation.characters)
    bits = evaluation.n_tokens / math.log(2)  # in the validation text, for each nat a token
    baselines = {
        "unigram": judge.unigram_loss(train_ids, val_ids, vocab_size),
        "bigram": judge.bigram_loss(train_ids, val_ids, vocab_size),
    }
    for name, per_byte in judge.compressed_bits(val_text[:1_000_000], known=train_text[-3_000_000:]).items():
        baselines[name] = per_byte * n_bytes / bits

    # What it writes, and how much of that it copies
    prompt_size = min(PROMPT_TOKENS, len(val) // 2)
    starts = np.linspace(0, max(0, len(val) - prompt_size - NEW_TOKENS), CONTINUATIONS).astype(int)
    prompts = torch.from_numpy(val.read(starts, prompt_size).astype(np.int64)).to(device)
    written = torch.stack(list(model.stream(prompts, NEW_TOKENS, seed=0)), dim=1).cpu().numpy()
    real = val.read(starts + prompt_size, min(NEW_TOKENS, len(val) - prompt_size))
    pieces = [piece or b"\0" for piece in model.token_bytes]  # no copy goes on from one document to the next
    known = to_bytes(pieces, train_ids).decode(errors="replace")
    copies = {}
    for name, rows in (("model", written), ("text", real)):
        texts = [to_bytes(pieces, ids).decode(errors="ignore") for ids in rows]
        copies[name] = judge.copying(known, [part for text in texts for part in text.split("\0") if part])

    # How surprised it is
    passage = torch.from_numpy(val_ids[None, : PASSAGE + 1]).to(device)
    shown = [show(piece, model.tokenizer.id_to_token(i)) for i, piece in enumerate(model.token_bytes)]
    tokens = [
        shown[i]
        | {
            "bits": nats / math.log(2),
            "lines": [f"{nats / math.log(2):.1f} bits: its guess number {rank:,}, {math.exp(-nats):.2%}"],
            "guesses": [(shown[guess]["text"], f"{probability:.1%}") for guess, probability in likely],
        }
        for i, (nats, rank, likely) in zip(passage[0, 1:].tolist(), judge.guesses(model, passage), strict=True)
    ]

    steps, seconds = run.series("seconds")
    seen = steps[-1] * config.batch_size * size
    epochs, ratio = seen / meta["train"]["tokens"], seen / n_parameters
    return {
        "name": run.name,
        "step": checkpoint["step"],
        "config": config,
        "n_parameters": n_parameters,
        "epochs": epochs,
        "ratio": ratio,
        "seconds": seconds[-1],
        "val_loss": val_loss,
        "sample": sample,
        "nats_to_bits_per_byte": bits / n_bytes,
        "nats_to_bits_per_character": bits / n_characters,
        "baselines": baselines,
        "positions": judge.loss_by_position(shifted),
        "tokens": tokens,
        "samples": [record for record in run.records if has_samples(record)],
        "copies": copies,
        "looked_at": f" (the first {LONGEST_TEXT:,} tokens of it)" if len(train) > LONGEST_TEXT else "",
        "verdict": judge.verdict(
            run=run.folder.name,
            steps=run.val[0],
            val_losses=run.val[1],
            max_steps=config.max_steps,
            epochs=epochs,
            ratio=ratio,
            val_loss=val_loss,
            sample=sample,
            bigram=baselines["bigram"],
            unigram_gap=baselines["unigram"] - meta["unigram_entropy"],
            model_copies=copies["model"],
            text_copies=copies["text"],
        ),
    }


def has_samples(record) -> bool:
    samples = record.get("samples")
    return isinstance(samples, dict) and all(type(text) is str for text in samples.values()) and "val_loss" in record


def to_bytes(pieces, ids) -> bytes:
    """The text of an array of token ids; not all at once, since a list of numbers is many times as large."""
    return b"".join(
        b"".join(map(pieces.__getitem__, part.tolist())) for part in np.split(ids, range(1 << 20, len(ids), 1 << 20))
    )


def show(piece, name) -> dict:
    """A token for the page: its text, or the bytes of a part of a character, or its name if it stands for no text."""
    try:
        return {"text": piece.decode().replace("\n", "↵\n") or name, "special": not piece}
    except UnicodeDecodeError:
        return {"text": piece.hex(" "), "special": True}


# --- pictures and pages


def chart(curves, levels, x_label, y_label, log=False):
    """The geometry of a chart, for templates/parts.html.

    curves: [(name, x, y)]. levels: {name: y}, drawn as lines across. log: of x.
    """
    width, height, left, right, top, bottom = 720, 380, 60, 36, 14, 60  # text on a phone needs these margins
    xs = np.concatenate([x for _, x, _ in curves])
    ys = np.concatenate([*(y for _, _, y in curves), list(levels.values())])
    scale = np.log2 if log else np.asarray
    low, high = scale(xs.min()), scale(xs.max())
    x_ticks = 2.0 ** np.arange(math.ceil(low), high + 0.01) if log else round_ticks(0, xs.max(), 5)
    y_ticks = round_ticks(ys.min(), ys.max(), 6)

    def across(x):
        return left + (scale(x) - low) / max(high - low, 1e-9) * (width - left - right)

    def down(y):
        return top + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * (height - top - bottom)

    lines, label_at = [], math.inf
    for name, y in sorted(levels.items(), key=lambda level: level[1]):  # from the lowest up, their labels apart
        label_at = min(down(y) - 5, label_at - 26)
        lines.append({"name": f"{name} {y:.2f}", "y": down(y), "label_at": label_at})
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": width - right,
        "bottom": height - bottom,
        "x_label": x_label,
        "y_label": y_label,
        "x_ticks": [(across(x), f"{x:,.0f}") for x in x_ticks if xs.min() <= x <= xs.max()],
        "y_ticks": [(down(y), f"{y:g}") for y in y_ticks],
        "levels": lines,
        "curves": [{"name": n, "points": list(zip(across(x), down(y), strict=True))} for n, x, y in curves],
    }


def round_ticks(low, high, n):
    return MaxNLocator(n, steps=[1, 2, 5, 10]).tick_values(low, high)


def write_page(path, template, **values):
    """Fill a template. Everything in it is escaped: a corpus may hold HTML."""
    folder = Path(__file__).parent / "templates"
    pages = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    text = pages.get_template(template).render(**values)
    with atomic_write(path, "w") as file:
        file.write(text)


def print_found(found):
    """The short version, for the terminal."""
    c, nats, verdict = found["config"], found["val_loss"], found["verdict"]
    print(
        f"{found['name']}: {found['n_parameters']:,} parameters, weights of step {found['step']:,} of {c.max_steps:,}"
    )
    print(
        f"validation   {nats:.4f} nats, PPL {math.exp(nats):.1f},"
        f" {nats * found['nats_to_bits_per_character']:.4f} bits per character,"
        f" {nats * found['nats_to_bits_per_byte']:.4f} per byte"
    )
    sample = found["sample"]
    print(
        f"samples      of at most {sample['limit']:,} tokens: {sample['val'][0]:.4f} nats on validation text,"
        f" {sample['train'][0]:.4f} on training text"
    )
    levels = sorted(found["baselines"].items(), key=lambda level: level[1])
    print("baselines    " + ", ".join(f"{name} {nats:.2f}" for name, nats in levels))
    print("context      " + ", ".join(f"{nats:.2f} after {seen:g}" for seen, nats in found["positions"]))
    for name, copies in found["copies"].items():
        who = {"model": "its text", "text": "real text"}[name]
        shares = ", ".join(f"{novel:.1%} of {n}" for n, novel in copies["novel"].items())
        print(f"{who:12} new sequences of n characters: {shares}; longest copied run {len(copies['longest'])}")
    if found["looked_at"]:
        print(f"             beside the training text{found['looked_at']}")
    print(f"\n{verdict.name.upper()}: {verdict.headline}")
    for line in verdict.evidence:
        print(f"  - {line}")
    print("next:")
    for line in verdict.advice:
        print(f"  - {line}")


def report_run(args):
    start = time.time()
    path = find_run(args.run, *((LATEST,) if args.last else (BEST, LATEST)))
    checkpoint = load_checkpoint(path)
    device = pick_device(args.device)
    set_up(device)
    model = from_checkpoint(checkpoint, path).eval().to(device)
    run = Run(str(path.parent))
    if not len(run.val[0]):
        raise UserError(f"{run.folder} has no evaluation yet; let the run go on to its first one")
    found = examine(run, checkpoint, model)
    train_steps, train_values = run.train
    curves = [("training", train_steps, smooth(train_values, len(train_values) // 50)), ("validation", *run.val)]
    samples = found["samples"]
    out = run.folder / "report.html"
    write_page(
        out,
        "run.html",
        **found,
        tiles=[
            (f"{found['val_loss']:.3f}", "validation loss, nats per token"),
            (f"{math.exp(found['val_loss']):,.1f}", "perplexity"),
            (f"{found['val_loss'] * found['nats_to_bits_per_character']:.3f}", "bits per character"),
            (format_number(found["epochs"]), "epochs"),
            (format_number(found["ratio"]), "tokens per parameter"),
            (format_time(found["seconds"]), "time of training"),
        ],
        known_of=KNOWN,
        shown=[samples[round(i)] for i in np.linspace(0, len(samples) - 1, min(len(samples), 5))],
        continuations=CONTINUATIONS,
        curve=chart(curves, found["baselines"], "step", "loss, nats per token"),
        context=chart(
            [("loss", *np.array(found["positions"]).T)],
            {"bigram": found["baselines"]["bigram"]},
            "tokens seen before",
            "loss, nats per token",
            log=True,
        ),
    )
    print_found(found)
    print(f"\nsaved {out} in {time.time() - start:.0f} s; open it in a browser")


def report_tokenizer(config):
    start = time.time()
    found = examine_tokenizer(config)
    tokens = [show(piece, "") | {"lines": [f"token {i:,}", f"bytes {piece.hex(' ')}"]} for i, piece in found["passage"]]
    out = config.tokens_dir / "tokenizer.html"
    write_page(out, "tokenizer.html", **found, tokens=tokens, show=lambda pieces: [show(p, "") for p in pieces])
    print(f"{found['name']}: {found['vocab_size']:,} tokens, {found['characters_per_token']:.3f} characters a token")
    for kind, ratio, pieces in found["kinds"]:
        print(f"  {kind:24} {ratio:.2f}  " + " | ".join(show(piece, "")["text"].strip("\n") for piece in pieces[:14]))
    if found["sizes"]:
        print("vocab_size  characters a token  characters a window  parameters  tokens seen fewer than 20 times")
    for row in found["sizes"]:
        print(
            f"{row['size']:10,} {row['characters_per_token']:19.3f} {row['window']:20.0f} {row['parameters']:11,}"
            f" {row['rare']:32.1%}"
        )
    print(f"\nsaved {out} in {time.time() - start:.0f} s; open it in a browser")


@reports_errors
def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", action="store_true", help="look at the tokenizer of a config instead")
    if "--tokenizer" in argv:
        config, _ = load_config(argv, parser)
        return report_tokenizer(config)
    parser.add_argument(
        "run", nargs="?", default="", help="a name under out/, a folder or a checkpoint [the most recent]"
    )
    parser.add_argument("--last", action="store_true", help="the latest weights, not those of the best validation loss")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    return report_run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
