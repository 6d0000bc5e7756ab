"""A trained GPT as a page for a browser: one file with its weights, its tokenizer, and what runs them.

    python -m tools.page FILE       write a page anew that was written before

Reads   the model in FILE
Writes  FILE, with today's templates
"""

import base64
import contextlib
import hashlib
import json
import re
import sys

import torch

from config import ROOT
from lib.errors import ArgumentParser, UserError, file_to_write, reports_errors
from lib.generation import Sampling
from lib.run.runs import LOG, run_name
from lib.storage import is_number, read_json, read_text, write_text
from lib.tokens.memmap import Tokens
from lib.tokens.prepared import read_meta
from lib.tokens.utf8 import TRANSITIONS
from tools.templates import load_template
from train_tokenizer import SPLITS, new_tokenizer

LARGEST_VOCABULARY = 60_000  # The page looks at all of it for each token.
LARGEST_PAGE = 200e6  # bytes
SHAPE = ("n_layer", "n_head", "n_kv_head", "n_embd", "head_size", "block_size", "norm_eps", "rope_theta")


def write_page(path, text_model, tensors, checkpoint, run_dir, title=None):
    """Write the page. tensors: {name in model.py: (its bytes, its type)}, of types that model_worker.js decodes.

    Raises UserError if a browser could not run the model, or would split text in another way than the model knows.
    """
    model, c, tokenizer = text_model.model, text_model.model.config, text_model.tokenizer
    settings = json.loads(tokenizer.to_str())
    if splitting(settings) != splitting(json.loads(new_tokenizer().to_str())):
        raise UserError("a page splits text only as train_tokenizer.py does, this tokenizer does not; use --format=hf")
    vocab, n_tokens = settings["model"]["vocab"], tokenizer.get_vocab_size()
    if n_tokens > LARGEST_VOCABULARY:
        raise UserError(f"{n_tokens:,} tokens are too many for a page ({LARGEST_VOCABULARY:,}); use --format=gguf")
    weights = base64.b64encode(b"".join(data.tobytes() for data, _ in tensors.values())).decode()
    if len(weights) > LARGEST_PAGE:
        raise UserError(f"the page would be over {LARGEST_PAGE / 1e6:.0f} MB, too large to open; use --format=gguf")
    model_card = {
        "title": title or title_of(c.dataset) or run_name(run_dir),
        "dataset": c.dataset,
        "has_origin": bool(c.init_from),
        "n_parameters": sum(model.parameter_counts()),
        "n_characters": characters_read(run_dir),
        "steps": checkpoint["step"],
        "val_loss": checkpoint["val_loss"] if is_number(checkpoint.get("val_loss")) else None,
        "prompt": c.prompts.split("|")[0],
        "beginnings": beginnings(c, tokenizer),
        "sampling": vars(Sampling()),
    }
    description = {
        **{key: getattr(c, key) for key in SHAPE},
        "tensors": [(name, kind.name, model.get_parameter(name).numel()) for name, (_, kind) in tensors.items()],
        "splits": [split.replace(r"\"", '"') for split in SPLITS],  # JavaScript allows no needless backslash.
        "tokens": [piece.decode("latin-1") for piece in text_model.token_bytes[:n_tokens]],
        "merges": [(vocab[first], vocab[second]) for first, second in settings["model"]["merges"]],
        "special": {str(i): token.content for i, token in tokenizer.get_added_tokens_decoder().items()},
        "bos": text_model.bos,
        "eos": text_model.eos,
        "transitions": TRANSITIONS,
        "card": model_card,
    }
    write_text(path, render(description, weights))


def render(description, weights) -> str:
    """The page. description: what model_worker.js and model.html must know of the model."""
    scripts = [load_template(name).render() for name in ("language.js", "model.js")]
    return load_template("model.html").render(
        model=description,
        weights=weights,
        script_hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    )


def parts(page) -> tuple[dict, str]:
    """(description, weights) of a page that was written before. Raises UserError if it is none."""
    pattern = '<script type="{}" id="{}">(.*?)</script>'
    kinds = ("application/json", "description"), ("text/plain", "weights")
    found = [re.search(pattern.format(*kind), page, re.DOTALL) for kind in kinds]
    if not all(found):
        raise UserError("this is no page that tools.export --format=html has written")
    return json.loads(found[0][1]), found[1][1]


def splitting(settings):
    """All in a tokenizer.json that decides how a text is split, but for the merges."""
    model, words = settings["model"], [token["content"] for token in settings["added_tokens"] if not token["special"]]
    return settings["normalizer"], settings["pre_tokenizer"], model["type"], model.get("ignore_merges"), words


def title_of(dataset) -> str | None:
    """What the script in data/ calls its text."""
    with contextlib.suppress(OSError, UnicodeError):
        script = (ROOT / "data" / f"{dataset}.py").read_text(encoding="utf-8")
        found = re.search('^TITLE = "(.+)"$', script, re.M)
        return found and found[1]


def beginnings(config, tokenizer) -> list[str]:
    """Three beginnings of lines from the validation text; none if it is not here."""
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
        tokens = Tokens(config, read_meta(config.tokens_dir), "val", torch.device("cpu"))
        windows = tokens.windows(0)
        texts = (tokenizer.decode(ids.tolist()) for ids in tokens.blocks(windows[:: max(1, len(windows) // 9)]))
        found = (re.search(r"\n(\w{2,10})", text) for text in texts)
        return list(dict.fromkeys(match[1] for match in found if match))[:3]
    return []


def characters_read(run_dir) -> int:
    """The length of the training text, 0 if the log of the run does not say."""
    try:
        return int(read_json(run_dir / LOG, "")["data"]["train"]["characters"])
    except (UserError, KeyError, TypeError, ValueError):
        return 0


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("page", type=file_to_write, metavar="FILE", help="the page, in whose place the new one comes")
    path = parser.parse_args(argv).page
    write_text(path, render(*parts(read_text(path, "tools.export --format=html writes a page"))))
    print(f"saved {path}")


if __name__ == "__main__":
    sys.exit(main())
