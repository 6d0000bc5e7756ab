"""A trained GPT as a page for a browser: one file with its weights, its tokenizer, and what runs them."""

import base64
import hashlib
import json

from lib.errors import UserError
from lib.generation import Sampling
from lib.run.runs import LOG, run_name
from lib.storage import is_number, read_json, write_text
from lib.tokens.utf8 import TRANSITIONS
from tools.templates import load_template
from train_tokenizer import SPLITS, new_tokenizer

LARGEST_VOCABULARY = 60_000  # The page looks at all of it for each token.
LARGEST_PAGE = 200e6  # bytes
WORKER_KEYS = ("n_layer", "n_head", "n_kv_head", "n_embd", "head_size", "block_size", "norm_eps", "rope_theta")


def write_page(path, text_model, tensors, checkpoint, run_dir):
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
    description = {
        **{key: getattr(c, key) for key in WORKER_KEYS},
        "tensors": [(name, kind.name, model.get_parameter(name).numel()) for name, (_, kind) in tensors.items()],
        "splits": [split.replace(r"\"", '"') for split in SPLITS],  # JavaScript allows no needless backslash.
        "tokens": [piece.decode("latin-1") for piece in text_model.token_bytes[:n_tokens]],
        "merges": [(vocab[first], vocab[second]) for first, second in settings["model"]["merges"]],
        "special": {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()},
        "bos": text_model.bos,
        "eos": text_model.eos,
        "transitions": TRANSITIONS,
    }
    scripts = [load_template(name).render() for name in ("language.js", "model.js")]
    page = load_template("model.html").render(
        name=run_name(run_dir),
        n_parameters=sum(model.parameter_counts()),
        n_characters=characters_read(run_dir),
        vocab_size=n_tokens,
        config=c,
        steps=checkpoint["step"],
        val_loss=checkpoint["val_loss"] if is_number(checkpoint.get("val_loss")) else None,
        prompt=c.prompts.split("|")[0],
        sampling=Sampling(),
        description=description,
        weights=weights,
        script_hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    )
    write_text(path, page)


def splitting(settings):
    """All in a tokenizer.json that decides how a text is split, but for the merges."""
    model, words = settings["model"], [token["content"] for token in settings["added_tokens"] if not token["special"]]
    return settings["normalizer"], settings["pre_tokenizer"], model["type"], model.get("ignore_merges"), words


def characters_read(run_dir) -> int:
    """The length of the training text, 0 if the log of the run does not say."""
    try:
        return int(read_json(run_dir / LOG, "")["data"]["train"]["characters"])
    except (UserError, KeyError, TypeError, ValueError):
        return 0
