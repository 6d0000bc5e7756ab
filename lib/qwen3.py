"""The published form of our model, Qwen3: its names and shapes, both ways.

A Hugging Face folder holds config.json, tokenizer.json and *.safetensors. Nothing in it is executed. Training can begin
with such a model, or with an earlier run, instead of from nothing (init_from).
"""

import dataclasses
from pathlib import Path

import torch

from lib.errors import UserError
from lib.run.checkpoint import load_checkpoint, one_line_if_damaged
from lib.run.runs import BEST, LATEST, find_run
from lib.storage import read_json, read_text

DOWNLOAD_HINT = "is the download complete?"
QWEN3_NAMES = {  # the keys of Config that a config.json must set
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
}
SUPPORTED = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "layer_types": ["full_attention"],
    "rope_type": "default",
    "quantization_config": None,
}


def layout(config, vocab_size):
    """Yield (name here, {name in Qwen3: rows}): a weight here holds those of Qwen3, one below another."""
    width, size = config.n_embd, config.head_size
    inner = {
        "attn_norm": {"input_layernorm": width},
        "attn.qkv": {
            "self_attn.q_proj": config.n_head * size,
            "self_attn.k_proj": config.n_kv_head * size,
            "self_attn.v_proj": config.n_kv_head * size,
        },
        "attn.q_norm": {"self_attn.q_norm": size},
        "attn.k_norm": {"self_attn.k_norm": size},
        "attn.proj": {"self_attn.o_proj": width},
        "mlp_norm": {"post_attention_layernorm": width},
        "mlp.gate_up": {"mlp.gate_proj": config.ffn_size, "mlp.up_proj": config.ffn_size},
        "mlp.proj": {"mlp.down_proj": width},
    }
    yield "embedding.weight", {"model.embed_tokens.weight": vocab_size}
    for i in range(config.n_layer):
        for name, parts in inner.items():
            theirs = {f"model.layers.{i}.{part}.weight": rows for part, rows in parts.items()}
            yield f"blocks.{i}.{name}.weight", theirs
    yield "norm.weight", {"model.norm.weight": width}
    if not config.tie_embeddings:
        yield "lm_head.weight", {"lm_head.weight": vocab_size}


def to_qwen3(model) -> dict:
    """The weights under the names that Qwen3ForCausalLM has for them, (rows, columns), float32."""
    state, tensors = model.state_dict(), {}
    for name, parts in layout(model.config, model.embedding.num_embeddings):
        tensors |= zip(parts, state[name].split(list(parts.values())), strict=True)
    return tensors


# --- init_from: what training can begin with


def find(init_from) -> Path:
    """The folder of a Hugging Face model, or the checkpoint of a run. Raises UserError."""
    folder = Path(init_from)
    if (folder / "config.json").exists():
        return folder
    try:
        return find_run(init_from, BEST, LATEST)
    except UserError as error:
        raise UserError(f"init_from: {error} (nor is it a folder with the config.json of a Qwen3 model)") from None


def with_shape_of_init(config, given):
    """The config with the shape and the special tokens of the model in init_from; as it is if there is none.

    given: {key: where the user has set it}. Raises UserError if the user has asked for another shape.
    """
    if not config.init_from:
        return config
    settings = read_settings(config.init_from)
    for key, value in settings.items():
        wanted = getattr(config, key)
        if key in given and key.endswith("_token"):
            settings[key] = wanted
        elif key in given and key != "vocab_size" and wanted != value:
            raise UserError(f"{given[key]}: {wanted}, but {config.init_from} has {value}; leave it out")
    try:
        return dataclasses.replace(config, **settings)
    except ValueError as error:
        raise UserError(f"init_from={config.init_from}: {error}") from None


def read_settings(init_from) -> dict:
    """The keys of Config that the model decides: its shape and its special tokens."""
    path = find(init_from)
    if path.is_dir():
        theirs = read_json(path / "config.json", DOWNLOAD_HINT)
        return _shape(theirs, path / "config.json") | _special_tokens(theirs, path)
    checkpoint = load_checkpoint(path)
    c = checkpoint["config"]
    keys = ("n_layer", "n_head", "n_kv_head", "n_embd", "rope_theta", "norm_eps", "tie_embeddings")
    settings = {key: getattr(c, key) for key in (*keys, "bos_token", "eos_token")}
    with one_line_if_damaged(path):
        rows = len(checkpoint["model"]["embedding.weight"])
    return settings | {"head_dim": c.head_size, "intermediate_size": c.ffn_size, "vocab_size": rows}


