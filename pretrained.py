"""What training can begin with instead of nothing: a published Qwen3 model, or an earlier run.

A Hugging Face folder holds config.json, tokenizer.json and *.safetensors. Nothing in it is executed.
"""

from errors import UserError

from pathlib import Path

from files import BEST, LATEST, check_tensors, find_run, load_checkpoint, read_json, read_text

REMEDY = "is the download complete?"


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


def find(init_from) -> Path:
    """The folder of a Hugging Face model, or the checkpoint of a run. Raises UserError."""
    folder = Path(init_from)
    if (folder / "config.json").exists():
        return folder
    try:
        return find_run(init_from, BEST, LATEST)
    except UserError as error:
        raise UserError(f"init_from: {error} (nor is it a folder with the config.json of a Qwen3 model)") from None


def read_settings(init_from) -> dict:
    """The keys of Config that the model decides: its shape and its special tokens."""
    path = find(init_from)
    if path.is_dir():
        theirs = read_json(path / "config.json", REMEDY)
        return _qwen3_shape(theirs, path / "config.json") | _qwen3_special_tokens(theirs, path)
    checkpoint = load_checkpoint(path)
    c = checkpoint["config"]
    keys = ("n_layer", "n_head", "n_kv_head", "n_embd", "rope_theta", "norm_eps", "tie_embeddings")
    settings = {key: getattr(c, key) for key in (*keys, "bos_token", "eos_token")}
    rows = len(checkpoint["model"]["embedding.weight"])
    return settings | {"head_dim": c.head_size, "intermediate_size": c.ffn_size, "vocab_size": rows}


def _qwen3_shape(theirs, path) -> dict:
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}  # of transformers 5, and before
    kinds = theirs.get("layer_types") or ["full_attention"]
    if not isinstance(rope, dict) or not isinstance(kinds, list):
        raise UserError(f"{path} is damaged (rope_parameters or layer_types); {REMEDY}")
    for field, value, supported in (
        ("model_type", theirs.get("model_type"), "qwen3"),
        ("hidden_act", theirs.get("hidden_act", "silu"), "silu"),
        ("attention_bias", theirs.get("attention_bias", False), False),
        ("use_sliding_window", theirs.get("use_sliding_window", False), False),
        ("layer_types", next((k for k in kinds if k != "full_attention"), "full_attention"), "full_attention"),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
        ("quantization_config", theirs.get("quantization_config"), None),
    ):
        if value != supported:
            raise UserError(
                f"{path}: {field} is {str(value)[:80]!r}, supported is {supported!r}: init_from takes dense Qwen3"
                " models, without quantization, sliding windows or scaled RoPE"
            )
    keys = {
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_kv_head": "num_key_value_heads",
        "n_embd": "hidden_size",
        "intermediate_size": "intermediate_size",
        "vocab_size": "vocab_size",
    }
    missing = [name for name in keys.values() if name not in theirs]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; {REMEDY}")
    # What a file leaves out has these values in transformers.
    return {ours: theirs[name] for ours, name in keys.items()} | {
        "head_dim": theirs.get("head_dim", 128),
        "rope_theta": rope.get("rope_theta", theirs.get("rope_theta", 10000.0)),
        "norm_eps": theirs.get("rms_norm_eps", 1e-6),
        "tie_embeddings": theirs.get("tie_word_embeddings", False),
    }


def _qwen3_special_tokens(theirs, folder) -> dict:
    """bos_token: what the tokenizer puts in front of a text. eos_token: what ends one."""
    path, named = folder / "tokenizer.json", folder / "tokenizer_config.json"
    settings = read_json(path, REMEDY)
    eos = read_json(named, REMEDY).get("eos_token") if named.exists() else None
    eos_ids = theirs.get("eos_token_id")
    try:
        if isinstance(eos, dict):
            eos = eos["content"]
        processor = settings["post_processor"] or {}
        templates = [p for p in processor.get("processors", [processor]) if p.get("type") == "TemplateProcessing"]
        bos = templates[0]["single"][0].get("SpecialToken", {}).get("id", "") if templates else ""
        if not eos:
            ids = eos_ids if isinstance(eos_ids, list) else [eos_ids]
            eos = next((token["content"] for token in settings["added_tokens"] if token["id"] in ids), "")
    except (KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"{path} is damaged (its post_processor or added_tokens); {REMEDY}") from None
    return {"bos_token": bos, "eos_token": eos}


def read_tokenizer(init_from) -> str:
    """The text of its tokenizer.json."""
    path = find(init_from)
    if path.is_dir():
        return read_text(path / "tokenizer.json", REMEDY)
    return load_checkpoint(path)["tokenizer"]


def load_weights(init_from, model):
    """Copy its weights, of whatever type, into the float32 ones of a GPT of its shape. Raises UserError."""
    import torch

    path = find(init_from)
    if not path.is_dir():
        weights = load_checkpoint(path)["model"]
        check_tensors(weights, model.state_dict(), path)
        model.load_state_dict(weights)
        return
    tensors = _open_tensors(path)
    state = model.state_dict()
    for ours, parts in layout(model.config, model.embedding.num_embeddings):
        pieces = []
        for name, rows in parts.items():
            if name not in tensors:
                raise UserError(f"{path}: {name} is missing from the weights; {REMEDY}")
            piece = tensors.pop(name).get_tensor(name)
            if piece.shape != (rows, *state[ours].shape[1:]) or not piece.is_floating_point():
                shape = " x ".join(map(str, (rows, *state[ours].shape[1:])))
                raise UserError(f"{path}: {name} is {list(piece.shape)} {piece.dtype}, config.json asks for {shape}")
            pieces.append(piece)
        state[ours].copy_(torch.cat(pieces))
        if not state[ours].isfinite().all():
            raise UserError(f"{path}: {ours} holds numbers that are not finite")
    tensors.pop("lm_head.weight", None)  # some write a tied one too
    if tensors:
        raise UserError(f"{path}: {min(tensors)} has no place in a dense Qwen3 model")


def _open_tensors(folder) -> dict:
    """Each tensor's name, and the open file that holds it; nothing is read yet."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        weight_map = read_json(index, REMEDY).get("weight_map")
        names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else [""]
    tensors = {}
    for name in names:
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise UserError(f"{path} does not exist (weights are read from *.safetensors only); {REMEDY}")
        try:
            file = safe_open(path, "pt")
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({error}); {REMEDY}") from None
        tensors |= dict.fromkeys(file.keys(), file)
    return tensors