def _shape(theirs, path) -> dict:
    with one_line_if_damaged(path, DOWNLOAD_HINT):
        rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}  # of transformers 5, and before
        found = {field: theirs.get(field, supported) for field, supported in SUPPORTED.items()}
        found["model_type"] = theirs["model_type"]
        found["layer_types"] = sorted(set(theirs.get("layer_types") or SUPPORTED["layer_types"]))
        found["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
        for field, supported in SUPPORTED.items():
            if found[field] != supported:
                raise UserError(
                    f"{path}: {field} is {str(found[field])[:80]!r}, supported is {supported!r}: init_from takes dense"
                    " Qwen3 models, without quantization, sliding windows or scaled RoPE"
                )
        # What a file leaves out has these values in transformers.
        return {ours: theirs[name] for ours, name in QWEN3_NAMES.items()} | {
            "head_dim": theirs.get("head_dim", 128),
            "rope_theta": float(rope.get("rope_theta", theirs.get("rope_theta", 10000.0))),
            "norm_eps": float(theirs.get("rms_norm_eps", 1e-6)),
            "tie_embeddings": theirs.get("tie_word_embeddings", False),
        }


def _special_tokens(theirs, folder) -> dict:
    """bos_token: what the tokenizer puts in front of a text. eos_token: what ends one."""
    path, named = folder / "tokenizer.json", folder / "tokenizer_config.json"
    settings = read_json(path, DOWNLOAD_HINT)
    eos = read_json(named, DOWNLOAD_HINT).get("eos_token") if named.exists() else None
    with one_line_if_damaged(path, DOWNLOAD_HINT):
        eos = eos["content"] if isinstance(eos, dict) else eos
        processor = settings["post_processor"] or {}
        templates = [p for p in processor.get("processors", [processor]) if p.get("type") == "TemplateProcessing"]
        bos = templates[0]["single"][0].get("SpecialToken", {}).get("id", "") if templates else ""
        if not eos:
            ids = theirs.get("eos_token_id")
            ids = ids if isinstance(ids, list) else [ids]
            eos = next((token["content"] for token in settings["added_tokens"] if token["id"] in ids), "")
    return {"bos_token": bos, "eos_token": eos}


def read_tokenizer(init_from) -> str:
    """The text of its tokenizer.json."""
    path = find(init_from)
    if path.is_dir():
        return read_text(path / "tokenizer.json", DOWNLOAD_HINT)
    return load_checkpoint(path)["tokenizer"]


def load_weights(init_from, model, tokenizer_json):
    """Copy its weights, of whatever type, into the float32 ones of a GPT of its shape. Raises UserError.

    tokenizer_json: of the tokens that are trained on, which must be its own.
    """
    path = find(init_from)
    if read_tokenizer(init_from) != tokenizer_json:
        raise UserError(f"the tokens were made with another tokenizer than {init_from} has; run prepare.py again")
    if not path.is_dir():
        weights = load_checkpoint(path)["model"]
        with one_line_if_damaged(path):
            model.load_state_dict(weights)
        return
    tensors = _open_tensors(path)
    state = model.state_dict()
    for ours, parts in layout(model.config, model.embedding.num_embeddings):
        pieces = []
        for name, rows in parts.items():
            with one_line_if_damaged(path, DOWNLOAD_HINT):
                pieces.append(tensors.pop(name).get_tensor(name))
            shape, found = (rows, *state[ours].shape[1:]), pieces[-1]
            if found.shape != shape or not found.is_floating_point():
                raise UserError(f"{path}: {name} is {[*found.shape]} {found.dtype}, config.json asks for {[*shape]}")
        state[ours].copy_(torch.cat(pieces))
    tensors.pop("lm_head.weight", None)  # Some write a tied one too.
    if tensors:
        raise UserError(f"{path}: {min(tensors)} has no place in a dense Qwen3 model")


def _open_tensors(folder) -> dict:
    """Each tensor's name, and the open file that holds it; nothing is read yet."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        with one_line_if_damaged(index, DOWNLOAD_HINT):
            names = sorted(set(read_json(index, DOWNLOAD_HINT)["weight_map"].values()))
    tensors = {}
    for name in names:
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise UserError(f"{path} does not exist (weights are read from *.safetensors only); {DOWNLOAD_HINT}")
        with one_line_if_damaged(path, DOWNLOAD_HINT):
            file = safe_open(path, "pt")
            tensors |= dict.fromkeys(file.keys(), file)
    return tensors
